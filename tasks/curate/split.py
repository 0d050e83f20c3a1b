"""Split: the shots between the boundaries that a detector finds in the scan's signals, and the clips they are cut into.

A hard cut is between two frames. A dissolve, a fade or a wipe covers frames; these belong to no shot, and neither do
damaged ones. `shot_begins` and `shot_ends` say what is there: cut, dissolve, fade, wipe or damage, or the video's own
start and end. So the frames between two shots are those of what ends the first. No video is read: another threshold
decides again from the same signals, and the same threshold gives the same shots. A video that cannot be split is a row
without a clip. The detectors are in tasks/detectors.
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
from tasks.signals import COLUMNS, make_signals

VERSION = 2

NEEDS = (
    "video_id",
    "time_base",
    "width",
    "height",
    "end_pts",
    *COLUMNS,
    "damaged",
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


def cut_shot(shot: Shot, times: Sequence[Fraction], max_clip_s: float | None) -> list[FrameSpan]:
    """Cut a shot into clips of at most `max_clip_s` seconds (to the frame), all of about the same length.

    `times` are the frames' times and the end of the last one: one more than there are frames.
    """
    start, end = shot.start, shot.end
    length = times[end] - times[start]
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
    boundaries = find_boundaries(make_signals(scan, time_base), config)
    for shot in find_shots(boundaries, np.array(scan["damaged"], bool)):
        for clip in cut_shot(shot, times, config.max_clip_s):
            yield _make_row(scan, shot, clip, edges, times)


def _make_row(
    scan: dict[str, Any], shot: Shot, clip: FrameSpan, edges: list[int], times: list[Fraction]
) -> dict[str, Any]:
    start, end = clip
    return {
        "clip_id": f"{scan['video_id']}-{edges[start]}-{edges[end]}",
        "video_id": scan["video_id"],
        "time_base": scan["time_base"],
        "start_pts": edges[start],
        "end_pts": edges[end],
        "start_s": float(times[start]),
        "end_s": float(times[end]),
        "shot_start_pts": edges[shot.start],
        "shot_end_pts": edges[shot.end],
        "shot_start_s": float(times[shot.start]),
        "shot_end_s": float(times[shot.end]),
        "shot_begins": shot.begins,
        "shot_ends": shot.ends,
        "fps": float((end - start) / (times[end] - times[start])),
        "frames": end - start,
        "width": scan["width"],
        "height": scan["height"],
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
