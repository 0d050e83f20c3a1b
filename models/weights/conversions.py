"""Weights that are published in a format that Reelmill does not read: their addresses, by the name of the safetensors
file made from them, and the command that downloads and converts them.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

PUBLISHED: Mapping[str, str] = {
    "craft.safetensors": "https://github.com/JaidedAI/EasyOCR/releases/download/pre-v1.1.6/craft_mlt_25k.zip",
    "raft_large.safetensors": "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
    "aesthetic.safetensors": "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
}
"""Addresses by file name: CRAFT as easyocr publishes it, torchvision's RAFT, and LAION's aesthetic head for
ViT-L/14."""

CONVERSION = (
    "import sys, torch.hub, safetensors.torch as s; "
    'w = torch.hub.load_state_dict_from_url(sys.argv[1], map_location="cpu", weights_only=True); '
    "s.save_file({n: t.contiguous().clone() for n, t in w.items()}, sys.argv[2])"
)
"""`weights_only` refuses a pickle with anything but tensors. A person runs this; no flow does."""


def make_download_command(path: Path) -> str | None:
    """Return the shell command that downloads the weights that belong at `path` and writes them there; None when their
    name is not known."""
    address = PUBLISHED.get(path.name)
    if address is None:
        return None
    made = [sys.executable, "-c", CONVERSION, address, str(path)]
    return f"mkdir -p {shlex.quote(str(path.parent))} && {shlex.join(made)}"
