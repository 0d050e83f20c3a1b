"""Dense optical flow between two pictures: Farneback's, on top of the motion of the picture as a whole.

Unit: pixels of the pictures given; the pixel at (x, y) of the first picture is at (x, y) + flow[y, x] in the second.
Source: Farneback, "Two-frame motion estimation based on polynomial expansion" (2003), as in OpenCV. The pictures are
aligned as a whole first, so that large shifts are found and a pixel without texture moves with its surroundings.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.measures.alignment import Gray, align, is_inside, make_positions, move_back

Flow = NDArray[np.float32]

SHORT_SIDE = 128
"""Pictures are resized to this short side first: the same ranking as at full resolution, at a tenth of its cost."""

LONGEST_SIDE = 2048
"""A picture that is very long is measured in fewer pixels, so that it takes no longer than others."""

MARGIN = 12
"""Pixels by which pictures are extended on each side for the flow."""


def farneback(before: Gray, after: Gray) -> Flow:
    """Measure optical flow [height, width, 2] in pixels from `before` to `after`, gray uint8 pictures of one size.

    Shifts up to half of the short side, magnifications up to 1.6 and turns up to 30 degrees are found. Where the
    second picture no longer shows a pixel, its flow is that of the picture as a whole.
    """
    alignment = align(before, after)
    brought, seen = move_back(after, alignment)
    rest = _farneback(before, brought)
    points = make_positions(*before.shape)
    moved = points + np.where(seen, rest[..., 0] + 1j * rest[..., 1], 0)
    moves = alignment.apply(moved) - points
    return np.stack([moves.real, moves.imag], axis=-1).astype(np.float32)


def choose_flow_size(height: int, width: int) -> tuple[int, int]:
    """Return the (width, height) in which flow is measured, with the short side at SHORT_SIDE, or less where the long
    one would exceed LONGEST_SIDE."""
    scale = min(SHORT_SIDE / min(height, width), LONGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _farneback(before: Gray, after: Gray) -> Flow:
    """Measure OpenCV's flow with the pictures mirrored past their borders, where it finds motion even in a still."""
    first, second = (np.pad(picture, MARGIN, mode="reflect") for picture in (before, after))
    flow = cv2.calcOpticalFlowFarneback(
        first,
        second,
        np.zeros((*first.shape, 2), np.float32),
        pyr_scale=0.5,
        levels=4,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=cv2.OPTFLOW_FARNEBACK_GAUSSIAN,
    )
    return flow[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32, copy=False)


def stays_inside(flow: Flow) -> NDArray[np.bool_]:
    """Say which pixels [height, width] are still in the picture after the flow; the others were seen only once."""
    return is_inside(make_positions(*flow.shape[:2]) + flow[..., 0] + 1j * flow[..., 1])
