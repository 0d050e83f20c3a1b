"""Split: hard cuts from the scan's signals, and the clips between them. No video is read.

A cut lies before a frame whose `change` is at least `threshold` times the mean change of the `window` frames on either
side (held frames are passed over), the largest among them, at least `floor`, and at least `relative_floor` times the
brighter picture's mean luma. Fast pans change much, but evenly; dark pictures change little. One foreign frame, as a
photographer's flash, is no cut: the pictures on its two sides must differ too (`change_2`). Damaged frames belong to no
shot.

Modelled on PySceneDetect's AdaptiveDetector, with times in pts. Dissolves and fades are not looked for.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.caching import Step, cached
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of
from tasks.signals import neighbours

VERSION = 1

NEEDS = (
    "video_id",
    "time_base",
    "width",
    "height",
    "end_pts",
    "pts",
    "change",
    "change_2",
    "luma",
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
        ("fps", pa.float64()),
        ("frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("split", VERSION, SCHEMA)

Signal = NDArray[np.floating]
Span = tuple[int, int]
"""Frame indices [start, end), the end excluded."""


class SplitConfig(BaseModel):
    """Where cuts are seen, and how long clips may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(
        default=3.0, gt=1, description="A cut's change as a multiple of its neighbours' mean; more: fewer."
    )
    window: int = Field(default=2, ge=1, description="Frames on either side that count as neighbours.")
    floor: float = Field(default=2.0, ge=0, description="Least change of a cut, 0 to 255; more: fewer cuts.")
    relative_floor: float = Field(
        default=0.06, ge=0, description="Least change as a share of the brighter frame's mean luma."
    )
    min_clip_s: float = Field(
        default=0.5, ge=0, description="Shorter clips stay rows here; `select` drops them as too short."
    )
    max_clip_s: float | None = Field(
        default=None, gt=0, description="Longer shots are cut into equal clips; null: whole shots."
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.max_clip_s is not None and self.max_clip_s < self.min_clip_s:
            raise ValueError(f"max_clip_s ({self.max_clip_s}) is below min_clip_s ({self.min_clip_s})")
        return self


def find_cuts(change: Signal, change_2: Signal, luma: Signal, config: SplitConfig) -> list[int]:
    """Indices of the frames that begin a new shot, the very first frame excluded.

    change, change_2 and luma, [frames], are the scan's signals; see the module's docstring for the rule.
    """
    brighter = np.maximum(luma[1:], luma[:-1])
    floors = np.concatenate([[np.inf], np.maximum(config.floor, config.relative_floor * brighter)])
    return [
        int(i)
        for i in np.flatnonzero(change >= floors[: len(change)])
        if stands_out(change, int(i), config) and lasts(change_2, int(i), floors[i])
    ]


def stands_out(change: Signal, i: int, config: SplitConfig) -> bool:
    """Whether frame i changes more than all its neighbours, and `threshold` times as much as they do on average."""
    before = neighbours(change[i - 1 : 0 : -1], change[i], config.window)
    after = neighbours(change[i + 1 :], change[i], config.window)
    usual = (before.mean() + after.mean()) / 2
    first_of_equals = change[i] > before.max() and change[i] >= after.max()
    return bool(change[i] >= config.threshold * usual and first_of_equals)


def lasts(change_2: Signal, i: int, floor: float) -> bool:
    """Whether the picture before frame i differs from the one after it, and the one before that from frame i."""
    return bool((i < 2 or change_2[i] >= floor) and (i + 1 >= len(change_2) or change_2[i + 1] >= floor))


def shots_between(cuts: Sequence[int], damaged: NDArray[np.bool_]) -> list[Span]:
    """The spans of whole frames between cuts; damaged frames are left out and end a shot."""
    shots = []
    for start, end in zip([0, *cuts], [*cuts, len(damaged)], strict=True):
        whole = np.concatenate([[False], ~damaged[start:end], [False]])
        edges = np.flatnonzero(np.diff(whole)) + start
        shots += [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    return shots


def clips_of(shot: Span, times: Sequence[Fraction], max_clip_s: float | None) -> list[Span]:
    """A shot as clips of at most `max_clip_s` seconds (to the frame), all of about the same length.

    `times` are the frames' times and the end of the last one: one more than there are frames.
    """
    start, end = shot
    length = times[end] - times[start]
    if max_clip_s is None or length <= max_clip_s:
        return [shot]
    pieces = -(-length // Fraction(max_clip_s).limit_denominator(10**6))
    inner = [bisect_left(times, times[start] + length * piece / pieces, start, end) for piece in range(1, pieces)]
    return list(pairwise(sorted({start, *inner, end})))


def split_signals(scan: dict[str, Any], config: SplitConfig) -> Iterator[dict[str, Any]]:
    """The clips of one scan row, as rows; none when the scan failed."""
    if scan["error_code"]:
        return
    edges, time_base = [*scan["pts"], scan["end_pts"]], Fraction(scan["time_base"])
    times = [pts * time_base for pts in edges]
    change, change_2, luma = (np.array(scan[signal]) for signal in ("change", "change_2", "luma"))
    cuts = find_cuts(change, change_2, luma, config)
    for shot in shots_between(cuts, np.array(scan["damaged"], bool)):
        for clip in clips_of(shot, times, config.max_clip_s):
            yield _row(scan, shot, clip, edges, times)


def _row(scan: dict[str, Any], shot: Span, clip: Span, edges: list[int], times: list[Fraction]) -> dict[str, Any]:
    (start, end), (shot_start, shot_end) = clip, shot
    return {
        "clip_id": f"{scan['video_id']}-{edges[start]}-{edges[end]}",
        "video_id": scan["video_id"],
        "time_base": scan["time_base"],
        "start_pts": edges[start],
        "end_pts": edges[end],
        "start_s": float(times[start]),
        "end_s": float(times[end]),
        "shot_start_pts": edges[shot_start],
        "shot_end_pts": edges[shot_end],
        "shot_start_s": float(times[shot_start]),
        "shot_end_s": float(times[shot_end]),
        "fps": float((end - start) / (times[end] - times[start])),
        "frames": end - start,
        "width": scan["width"],
        "height": scan["height"],
        "attempt": 1,
    }


@task(name="split", cache_policy=NO_CACHE)
def split_videos(root: Path, config: SplitConfig, scans: list[ManifestRef]) -> list[ManifestRef]:
    """Split a chunk of scanned videos; a video whose scan failed gives a manifest without rows."""
    return [split_video(root, config, scan) for scan in scans]


def split_video(root: Path, config: SplitConfig, scan: ManifestRef) -> ManifestRef:
    """The clips of one scan below `root`: found, or made."""

    def compute(_: str) -> pa.Table:
        rows = [clip for row in read_rows(scan, NEEDS) for clip in split_signals(row, config)]
        return table_of(rows, SCHEMA)

    return cached(STEP, root, config, [scan], compute)
