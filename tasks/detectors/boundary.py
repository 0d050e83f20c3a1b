"""The boundaries that detectors find, and how detectors compare the small pictures of a scan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.media.signals import THUMBNAIL_SIZES

Floats = NDArray[np.floating]
FrameSpan = tuple[int, int]
"""Frame indices [start, end), the end excluded."""

BoundaryKind = Literal["start", "cut", "dissolve", "fade", "wipe", "gap", "clock", "size", "end"]
"""What divides shots; `start` and `end` are those of the video. At a `gap` nothing was recorded for a while, at `clock`
the video's clock jumps back, at `size` its picture's size changes: these are seen in its times and sizes."""

LUMA = THUMBNAIL_SIZES[0][0] * THUMBNAIL_SIZES[0][1]
"""The number of luma values of a thumbnail; they come first."""

_CHROMA = sum(width * height for width, height in THUMBNAIL_SIZES[1:])

WEIGHTS = np.concatenate([np.full(LUMA, 0.5 / LUMA), np.full(_CHROMA, 0.5 / _CHROMA)]).astype(np.float32)
"""The weight of each value of a thumbnail in a comparison: luma half, chroma half."""


@dataclass(frozen=True, order=True)
class Boundary:
    """The frames [start, end) that belong to both shots or to none. A cut has no frames; the next shot begins at
    `start`."""

    start: int
    end: int
    kind: BoundaryKind


def measure_distance(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Return the weighted mean absolute difference, 0 to 255, of thumbnails [..., values]."""
    return np.abs(a.astype(np.float32) - b) @ WEIGHTS


def list_spans_between(boundaries: Iterable[Boundary], frames: int) -> list[FrameSpan]:
    """Return the spans of frames between the boundaries, in order of time."""
    edges = [0, *(edge for b in sorted(boundaries) for edge in (b.start, b.end)), frames]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def choose_frames(seconds: Floats, rate: float) -> NDArray[np.intp]:
    """Return the indices of the frames that are shown `rate` times a second, each once; `seconds` are their times."""
    # A frame whose time is the tick's, but for the last digits, is the one shown.
    ticks = np.arange(seconds[0], seconds[-1] + 1 / rate, 1 / rate) + 1e-3 / rate
    return np.unique(np.searchsorted(seconds, ticks, side="right") - 1).clip(0)


def drop_overlaps(found: Sequence[tuple[float, Boundary]]) -> list[Boundary]:
    """Return the scored boundaries that overlap none of a higher score, in order of time."""
    kept: list[Boundary] = []
    for _, boundary in sorted(found, key=lambda scored: (-scored[0], scored[1])):
        if all(boundary.end <= other.start or other.end <= boundary.start for other in kept):
            kept.append(boundary)
    return sorted(kept)
