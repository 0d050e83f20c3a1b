"""Thinning: signals of at most about 30 frames a second, for what takes time to happen.

A dissolve, a fade or a wipe looks the same at 480 frames a second as at 30, so its detectors look at no more: their
cost grows with the length of a film and not with its frame rate, and a threshold in frames means the same everywhere.
Hard cuts are found at the native rate.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tasks.detectors.boundary import Boundary, choose_frames
from tasks.media.signals import Signals

RATE = 30.5
"""Frames per second, at most: 30 and NTSC's 29.97 are left as they are, with the rounding of their times."""

Indices = NDArray[np.intp]


def choose_thinned(seconds: NDArray[np.floating]) -> Indices:
    """Return the indices of the frames that are left: all up to RATE, else every second, third, ... by their times."""
    if len(seconds) < 2:
        return np.arange(len(seconds))
    native = 1 / max(float(np.median(np.diff(seconds))), 1e-6)
    step = ceil(native / RATE)
    return choose_frames(seconds, native / step) if step > 1 else np.arange(len(seconds))


def take_frames(signals: Signals, frames: Indices | slice) -> Signals:
    """Return the signals of some frames; their `change` stays that from the frame before in the film."""
    return Signals(*(getattr(signals, name)[frames] for name in Signals.__dataclass_fields__))


def thin_boundaries(boundaries: Iterable[Boundary], kept: Indices) -> list[Boundary]:
    """Return boundaries of the film as those between the `kept` frames."""
    return [
        replace(b, start=int(np.searchsorted(kept, b.start)), end=int(np.searchsorted(kept, b.end))) for b in boundaries
    ]


def widen_boundary(boundary: Boundary, kept: Indices, frames: int, taken: Iterable[Boundary]) -> Boundary:
    """Return a gradual boundary between `kept` frames as one of the film with so many frames: from the first frame
    after the one shot's last kept one, up to the other shot's first, outside other gradual ones that are `taken`."""
    start = int(kept[boundary.start - 1]) + 1 if boundary.start else 0
    end = int(kept[boundary.end]) if boundary.end < len(kept) else frames
    start = max([start, *(b.end for b in taken if b.kind != "cut" and b.start <= start < b.end)])
    return replace(boundary, start=start, end=max(start, end))
