"""Join: all measurements of each clip in one table, and all facts about each source file in videos.parquet.

`change` is the mean over a clip of the scan's signal of that name, 0 to 255: 0 for identical frames. What a step could
not measure is null, and the reason is in `error`, as "step: message", or where the clip is too short, which is no
failure, in `note`. Nothing is decided here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task

from tasks import clip_measures
from tasks.caching import Step, find_or_compute, make_lineage
from tasks.curate.video_manifests import MEASURING, VideoManifests
from tasks.further_columns import COLUMN as FURTHER
from tasks.further_columns import append
from tasks.keep_verdicts import SCHEMA as VERDICT
from tasks.manifest import (
    ERROR_FIELDS,
    ManifestRef,
    make_table,
    read_column_names,
    read_manifest,
    read_rows,
    write_manifest,
)

VERSION = 4

FACTS_OF_SCAN = ("frames", "lost", "dropped", "decodes", "frame_store", "error_code", "error_message")
"""Columns of the scan that go into videos.parquet."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("shot_start_s", pa.float64()),
        ("shot_end_s", pa.float64()),
        ("shot_start_pts", pa.int64()),
        ("shot_end_pts", pa.int64()),
        ("shot_begins", pa.string()),
        ("shot_ends", pa.string()),
        ("time_base", pa.string()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int64()),
        *(measure.field for measure in clip_measures.JOINED),
        ("error", pa.string()),
        ("note", pa.string()),
    ]
)
"""What is known of a clip; a column that no step has measured is null."""

STEP = Step("join", VERSION, SCHEMA, open=True)

VIDEOS = Step("videos", VERSION, pa.schema([]))

Rows = Sequence[Mapping[str, Any]]


def join_clips(
    ingest: Rows, split: pa.Table, changes: NDArray[np.floating], measures: Mapping[str, pa.Table]
) -> pa.Table:
    """Return one row of SCHEMA for each clip of the split, sorted by source and start, and what further columns of a
    list of sources say.

    `changes` [clips] are null where NaN; `measures` are the rows of the other steps by the steps' names.
    """
    sources = {row["video_id"]: row["source"] for row in ingest if row["status"] == "ok"}
    clip_ids = split["clip_id"].to_pylist()
    columns = {name: split[name] for name in split.column_names}
    further = {row["video_id"]: row.get(FURTHER) for row in ingest if row["status"] == "ok"}
    columns["source"] = pa.array([sources[video] for video in split["video_id"].to_pylist()], pa.string())
    for measure, values in zip(clip_measures.JOIN, changes.T, strict=True):
        columns[measure.name] = pa.array(values, measure.type, from_pandas=True)
    for table in measures.values():
        rows = _find_rows(clip_ids, table)
        columns |= {name: table[name].take(rows) for name in table.column_names if name != "clip_id"}
    for name, failed in (("error", True), ("note", False)):
        columns[name] = pa.array(_collect_messages(clip_ids, measures, failed), pa.string())
    arrays = [columns.get(field.name, pa.nulls(len(split), field.type)) for field in SCHEMA]
    packed = [further[video] for video in split["video_id"].to_pylist()]
    return append(pa.table(arrays, SCHEMA), packed, VERDICT.names).sort_by(
        [("source", "ascending"), ("start_pts", "ascending")]
    )


def read_changes(scan: ManifestRef, split: pa.Table) -> NDArray[np.float64]:
    """Return the columns of JOIN [clips, 2] of one video's clips, from the changes of each clip's frames without the
    first, whose change is from what came before the clip; NaN for a clip of one frame."""
    if not len(split):
        return np.empty((0, len(clip_measures.JOIN)))
    row = read_rows(scan, ("pts", "change"))[0]
    pts, change = np.array(row["pts"]), np.array(row["change"])
    measured = []
    for clip in split.select(["start_pts", "end_pts", "time_base"]).to_pylist():
        first, end = np.searchsorted(pts, (clip["start_pts"], clip["end_pts"]))
        inner = change[first + 1 : end]
        ticks = measure_longest_freeze(inner, np.append(pts[first:end], clip["end_pts"]))
        frozen = float(ticks * Fraction(clip["time_base"]))
        measured.append((float(inner.mean()), frozen) if len(inner) else (np.nan, np.nan))
    return np.array(measured)


def measure_longest_freeze(change: NDArray[np.floating], edges: NDArray[np.integer]) -> int:
    """Return the longest time for which frames show one picture; 0 where no frame repeats the one before.

    `change` [frames - 1] are those of all frames but the first; `edges` [frames + 1] the frames' times and the end.
    """
    still = np.concatenate([[False], change < clip_measures.STILL_CHANGE, [False]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(still) > 0), np.flatnonzero(np.diff(still) < 0)
    return int(max(edges[ends + 1] - edges[starts], default=0))


def join_videos(ingest: Rows, scans: Rows, clips: pa.Table) -> list[dict[str, Any]]:
    """Return one row per source file: as ingested, with the scan's facts and the number of its clips.

    A file whose scan or split failed becomes `unreadable`, with the error.
    """
    scanned = {row["video_id"]: row for row in scans}
    counts = {row["values"]: row["counts"] for row in clips["video_id"].value_counts().to_pylist()}
    return [
        _add_scan(dict(row), scanned[row["video_id"]], counts.get(row["video_id"], 0))
        if row["status"] == "ok" and row["video_id"] in scanned
        else dict(row)
        for row in ingest
    ]


def _add_scan(row: dict[str, Any], scan: Mapping[str, Any], clips: int) -> dict[str, Any]:
    facts = {name: scan[name] for name in FACTS_OF_SCAN}
    return row | facts | {"clips": clips} | ({"status": "unreadable"} if scan["error_code"] else {})


def make_videos_schema(ingest: pa.Schema) -> pa.Schema:
    """Return the columns of videos.parquet: those of the ingest, with the scan's facts before the error columns."""
    errors = {field.name for field in ERROR_FIELDS}
    counts = [(name, pa.int64()) for name in ("frames", "lost", "dropped")]
    added = [*counts, ("decodes", pa.int32()), ("frame_store", pa.string())]
    known = [field for field in ingest if field.name not in errors and field.name != FURTHER]
    return pa.schema([*known, *(pa.field(*column) for column in added), pa.field("clips", pa.int64()), *ERROR_FIELDS])


@task(name="join")
def join_measures(
    root: Path, ingest: ManifestRef, videos: Sequence[VideoManifests], groups: ManifestRef
) -> ManifestRef:
    """Write videos.parquet below `root` and return the joined clips: what each step measured, found by clip_id, and
    the `groups` of those that look alike."""
    scans, splits = [video.scan for video in videos], [video.split for video in videos]
    steps = {step: [ref for video in videos for ref in video.of([step])] for step in MEASURING} | {"dedup": [groups]}

    def compute(_: str) -> pa.Table:
        tables = [_drop_failures(read_manifest(split)) for split in splits]
        none = np.empty((0, len(clip_measures.JOIN)))
        changes = [none, *(read_changes(scan, table) for scan, table in zip(scans, tables, strict=True))]
        measures = {step: pa.concat_tables(map(_read_wanted, refs)) for step, refs in steps.items() if refs}
        split = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        return join_clips(read_rows(ingest), split, np.concatenate(changes), measures)

    digests = [ingest.digest, *map(_digest_manifests, (scans, splits, *steps.values()))]
    clips = find_or_compute(STEP, root, None, digests, compute)
    _write_videos(root, ingest, videos, clips)
    return clips


def _write_videos(root: Path, ingest: ManifestRef, videos: Sequence[VideoManifests], clips: ManifestRef) -> None:
    scans, splits = [video.scan for video in videos], [video.split for video in videos]
    files = read_manifest(ingest)
    unsplit = {row["video_id"]: row for split in splits for row in _read_failures(split)}
    facts = [row for scan in scans for row in read_rows(scan, ("video_id", *FACTS_OF_SCAN))]
    facts = [row | unsplit.get(row["video_id"], {}) for row in facts]
    rows = join_videos(files.to_pylist(), facts, read_manifest(clips, ("video_id",)))
    packed = [row.pop(FURTHER, None) for row in rows]
    table = append(make_table(rows, make_videos_schema(files.schema)), packed)
    lineage = make_lineage(VIDEOS, None, (ingest.digest, *map(_digest_manifests, (scans, splits)), clips.digest))
    write_manifest(root / "videos.parquet", table, lineage)


def _drop_failures(split: pa.Table) -> pa.Table:
    """Return the clips of a split; a video that could not be split has a row that is none."""
    return split.filter(split["clip_id"].is_valid())


def _read_failures(split: ManifestRef) -> list[dict[str, Any]]:
    """Return the id and the error of a video that could not be split."""
    rows = read_rows(split, ("video_id", "error_code", "error_message"))
    return [row for row in rows if row["error_code"]]


def _read_wanted(manifest: ManifestRef) -> pa.Table:
    """Read the columns of a step's manifest that are joined; bulky ones, such as embeddings, are left out."""
    wanted = {*SCHEMA.names, "error_code", "error_message"}
    return read_manifest(manifest, [name for name in read_column_names(manifest) if name in wanted])


def _find_rows(clip_ids: Sequence[str], table: pa.Table) -> pa.Array:
    """Return the row number of each clip in `table`, null where it has none."""
    where = {clip_id: row for row, clip_id in enumerate(table["clip_id"].to_pylist())}
    return pa.array([where.get(clip_id) for clip_id in clip_ids], pa.int64())


def _collect_messages(clip_ids: Sequence[str], measures: Mapping[str, pa.Table], failed: bool) -> list[str | None]:
    """Return the steps' messages for each clip, as "step: message; step: message", those of failures or the others;
    None where there is none."""
    messages: dict[str, list[str]] = {}
    for step, table in measures.items():
        for row in table.select(["clip_id", "error_code", "error_message"]).to_pylist():
            if row["error_message"] and failed is (row["error_code"] is not None):
                messages.setdefault(row["clip_id"], []).append(f"{step}: {row['error_message']}")
    return ["; ".join(messages[clip_id]) if clip_id in messages else None for clip_id in clip_ids]


def _digest_manifests(manifests: Sequence[ManifestRef]) -> str:
    """Return one digest for a step's manifests, in their order."""
    return hashlib.sha256("".join(manifest.digest for manifest in manifests).encode()).hexdigest()
