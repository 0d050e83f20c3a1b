"""A film whose frames each carry their number as two grey levels, in any file, and the clips that are cut from it."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tasks.curate.clips import ClipsConfig, CutSpan, SourceSpans, cut_clips
from tasks.manifest import digest_file, read_rows
from tasks.media.canonical_picture import make_picture
from tasks.media.video import SourceVideo, open_video, read_frames

FRAMES, KEYFRAMES_EVERY, FPS = 144, 12, 24
CUTS = (0, 40, 100, 144)
"""The shots' first frames, none but the first at a keyframe, and the end."""

X264 = ("-c:v", "libx264", "-crf", "10", "-bf", "3", "-pix_fmt", "yuv420p")

Make = Callable[..., Path]


def numbered(count: int) -> np.ndarray:
    """Frames whose left half tells the low four bits of their number and whose right half the high four."""
    frames = np.zeros((count, 64, 96, 3), np.uint8)
    for number in range(count):
        frames[number, :, :48], frames[number, :, 48:] = 15 * (number % 16) + 8, 15 * (number // 16) + 8
    return frames


def numbers(path: Path) -> list[int]:
    """The numbers on all frames of a file, in the order in which they are shown."""
    shown = [make_picture(frame) for _, frame in read_frames(path)]
    halves = [(picture[8:56, 8:40].mean(), picture[8:56, 56:88].mean()) for picture in shown]
    return [round((low - 8) / 15) + 16 * round((high - 8) / 15) for low, high in halves]


def encoded(make: Make, name: str, *options: str, gop: str = "open-gop=0") -> Path:
    keyed = f"keyint={KEYFRAMES_EVERY}:min-keyint={KEYFRAMES_EVERY}:scenecut=0:{gop}"
    return make(name, *X264, "-x264-params", keyed, *options)


def all_pts(path: Path) -> tuple[list[int], Fraction]:
    with open_video(path) as (container, stream):
        pts = [frame.pts or 0 for frame in container.decode(stream)]
        return pts, stream.time_base or Fraction(1)


def shots(path: Path, cuts: tuple[int, ...] = CUTS) -> SourceSpans:
    """The shots of a file of numbered frames as clips to cut."""
    pts, time_base = all_pts(path)
    edges = [*pts, 2 * pts[-1] - pts[-2] if len(pts) > 1 else pts[-1] + 1]
    spans = [
        CutSpan(f"clip-{a}-{b}", f"{time_base.numerator}/{time_base.denominator}", edges[a], edges[b], b - a)
        for a, b in pairwise(cuts)
    ]
    video = SourceVideo(video_id="v", path=path, digest=digest_file(path), duration_s=6.0, width=96, height=64)
    return SourceSpans(video, tuple(spans))


def cut(root: Path, source: SourceSpans, mode: str) -> list[dict[str, Any]]:
    (ref,) = cut_clips.fn(root, ClipsConfig.model_validate({"mode": mode}), [source])
    return read_rows(ref)
