"""Windows: the frames of a clip that a model is trained on, at the model's length, rate and size.

Read in a child process, so nothing here loads torch.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import BadMedia
from models.pictures import Frames
from tasks.video import make_upright, read_frames

GRACE_S = 1e-6
"""A start in float seconds may round to just before the frame it names."""

T = TypeVar("T")
R = TypeVar("R")


class WindowShape(NamedTuple):
    """How many frames a window has, how many of them a second, and their size in pixels."""

    frames: int
    fps: float
    width: int
    height: int


def place_windows(start_s: float, end_s: float, frames: int, fps: float, at_most: int) -> list[float]:
    """Return the start times, in seconds, of up to `at_most` windows of `frames` frames that fit a span without
    overlapping, spread evenly over it; none when the span is too short."""
    length = frames / fps
    # Half a frame of slack: the last frame of a window is still shown when the next would come.
    count = min(at_most, int((end_s - start_s + 0.5 / fps) / length))
    if count < 1:
        return []
    slack = max(end_s - start_s - count * length, 0.0)
    return [start_s + i * length + slack * (i + 0.5) / count for i in range(count)]


def pick_shown(
    frames: Iterable[tuple[Fraction | float, T]], wanted: Sequence[float], make: Callable[[T], R]
) -> list[R]:
    """Return what `make` makes of the frame shown at each of the rising times `wanted`: of frames with rising times the
    last one at or before it, else the first. Only what is made is held."""
    shown: list[R] = []
    graced = [time + GRACE_S for time in wanted]
    for (_, frame), (after, _) in pairwise(chain(frames, [(math.inf, None)])):
        count = bisect_left(graced, float(after)) - len(shown)
        if count:
            shown += [make(cast(T, frame))] * count
    return shown


def cover(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Shrink or enlarge RGB [h, w, 3] to cover width x height, then crop the middle."""
    h, w = frame.shape[:2]
    scale = max(width / w, height / h)
    size = (max(width, round(w * scale)), max(height, round(h * scale)))
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return resized[top : top + height, left : left + width].astype(np.uint8, copy=False)


def read_windows(
    source: Path, starts: Sequence[float], span_s: tuple[float, float], item: str, shape: WindowShape,
    demuxer: str | None = None,
) -> list[Frames]:  # fmt: skip
    """Read the windows of a clip that begin at `starts` (s), within `span_s` of its source: their frames, uint8 RGB.

    `item` names the clip in messages, `demuxer` is the one that probing the source found. Raises BadMedia when the clip
    cannot be read.
    """
    wanted = [start + i / shape.fps for start in starts for i in range(shape.frames)]
    shown = pick_shown(
        read_frames(source, *span_s, demuxer),
        wanted,
        lambda frame: cover(make_upright(frame), shape.width, shape.height),
    )
    if not shown:
        raise BadMedia(f"{item}: no frame is shown there.")
    return [np.stack(shown[i * shape.frames : (i + 1) * shape.frames]) for i in range(len(starts))]
