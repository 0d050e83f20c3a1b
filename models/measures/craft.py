"""Boxes of the text in a picture, by CRAFT: four corners each, from easyocr's own network and box functions.

Source: Baek et al., "Character Region Awareness for Text Detection" (arXiv 1904.01941), the detector of Stable Video
Diffusion's curation. easyocr's Reader unpickles its weights; here they come from a safetensors file with the same
tensor names, with or without the prefix `module.` of its training.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import BadModel
from models.weights.hub_cache import read_weights
from models.weights.kept import kept_in_memory

_RUNNING = threading.Lock()


def find_craft_boxes(
    weights: Path,
    pictures: NDArray[np.uint8],
    canvas_side: int = 1280,
    text_threshold: float = 0.7,
    link_threshold: float = 0.4,
    low_text: float = 0.4,
) -> list[NDArray[np.float32]]:
    """Find the corners [boxes, 4, 2], (x, y) in pixels, of the text in each picture, uint8 RGB [pictures, height,
    width, 3].

    A picture's long side is shrunk to `canvas_side`. A box has a pixel whose text score, 0 to 1, is above
    `text_threshold`. It extends as far as this score is above `low_text`, or the score for links between letters is
    above `link_threshold`. Raises BadModel when the weights are not CRAFT's.
    """
    from easyocr.detection import test_net

    from models.device import find_device

    network, device = load_craft(weights), str(find_device("auto"))
    with _RUNNING:
        found, _ = test_net(
            canvas_side, 1.0, network, pictures, text_threshold, link_threshold, low_text, False, device
        )
    return [np.asarray(boxes, np.float32).reshape(-1, 4, 2) for boxes in found]


@kept_in_memory()
def load_craft(weights: Path) -> Any:
    """Load CRAFT as easyocr builds it, with the weights of a safetensors file, and keep it in memory while the file is
    unchanged; raises BadModel when they do not fit."""
    from easyocr.craft import CRAFT

    from models.device import find_device

    tensors = {name.removeprefix("module."): tensor for name, tensor in read_weights(weights).items()}
    network = CRAFT()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadModel(f"{weights}: not the weights of CRAFT ({reason}). See docs/weights.md.") from error
    return network.eval().requires_grad_(False).to(find_device("auto"))
