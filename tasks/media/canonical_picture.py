"""The canonical picture: any decoded frame as whatever measures, cuts, trains or shows it sees it.

It is upright, its pixels are square (the container's aspect wins over the codec's), it is free of combs where it is
interlaced, and it is BT.709 of a standard dynamic range and 8 bits. What a frame does not state is what players take:
BT.709's matrix from HD_LINES lines up, BT.601's below, and limited range. PQ, HLG and wide gamuts go through the curve
of models/tone_curve.py. A frame that needs nothing of this costs nothing.

Combs are measured and not read from flags. A frame of two fields that were filmed one after the other fits the frame
before by one field better than by the other: `measure_combing`. Of a combed frame the upper field is kept; where the
lines of the lower one stand out from both neighbours, they become the neighbours' mean.
"""

from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from models.pictures import Frames
from models.tone_curve import Gamut, Transfer, convert_to_bt709

HD_LINES = 720
"""Lines from which an untagged video is read as BT.709, as players do; below it is BT.601."""

COMBED = 0.5
"""A frame or a clip whose combing is at least this is combed."""

STANDS_OUT = 6
"""Levels of 8 bits by which a line of a comb differs from both of its neighbours, at least."""

MOVED, MOVED_SHARE = 16.0, 1.0
"""Where something moves: the worse weave exceeds the best one by so many squared levels of 8 bits, and by this share of
the best one, which is the detail of the picture."""

BLOCK = (4, 32)
"""Columns and lines that are looked at together, and LEAST_BLOCKS in which something must move."""

LEAST_BLOCKS = 4

COMBS_SEEN = 0.04
"""The least share of the worse weave's combs that a combed frame has itself."""

COLUMNS_BETWEEN = 16
"""One of so many columns is looked at for combs."""

FULL_RANGE = 2
"""libav's AVCOL_RANGE_JPEG: black is 0, not 16."""

_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""swscale's names of the matrices of ITU-T H.273."""

_UNSTATED = (2, 3)

_TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}

_GAMUTS: dict[int, Gamut] = {9: "bt2020", 11: "p3", 12: "p3"}

_EXACTLY = Interpolation.AREA | Interpolation.ACCURATE_RND

_SHOWN = _EXACTLY | Interpolation.FULL_CHR_H_INT
"""For RGB of 8 bits: exact rounding alone makes every colour up to 4 levels darker, with chroma of the full width it is
at most 1 off. For 16 bits that chroma makes false colours."""

BT709, LIMITED = 1, 1
"""ITU-T H.273's number of BT.709's primaries, transfer and matrix, and libav's of the limited range."""


class FrameKind(NamedTuple):
    """What stands between a frame as it is coded and the canonical picture; `matrix` is None for RGB and gray."""

    rotation: int
    pixel_aspect: Fraction
    matrix: Colorspace | None
    full_range: bool
    transfer: Transfer
    gamut: Gamut

    @property
    def is_bright_or_wide(self) -> bool:
        """Return whether the picture needs the tone curve: its light or its primaries are not those of BT.709."""
        return self.transfer != "sdr" or self.gamut != "bt709"


def read_pixel_aspect(stream: VideoStream) -> Fraction:
    """Return the width of a stream's pixels over their height: the container's, else the codec's, else 1."""
    aspect = stream.sample_aspect_ratio or (stream.codec_context and stream.codec_context.sample_aspect_ratio)
    return Fraction(aspect) if aspect and aspect > 0 else Fraction(1)


def read_frame_kind(frame: VideoFrame, pixel_aspect: Fraction = Fraction(1)) -> FrameKind:
    """Read what a frame is; `pixel_aspect` is that of its stream."""
    name, stated = frame.format.name, (int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries))
    turns, coded_range = round(frame.rotation / 90) % 4, int(frame.color_range)
    return _make_kind(name, frame.height, turns, pixel_aspect, coded_range, *stated)


@cache
def _make_kind(
    name: str, lines: int, turns: int, pixel_aspect: Fraction, coded_range: int, matrix: int, trc: int, primaries: int
) -> FrameKind:
    has_matrix = name.startswith(("yuv", "nv", "p0", "p2", "p4", "uyvy", "yuyv", "y2", "xv", "v30", "vuy", "ayuv"))
    usual = Colorspace.ITU709 if lines >= HD_LINES else Colorspace.ITU601
    if matrix in _UNSTATED:
        usual = Colorspace.BT2020 if primaries == 9 else usual
    return FrameKind(
        rotation=turns * 90,
        pixel_aspect=pixel_aspect,
        matrix=_MATRICES.get(matrix, usual) if has_matrix else None,
        full_range=coded_range == FULL_RANGE or name.startswith("yuvj") or not (has_matrix or coded_range),
        transfer=_TRANSFERS.get(trc, "sdr"),
        gamut=_GAMUTS.get(primaries, "bt2020" if trc in _TRANSFERS and primaries in _UNSTATED else "bt709"),
    )


def read_shown_size(frame: VideoFrame, pixel_aspect: Fraction = Fraction(1)) -> tuple[int, int]:
    """Return the (width, height) of the canonical picture of a frame: with square pixels, upright."""
    width, height = max(1, round(frame.width * pixel_aspect)), frame.height
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)


def make_picture(
    frame: VideoFrame, pixel_aspect: Fraction = Fraction(1), short_side: int | None = None, combed: bool = False
) -> Frames:
    """Return the canonical picture of a frame, uint8 RGB [height, width, 3], shrunk when its short side is longer than
    `short_side` pixels. A `combed` one is freed of combs first."""
    kind = read_frame_kind(frame, pixel_aspect)
    wide = frame.width * pixel_aspect
    scale = min(Fraction(1), Fraction(short_side or 1 << 30) / min(wide, frame.height))
    size = max(1, round(wide * scale)), max(1, round(frame.height * scale))
    picture = convert_colours(remove_combs(frame) if combed else frame, kind, size)
    return np.ascontiguousarray(np.rot90(picture, kind.rotation // 90), dtype=np.uint8)


def convert_colours(frame: VideoFrame, kind: FrameKind, size: tuple[int, int]) -> Frames:
    """Return a frame of that kind as BT.709, uint8 RGB [height, width, 3], of this size (width, height), not turned."""
    if kind.is_bright_or_wide:
        deep = _reformat(frame, kind, size, "rgb48le").to_ndarray().astype(np.uint16, copy=False)
        return convert_to_bt709(deep, kind.transfer, kind.gamut)
    return _reformat(frame, kind, size, "rgb24").to_ndarray().astype(np.uint8, copy=False)


def make_video_frame(frame: VideoFrame, pixel_aspect: Fraction = Fraction(1), combed: bool = False) -> VideoFrame:
    """Return the canonical picture of a frame as encoders take it: yuv420p in limited range, tagged BT.709, with even
    sides, for which an odd last line is repeated. Planes that are so already are not computed again."""
    kind, whole = read_frame_kind(frame, pixel_aspect), remove_combs(frame) if combed else frame
    size = max(1, round(frame.width * pixel_aspect)), frame.height
    if kind.is_bright_or_wide or kind.rotation or size[0] % 2 or size[1] % 2:
        picture = np.rot90(convert_colours(whole, kind, size), kind.rotation // 90)
        even = ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
        padded = np.ascontiguousarray(np.pad(picture, even, mode="edge"))
        made = VideoFrame.from_ndarray(padded, format="rgb24").reformat(
            format="yuv420p", interpolation=_EXACTLY, threads=1, **_TO_BT709
        )
    else:
        made = _reformat(whole, kind, size, "yuv420p", **_TO_BT709)
    made.colorspace, made.color_range, made.color_trc, made.color_primaries = BT709, LIMITED, BT709, BT709
    return made


_TO_BT709: dict[str, Any] = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": "MPEG"}


def _reformat(frame: VideoFrame, kind: FrameKind, size: tuple[int, int], name: str, **target: Any) -> VideoFrame:
    width, height = size
    return frame.reformat(
        width=width,
        height=height,
        format=name,
        interpolation=_SHOWN if name == "rgb24" else _EXACTLY,
        src_colorspace=kind.matrix,
        src_color_range="JPEG" if kind.full_range else "MPEG",
        threads=1,
        **target,
    )


def measure_combing(frame: VideoFrame, other: VideoFrame) -> float | None:
    """Measure from a frame and one beside it whether its fields show two moments: 0 they do not, 1 they do; None where
    too little moves to say, or its format is not read.

    The frame's upper lines are woven with the other's lower ones, and the reverse. Two fields of one moment are equally
    far from those of the frame beside: both weaves are combed alike. Fields filmed by turns are one field's time apart
    in one weave, as in the frame itself, and three in the other.
    """
    here, there = _read_luma(frame), _read_luma(other)
    if here is None or there is None or here.shape != there.shape or len(here) < 4:
        return None
    own, first, second = _measure_combs(here), _measure_combs(_weave(here, there)), _measure_combs(_weave(there, here))
    most, least = np.maximum(first, second), np.minimum(own, np.minimum(first, second))
    moves = most - least > MOVED + MOVED_SHARE * least
    if moves.sum() < min(LEAST_BLOCKS, moves.size):
        return None
    combs = float(own[moves].sum())
    least_sum, most_sum = sorted(float(weave[moves].sum()) for weave in (first, second))
    # A hard edge that moves by an even number of lines combs one weave alone, but not the frame itself.
    if combs < COMBS_SEEN * most_sum:
        return 0.0
    return (most_sum - least_sum) / (most_sum - min(combs, least_sum))


def _read_luma(frame: VideoFrame) -> NDArray[np.float32] | None:
    """Return some columns of a frame's luma, in levels of 8 bits."""
    planes = _read_planes(frame)
    if not planes:
        return None
    depth = frame.format.components[0].bits
    return planes[0][:, ::COLUMNS_BETWEEN].astype(np.float32) / np.float32(1 << (depth - 8))


def _weave(upper: NDArray[np.float32], lower: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the upper lines of one picture with the lower ones of another."""
    woven = lower.copy()
    woven[::2] = upper[::2]
    return woven


def _measure_combs(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure how much the lines of a picture stand out from both lines around them in the same direction: the mean
    product of the two differences in each block."""
    steps = picture[1:] - picture[:-1]
    combs = np.maximum(-steps[:-1] * steps[1:], 0)
    blocks = max(1, combs.shape[1] // BLOCK[0]), max(1, combs.shape[0] // BLOCK[1])
    return cv2.resize(combs, blocks, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)


def _read_planes(frame: VideoFrame) -> list[NDArray[Any]]:
    """Return views [height, width] of the planes of a planar YUV or gray frame; none for another format."""
    coded = frame.format
    if not coded.name.startswith(("yuv", "gray")) or not coded.is_planar or coded.is_big_endian:
        return []
    kind = np.dtype(np.uint8 if coded.components[0].bits == 8 else "<u2")
    views: list[NDArray[Any]] = []
    for plane in frame.planes:
        if plane.line_size <= 0:
            return []
        lines = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
        views.append(lines[: plane.height, : plane.width])
    return views


def remove_combs(frame: VideoFrame) -> VideoFrame:
    """Return a frame without combs: its upper field as it is, and its lower one where it agrees with that."""
    planes = _read_planes(frame)
    if not planes:
        frame = frame.reformat(format="yuv422p", threads=1)
        planes = _read_planes(frame)
    made = VideoFrame(frame.width, frame.height, frame.format.name)
    made.pts = frame.pts
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    made.color_trc, made.color_primaries = frame.color_trc, frame.color_primaries
    least = STANDS_OUT << (frame.format.components[0].bits - 8)
    for plane, target in zip(planes, made.planes, strict=True):
        lines = np.zeros((target.buffer_size // target.line_size, target.line_size // plane.itemsize), plane.dtype)
        lines[: plane.shape[0], : plane.shape[1]] = _smooth_lower_lines(plane, least)
        target.update(lines.tobytes())
    return made


def _smooth_lower_lines(plane: NDArray[Any], least: int) -> NDArray[Any]:
    lower = plane[1::2].astype(np.float32)
    above = plane[::2][: len(lower)].astype(np.float32)
    below = np.concatenate([plane[2::2], plane[-1:]])[: len(lower)].astype(np.float32)
    up, down = lower - above, lower - below
    combed = (np.minimum(np.abs(up), np.abs(down)) > least) & (up * down > 0)
    near = cv2.dilate(combed.astype(np.uint8), np.ones((3, 5), np.uint8)).astype(bool)
    smooth = plane.copy()
    smooth[1::2] = np.where(near, np.rint((above + below) / 2), lower).astype(plane.dtype)
    return smooth
