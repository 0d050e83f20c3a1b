"""Dense optical flow by RAFT, the finer engine: torchvision's networks with weights from a safetensors file.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (arXiv 2003.12039); Stable Video
Diffusion filters its last stage's clips with it, at 800x450. Unit: as in models/measures/flow.py, pixels of the size in
which the flow is returned.
"""

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import BadModel
from models.measures.flow import Flow, choose_flow_size
from models.pictures import from_pixels
from models.weights.hub_cache import read_weights
from models.weights.kept import kept_in_memory

LEAST_SIDE = 128
"""The least side of a picture for RAFT, whose coarsest comparison is at an eighth of an eighth of its size."""

_RUNNING = threading.Lock()

Frame = NDArray[np.uint8]


def measure_raft_flow(weights: Path, before: Frame, after: Frame, short_side: int = 450) -> Flow:
    """Measure the flow between two uint8 RGB frames of one size at `short_side` pixels; return it, [height, width, 2],
    in pixels of the size in which flow is measured (models/measures/flow.py's `choose_flow_size`).

    Raises BadModel when the weights are not RAFT's.
    """
    import torch

    height, width = before.shape[:2]
    scale = max(short_side, LEAST_SIDE) / min(height, width)
    seen_size = (_round_to_eighths(width * scale), _round_to_eighths(height * scale))
    network = load_raft(weights)
    with _RUNNING, torch.no_grad():
        found = network(_prepare_frame(before, seen_size), _prepare_frame(after, seen_size))[-1][0]
    flow = found.permute(1, 2, 0).cpu().numpy()
    size = choose_flow_size(height, width)
    ratio = np.array(size, np.float32) / np.array(seen_size, np.float32)
    return cv2.resize(flow, size, interpolation=cv2.INTER_AREA).astype(np.float32) * ratio


@kept_in_memory()
def load_raft(weights: Path) -> Any:
    """Load torchvision's raft_small or raft_large, whichever the weights in a safetensors file fit, and keep it in
    memory while the file is unchanged; raises BadModel when they fit neither."""
    from torchvision.models.optical_flow import raft_large, raft_small

    from models.device import find_device

    tensors = read_weights(weights)
    first = tensors.get("feature_encoder.convnormrelu.0.weight")
    make = raft_small if first is not None and first.shape[0] == 32 else raft_large
    network = make(weights=None, progress=False)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadModel(f"{weights}: not the weights of torchvision's RAFT ({reason}). See docs/weights.md.") from error
    return network.eval().requires_grad_(False).to(find_device("auto"))


def _prepare_frame(frame: Frame, size: tuple[int, int]) -> Any:
    """Return a frame as RAFT takes it: [1, 3, height, width] in -1..1."""
    import torch

    from models.device import find_device

    shrinks = size[0] < frame.shape[1]
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return from_pixels(torch.from_numpy(resized).permute(2, 0, 1)[None].to(find_device("auto")))


def _round_to_eighths(length: float) -> int:
    return max(round(length / 8) * 8, LEAST_SIDE)
