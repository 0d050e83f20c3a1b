"""From decoded frames to signals: Y, U and V are read directly from memory, shrunk by area and compared.

Luma is 0 (black) to 255 (white), chroma -128 to 128, in whatever range the video is coded. At 720p a frame takes about
0.2 ms this way, and ten times as long through swscale to RGB.

A frame's signals are its `change` to the frame before (mean absolute difference, the mean of the three planes', 0 to
255; 0 for the first frame and for one of another size), its mean `luma`, the `deviation` of luma, its `detail` (mean
square of luma less its mean over 5x5 pixels) and a `thumbnail`: the planes shrunk to THUMBNAIL_SIZES, one byte a value,
128 added to chroma.
"""

import math
from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tasks.media.canonical_picture import FrameKind, convert_colours, read_frame_kind

Planes = list[NDArray[np.float32]]

PLANES_OF_8_BITS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Formats whose planes are read directly; all others are shrunk by swscale."""

SHORT_SIDES = (64, 32, 32)
"""The least number of pixels of each shrunk plane's short side; the most is twice as many."""

BT709_LUMA = (0.2126, 0.7152, 0.0722)
"""The shares of red, green and blue in luma (ITU-R BT.709)."""

THUMBNAIL_SIZES = ((16, 12), (8, 6), (8, 6))
"""The width and height of each plane of a thumbnail, for pictures of every shape."""

THUMBNAIL_BYTES = sum(width * height for width, height in THUMBNAIL_SIZES)

HELD = 0.1
"""A frame whose change is less than this share of another frame's change is held: drawings are shown for two or three
frames each, and slow footage repeats frames."""

REACH = 3
"""How many frames are searched for each neighbour that is not held."""


@dataclass(frozen=True)
class Signals:
    """The signals of all frames of a video, arrays [frames]; `thumbnails` is uint8 [frames, THUMBNAIL_BYTES], and
    `seconds` are the times at which the frames are shown."""

    seconds: NDArray[np.floating]
    change: NDArray[np.floating]
    luma: NDArray[np.floating]
    deviation: NDArray[np.floating]
    detail: NDArray[np.floating]
    thumbnails: NDArray[np.uint8]


COLUMNS = ("pts", "change", "luma", "deviation", "detail", "thumbnails")
"""The names of the signals of a `Recorder`."""


def make_signals(columns: dict[str, Any], time_base: Fraction) -> Signals:
    """Return the signals from the COLUMNS of a recorder, directly or as read from a manifest."""
    change, luma, deviation, detail = (np.asarray(columns[name], np.float32) for name in COLUMNS[1:5])
    thumbnails = np.frombuffer(columns["thumbnails"], np.uint8).reshape(-1, THUMBNAIL_BYTES)
    seconds = np.asarray(columns["pts"], np.int64) * float(time_base)
    return Signals(seconds, change, luma, deviation, detail, thumbnails)


@dataclass
class Recorder:
    """The signals of all frames so far: about 320 bytes each, and the planes of the last frame."""

    pts: "array[int]" = field(default_factory=lambda: array("q"))
    change: "array[float]" = field(default_factory=lambda: array("f"))
    luma: "array[float]" = field(default_factory=lambda: array("f"))
    deviation: "array[float]" = field(default_factory=lambda: array("f"))
    detail: "array[float]" = field(default_factory=lambda: array("f"))
    thumbnails: bytearray = field(default_factory=bytearray)
    _before: Planes | None = None

    def add(self, pts: int, planes: Planes) -> None:
        """Measure the next frame and compare it with the one before."""
        mean, deviation = cv2.meanStdDev(planes[0])
        self.pts.append(pts)
        same_size = self._before is not None and planes[0].shape == self._before[0].shape
        self.change.append(measure_difference(planes, self._before) if self._before and same_size else 0.0)
        self.luma.append(float(mean[0, 0]))
        self.deviation.append(float(deviation[0, 0]))
        self.detail.append(measure_detail(planes[0]))
        self.thumbnails += make_thumbnail(planes)
        self._before = planes

    def read_last_luma(self) -> NDArray[np.uint8]:
        """Return the luma values of the last frame's thumbnail."""
        width, height = THUMBNAIL_SIZES[0]
        start = len(self.thumbnails) - THUMBNAIL_BYTES
        return np.frombuffer(bytes(self.thumbnails[start : start + width * height]), np.uint8)

    def columns(self) -> dict[str, Any]:
        """Return the signals by name: arrays [frames], and the thumbnails as bytes."""
        lists = {name: np.array(getattr(self, name)) for name in COLUMNS[:5]}
        return lists | {"thumbnails": bytes(self.thumbnails)}


def correlate(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the correlation, -1 to 1, of two lists of values; 0 where one is flat."""
    a, b = first - first.mean(), second - second.mean()
    return float(a @ b / max(float(np.sqrt((a @ a) * (b @ b))), 1e-6))


def make_thumbnail(planes: Planes) -> bytes:
    """Return the planes shrunk to THUMBNAIL_SIZES, one after the other, THUMBNAIL_BYTES long."""
    shrunk = [
        cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p, size in zip(planes, THUMBNAIL_SIZES, strict=True)
    ]
    values = np.concatenate([shrunk[0].ravel(), shrunk[1].ravel() + 128, shrunk[2].ravel() + 128])
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()


def measure_detail(luma: NDArray[np.float32]) -> float:
    """Return the mean square of the difference of each pixel and the mean of the 5x5 pixels around it."""
    fine = cv2.subtract(luma, cv2.blur(luma, (5, 5)))
    return float(cv2.norm(fine, cv2.NORM_L2SQR) / fine.size)


def shrink_frame(frame: VideoFrame) -> Planes:
    """Return the frame's Y, U and V shrunk to short sides of at least 64, 32 and 32 pixels, in this module's units; of
    light or colours that BT.709 has not, those of the canonical picture."""
    kind = read_frame_kind(frame)
    if kind.is_bright_or_wide:
        return _shrink_light(frame, kind)
    if frame.format.name not in PLANES_OF_8_BITS or frame.planes[0].line_size <= 0:
        frame, kind = _shrink_yuv(frame), kind._replace(full_range=False)
    shrunk = [
        shrink(
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width], side
        )
        for plane, side in zip(frame.planes, SHORT_SIDES, strict=True)
    ]
    return stretch(shrunk, kind.full_range)


def read_luma(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return the frame's luma as coded, uint8 [height, width] in its own pixels."""
    if frame.format.name not in PLANES_OF_8_BITS or frame.planes[0].line_size <= 0:
        return frame.reformat(format="gray").to_ndarray().astype(np.uint8, copy=False)
    plane = frame.planes[0]
    whole = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return whole[: plane.height, : plane.width]


def shrink(plane: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """Halve a plane by area while at least `short_side` remains; an odd last column or row is dropped.

    OpenCV halves six times faster than it shrinks by any other factor.
    """
    while min(plane.shape) >= 2 * short_side:
        height, width = (side // 2 for side in plane.shape)
        whole = plane[: height * 2, : width * 2]
        plane = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return plane


def stretch(planes: list[NDArray[np.uint8]], full_range: bool) -> Planes:
    """Convert coded planes to the units of this module: studio range has 219 steps of luma from 16, and 224 of chroma
    (BT.601)."""
    black, luma, chroma = (0.0, 1.0, 1.0) if full_range else (16.0, 255 / 219, 255 / 224)
    y, u, v = (plane.astype(np.float32) for plane in planes)
    return [np.clip((y - black) * luma, 0, 255), (u - 128) * chroma, (v - 128) * chroma]


def measure_difference(a: Planes, b: Planes) -> float:
    """Return the mean of the planes' mean absolute differences, 0 to 255; raises ValueError on unequal sizes."""
    if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        raise ValueError("Planes of unequal sizes cannot be compared.")
    return sum(cv2.norm(x, y, cv2.NORM_L1) / x.size for x, y in zip(a, b, strict=True)) / len(a)


def find_neighbours(side: NDArray[np.floating], change: float, window: int) -> NDArray[np.floating]:
    """Return the changes of the `window` nearest frames on one side that are not held.

    `side` are the changes from the nearest frame outwards, `change` is the one they are compared with; zeros replace
    missing frames.
    """
    near = side[: window * REACH]
    moving = near[near >= HELD * change][:window]
    return np.pad(moving, (0, window - len(moving)))


def _choose_size(frame: VideoFrame) -> tuple[int, int]:
    factor = 2 ** int(math.log2(max(1, min(frame.width, frame.height) // SHORT_SIDES[0])))
    return max(2, frame.width // factor), max(2, frame.height // factor)


def _shrink_light(frame: VideoFrame, kind: FrameKind) -> Planes:
    picture = convert_colours(frame, kind, _choose_size(frame)).astype(np.float32)
    luma = picture @ np.array(BT709_LUMA, np.float32)
    u, v = ((picture[..., channel] - luma) / (2 - 2 * BT709_LUMA[channel]) for channel in (2, 0))
    half = max(1, luma.shape[1] // 2), max(1, luma.shape[0] // 2)
    return [luma, *(cv2.resize(plane, half, interpolation=cv2.INTER_AREA).astype(np.float32) for plane in (u, v))]


def _shrink_yuv(frame: VideoFrame) -> VideoFrame:
    width, height = _choose_size(frame)
    return frame.reformat(
        width=width,
        height=height,
        format="yuv420p",
        interpolation="AREA",
        src_color_range=frame.color_range or None,
        dst_color_range="MPEG",
        # RGB becomes what films are written in; the default is BT.601.
        dst_colorspace="ITU709" if frame.format.is_rgb else None,
    )
