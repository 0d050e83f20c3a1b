"""The manifests of one video by the steps that made them, and what all steps that measure clips do with them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from models.errors import TooShort
from models.measures.quality import Bars
from models.pictures import Frames
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute
from tasks.ledger import resolve_inside
from tasks.manifest import ManifestRef, make_table, read_rows

ClipRow = Mapping[str, Any]
NeededColumns = Mapping[str, Sequence[str]]
"""The columns that a step reads, by the steps that wrote them."""


class VideoManifests(NamedTuple):
    """The manifests of one video, by step; None for a step that has not run."""

    scan: ManifestRef
    split: ManifestRef
    look: ManifestRef | None = None
    motion: ManifestRef | None = None
    text: ManifestRef | None = None
    caption: ManifestRef | None = None
    similarity: ManifestRef | None = None

    def of(self, steps: Iterable[str]) -> list[ManifestRef]:
        """Return the manifests of these steps, in their order, without those of steps that have not run."""
        found = (getattr(self, step) for step in steps)
        return [manifest for manifest in found if manifest is not None]


MEASURING = VideoManifests._fields[2:]
"""The steps that add columns to the clips of the split."""


def add_manifests(videos: Sequence[VideoManifests], **made: Sequence[ManifestRef]) -> list[VideoManifests]:
    """Return the videos with what further steps have `made` of each."""
    rows = zip(*made.values(), strict=True)
    return [video._replace(**dict(zip(made, row, strict=True))) for video, row in zip(videos, rows, strict=True)]


def list_frame_stores(root: Path, video: VideoManifests) -> list[Path]:
    """Return the frame store of a video below `root`; none for a video that could not be decoded."""
    return [
        resolve_inside(root, row["frame_store"])
        for row in read_rows(video.scan, ("frame_store",))
        if row["frame_store"]
    ]


def read_clips(video: VideoManifests, needs: NeededColumns) -> list[dict[str, Any]]:
    """Read the clips of the split, each with the columns that are needed, whichever step wrote them."""
    parts = [(ref, columns) for step, columns in needs.items() if step != "scan" for ref in video.of([step])]
    clips: dict[str, dict[str, Any]] = {}
    for row in (row for part in parts for row in read_rows(*part) if row["clip_id"]):
        clips.setdefault(row["clip_id"], {}).update(row)
    return list(clips.values())


def read_bars(clip: ClipRow) -> Bars:
    """Return the black bars of a clip as `look` measured them, in pixels of the picture as shown; none where it could
    not."""
    return Bars(*(clip.get(f"bar_{side}") or 0 for side in ("top", "bottom", "left", "right")))


def see_inside_bars(clip: ClipRow, frames: Frames) -> Frames:
    """Return pictures [frames, height, width, 3] of a clip, of any size, without the lines that its bars touch."""
    bars, shown = read_bars(clip), (clip["width"], clip["height"])
    return np.stack([np.ascontiguousarray(bars.cut(frame, shown)) for frame in frames])


def measure_video(
    step: Step,
    root: Path,
    config: BaseModel,
    needs: NeededColumns,
    video: VideoManifests,
    measure: Callable[[Path, Sequence[ClipRow]], Sequence[ClipRow]],
    revision: str | None = None,
) -> ManifestRef:
    """Return the manifest of `step` for one video's clips below `root`: found, or made by `measure` from the video's
    frame store and the clips, with a row for each."""

    def compute(_: str) -> pa.Table:
        clips = read_clips(video, needs)
        stores = list_frame_stores(root, video) if clips else []
        return make_table([row for store in stores for row in measure(store, clips)], step.schema)

    return find_or_compute(step, root, config, video.of(needs), compute, revision)


def make_clip_rows(
    clips: Sequence[ClipRow], measure: Callable[[ClipRow], Mapping[str, Any]], doing: str
) -> list[dict[str, Any]]:
    """Return a row for each clip, with the columns that `measure` gives; nulls and the reason where it cannot be
    measured, with an error's code unless the clip is too short. `doing` says what is measured ("look")."""
    return [{"clip_id": clip["clip_id"], "attempt": 1, **_measure_columns(clip, measure, doing)} for clip in clips]


def _measure_columns(clip: ClipRow, measure: Callable[[ClipRow], Mapping[str, Any]], doing: str) -> Mapping[str, Any]:
    return tried(lambda: measure(clip), excuse_short_clip, doing)


def excuse_short_clip(failure: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the columns of a clip that could not be measured: without the error's code where it is too short."""
    return {**failure, "error_code": None} if failure["error_code"] == TooShort.code else dict(failure)
