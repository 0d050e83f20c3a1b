"""Windows: the frames of a clip that a model is trained on, at the model's length, rate and size.

Read in a child process, so nothing here loads torch.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from models.errors import BadMedia
from models.pictures import Frames
from tasks.media.canonical_picture import COMBED, make_picture, measure_combing, read_pixel_aspect
from tasks.media.video import decode_span, open_video

GRACE_S = 1e-6
"""A start in float seconds may round to just before the frame it names."""

COMBING_FRAMES = 25
"""Frames that are looked at for combs where nobody did before."""


class Seen(NamedTuple):
    """What is known of a clip's picture: the number of its stream, whether it is combed (None: nobody looked), and its
    black bars in pixels of the canonical picture: (top, bottom, left, right)."""

    stream: int | None = None
    combed: bool | None = None
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)

    def crop(self, picture: Frames) -> Frames:
        """Return a picture [height, width, 3] without the bars."""
        top, bottom, left, right = self.bars
        return picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]


SEEN_WHOLE = Seen()

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


def _is_combed(container: InputContainer, stream: VideoStream, span_s: tuple[float, float]) -> bool:
    """Return whether a span is combed, by its first frames that show it; the file is at its beginning again after."""
    frames = (frame for _, frame in islice(decode_span(container, stream, *span_s), COMBING_FRAMES))
    found = [combing for pair in pairwise(frames) if (combing := measure_combing(*pair)) is not None]
    container.seek(stream.start_time or 0, stream=stream)
    return bool(found) and float(np.mean(np.array(found) >= COMBED)) >= COMBED


def read_windows(
    source: Path,
    starts: Sequence[float],
    span_s: tuple[float, float],
    item: str,
    shape: WindowShape,
    demuxer: str | None = None,
    seen: Seen = SEEN_WHOLE,
) -> list[Frames]:
    """Read the windows of a clip that begin at `starts` (s), within `span_s` of its source: their frames, uint8 RGB.

    `item` names the clip in messages, `demuxer` is the one that probing the source found, `seen` is what is known of
    its picture. Raises BadMedia when the clip cannot be read.
    """
    wanted = [start + i / shape.fps for start in starts for i in range(shape.frames)]
    with open_video(source, demuxer=demuxer, number=seen.stream) as (container, stream):
        aspect = read_pixel_aspect(stream)
        combed = _is_combed(container, stream, span_s) if seen.combed is None else seen.combed
        shown = pick_shown(
            decode_span(container, stream, *span_s),
            wanted,
            lambda frame: cover(seen.crop(make_picture(frame, aspect, combed=combed)), shape.width, shape.height),
        )
    if not shown:
        raise BadMedia(f"{item}: no frame is shown there.")
    return [np.stack(shown[i * shape.frames : (i + 1) * shape.frames]) for i in range(len(starts))]
