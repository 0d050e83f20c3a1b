"""Split: the shots between the boundaries that a detector finds in the scan's signals, and the clips they are cut into.

A hard cut is between two frames. A dissolve, a fade or a wipe covers frames; these belong to no shot, and neither do
damaged ones. `shot_begins` and `shot_ends` say what is there: cut, dissolve, fade, wipe or damage, a gap in time, a
`clock` that was set back, a picture of another `size`, or the video's own start and end. So the frames between two
shots are those of what ends the first. A shot before a gap ends when its last frame does, shown for as long as most of
them: no clip spans a gap. No video is read: another threshold decides again from the same signals, and the same
threshold gives the same shots. A video that cannot be split is a row without a clip. The detectors are in
tasks/detectors.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from pydantic import Field, model_validator

from tasks.attempts import tried
from tasks.caching import Step, find_or_compute
from tasks.detectors.boundary import Boundary, FrameSpan
from tasks.detectors.cascade import DetectorSettings, find_boundaries
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_rows
from tasks.media.signals import COLUMNS, make_signals

VERSION = 2

NEEDS = (
    "video_id",
    "time_base",
    "width",
    "height",
    "end_pts",
    *COLUMNS,
    "damaged",
    "joins",
    "error_code",
)
"""Columns of the scan that this step reads."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("time_base", pa.string()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("shot_start_pts", pa.int64()),
        ("shot_end_pts", pa.int64()),
        ("shot_start_s", pa.float64()),
        ("shot_end_s", pa.float64()),
        ("shot_begins", pa.string()),
        ("shot_ends", pa.string()),
        ("fps", pa.float64()),
        ("frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("split", VERSION, SCHEMA)


class Shot(NamedTuple):
    """The frames [start, end) of one shot, and what it begins and ends with."""

    start: int
    end: int
    begins: str
    ends: str


class SplitConfig(DetectorSettings):
    """Where shots end, and how long clips may be."""

    min_clip_s: float = Field(
        default=1.0,
        ge=0,
        description="Clips shorter than this are dropped as too_short, unless select.min_clip_s is set.",
    )
    max_clip_s: float | None = Field(
        default=None, gt=0, description="Longer shots are cut into equal clips; null: shots are not cut."
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.max_clip_s is not None and self.max_clip_s < self.min_clip_s:
            raise ValueError(f"max_clip_s ({self.max_clip_s}) is below min_clip_s ({self.min_clip_s})")
        return self


def find_shots(boundaries: Sequence[Boundary], damaged: NDArray[np.bool_]) -> list[Shot]:
    """Return the shots between boundaries; damaged frames are left out and end a shot."""
    edges = [Boundary(0, 0, "start"), *sorted(boundaries), Boundary(len(damaged), len(damaged), "end")]
    shots = []
    for before, after in pairwise(edges):
        for start, end in _find_undamaged(damaged, before.end, after.start):
            begins = before.kind if start == before.end else "damage"
            shots.append(Shot(start, end, begins, after.kind if end == after.start else "damage"))
    return shots


def _find_undamaged(damaged: NDArray[np.bool_], start: int, end: int) -> list[FrameSpan]:
    """Return the spans in [start, end) of frames that are not damaged."""
    whole = np.concatenate([[False], ~damaged[start:end], [False]])
    return [(int(a), int(b)) for a, b in (np.flatnonzero(np.diff(whole)) + start).reshape(-1, 2)]


def cut_shot(
    shot: Shot, times: Sequence[Fraction], max_clip_s: float | None, stop: Fraction | None = None
) -> list[FrameSpan]:
    """Cut a shot into clips of at most `max_clip_s` seconds (to the frame), all of about the same length.

    `times` are the frames' times and the end of the last one: one more than there are frames. `stop` is the shot's end
    where it is not the next frame's time.
    """
    start, end = shot.start, shot.end
    length = (times[end] if stop is None else stop) - times[start]
    if max_clip_s is None or length <= max_clip_s:
        return [(start, end)]
    pieces = -(-length // Fraction(max_clip_s).limit_denominator(10**6))
    inner = [bisect_left(times, times[start] + length * piece / pieces, start, end) for piece in range(1, pieces)]
    return list(pairwise(sorted({start, *inner, end})))


def split_signals(scan: dict[str, Any], config: SplitConfig) -> Iterator[dict[str, Any]]:
    """Yield the clips of one scan row, as rows; none when the scan failed."""
    if scan["error_code"]:
        return
    edges, time_base = [*scan["pts"], scan["end_pts"]], Fraction(scan["time_base"])
    times = [pts * time_base for pts in edges]
    joins = [Boundary(join["frame"], join["frame"], join["kind"]) for join in scan.get("joins") or ()]
    boundaries = find_boundaries(make_signals(scan, time_base), config, joins)
    for shot in find_shots(boundaries, np.array(scan["damaged"], bool)):
        stop = find_stop(shot, edges)
        width, height = find_size(scan, shot.start)
        for start, end in cut_shot(shot, times, config.max_clip_s, stop * time_base):
            span = edges[start], stop if end == shot.end else edges[end]
            yield _make_row(scan, shot, (edges[shot.start], stop), span, end - start) | {
                "width": width,
                "height": height,
            }


def find_stop(shot: Shot, edges: Sequence[int]) -> int:
    """Return the pts at which a shot ends: that of the next frame, but for a shot that ends in a gap or at a clock set
    back, whose last frame is shown as long as its others, or as the next one is where it is the only one."""
    if shot.ends not in ("gap", "clock"):
        return edges[shot.end]
    own = edges[shot.start : shot.end] if shot.end - shot.start > 1 else edges[shot.end : shot.end + 2]
    usual = int(np.median(np.diff(own))) if len(own) > 1 else 1
    return min(edges[shot.end - 1] + usual, edges[shot.end])


def find_size(scan: dict[str, Any], frame: int) -> tuple[int, int]:
    """Return the width and height of a frame's picture."""
    sizes = [(join["width"], join["height"]) for join in scan.get("joins") or () if join["frame"] <= frame]
    return sizes[-1] if sizes else (scan["width"], scan["height"])


def _make_row(scan: dict[str, Any], shot: Shot, whole: FrameSpan, span: FrameSpan, frames: int) -> dict[str, Any]:
    """Return the row of a clip from pts `span` of a shot from pts `whole`."""
    base = Fraction(scan["time_base"])
    return {
        "clip_id": f"{scan['video_id']}-{span[0]}-{span[1]}",
        "video_id": scan["video_id"],
        "time_base": scan["time_base"],
        "start_pts": span[0],
        "end_pts": span[1],
        "start_s": float(span[0] * base),
        "end_s": float(span[1] * base),
        "shot_start_pts": whole[0],
        "shot_end_pts": whole[1],
        "shot_start_s": float(whole[0] * base),
        "shot_end_s": float(whole[1] * base),
        "shot_begins": shot.begins,
        "shot_ends": shot.ends,
        "fps": float(frames / ((span[1] - span[0]) * base)),
        "frames": frames,
        "attempt": 1,
    }


def _split(scan: dict[str, Any], config: SplitConfig) -> list[dict[str, Any]]:
    """Return the clips of one scan row; where it cannot be split, one row without a clip that says why."""
    return tried(
        lambda: list(split_signals(scan, config)),
        lambda failure: [{"video_id": scan["video_id"], "attempt": 1, **failure}],
        "splitting",
    )


@task(name="split")
def split_videos(root: Path, config: SplitConfig, scans: list[ManifestRef]) -> list[ManifestRef]:
    """Split a chunk of scanned videos; a video whose scan failed gives a manifest without rows."""
    return [split_video(root, config, scan) for scan in scans]


def split_video(root: Path, config: SplitConfig, scan: ManifestRef) -> ManifestRef:
    """Return the clips of one scan below `root`: found, or made."""

    def compute(_: str) -> pa.Table:
        rows = [clip for row in read_rows(scan, NEEDS) for clip in _split(row, config)]
        return make_table(rows, SCHEMA)

    return find_or_compute(STEP, root, config, [scan], compute)
