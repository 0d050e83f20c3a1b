"""From decoded frames to signals: Y, U and V read as they lie in memory, shrunk by area, compared; and their course.

Luma is 0 (black) to 255 (white), chroma -128 to 128, whatever range the video is coded in. At 720p a frame costs some
0.3 ms this way; through swscale to RGB it costs ten times as much.
"""

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Planes = list[NDArray[np.float32]]

PLANES_OF_8_BITS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Formats whose planes are read directly; every other one goes through swscale, which shrinks it on the way."""

SHORT_SIDES = (64, 32, 32)
"""About how many pixels are left of each plane's short side."""

HELD = 0.1
"""A frame that changes by less than this share of another's change is held in comparison: drawings are shown for two or
three frames each, and slow footage repeats frames."""

REACH = 3
"""How many frames are looked through for each neighbour that is not held."""

FULL_RANGE = 2
"""libav's AVCOL_RANGE_JPEG: black is 0, not 16."""


def small_planes(frame: VideoFrame) -> Planes:
    """The frame's Y, U and V shrunk to short sides of about 64, 32 and 32, in the units above."""
    if frame.format.name not in PLANES_OF_8_BITS or frame.planes[0].line_size <= 0:
        frame = _small_yuv(frame)
    full_range = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    shrunk = [
        shrink(
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width], side
        )
        for plane, side in zip(frame.planes, SHORT_SIDES, strict=True)
    ]
    return stretch(shrunk, full_range)


def shrink(plane: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """Shrink a plane by area, by the whole factor that leaves at least `short_side`; what is over at the right and
    below is left out, because OpenCV is five times faster at whole factors."""
    factor = max(1, min(plane.shape) // short_side)
    height, width = (side // factor for side in plane.shape)
    whole = plane[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def stretch(planes: list[NDArray[np.uint8]], full_range: bool) -> Planes:
    """Planes as coded in the units above: studio range has 219 steps of luma from 16, and 224 of chroma (BT.601)."""
    black, luma, chroma = (0.0, 1.0, 1.0) if full_range else (16.0, 255 / 219, 255 / 224)
    y, u, v = (plane.astype(np.float32) for plane in planes)
    return [np.clip((y - black) * luma, 0, 255), (u - 128) * chroma, (v - 128) * chroma]


def difference(a: Planes, b: Planes) -> float:
    """Mean over the three planes of their mean absolute difference, 0 to 255; raises ValueError on unequal sizes."""
    return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))


def neighbours(side: NDArray[np.floating], change: float, window: int) -> NDArray[np.floating]:
    """The changes of the `window` nearest frames on one side that are not held, as if none were held.

    `side` are the changes from the nearest frame outwards, `change` the one they are to be compared with; zeros stand
    for frames that are not there.
    """
    near = side[: window * REACH]
    moving = near[near >= HELD * change][:window]
    return np.pad(moving, (0, window - len(moving)))


def _small_yuv(frame: VideoFrame) -> VideoFrame:
    factor = max(1, min(frame.width, frame.height) // SHORT_SIDES[0])
    return frame.reformat(
        width=max(2, frame.width // factor),
        height=max(2, frame.height // factor),
        format="yuv420p",
        interpolation="AREA",
        src_color_range=frame.color_range or None,
        dst_color_range="MPEG",
    )
