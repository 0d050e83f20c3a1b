"""Listed: a table of clips, one file each, as a dataset to train on. So what `reelmill export` or another tool wrote
can be trained on like what `reelmill curate` made.

The table has a column of files, relative to itself. The columns `caption`, `caption_image`, `caption_video`,
`camera_motion` and `motion_score` (short sides per second) are used where they exist; `film`, the film that a clip was
cut from, and `side`, its split (`train`, or another word for what is held out), too. A file that cannot be read is a
row with its error; a clip is its whole file. A file may be a picture, which has no length.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadInput, BadMedia
from models.given_files import read_comma
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute, make_lineage
from tasks.child_process import run_in_child
from tasks.item_lists import locate
from tasks.ledger import remove
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_manifest, read_rows, write_manifest
from tasks.media.probe import probe
from tasks.source_files import digest_source, read_as
from tasks.table_files import TableRow, read_table, rename_columns

VERSION = 4

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("digest", pa.string()),
        ("container", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("film", pa.string()),
        ("side", pa.string()),
        ("caption", pa.string()),
        ("caption_image", pa.string()),
        ("caption_video", pa.string()),
        ("camera_motion", pa.string()),
        ("motion_score", pa.float64()),
        ("keep", pa.bool_()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("listed", VERSION, SCHEMA)

FILE_COLUMNS = ("file_name", "video", "file", "path")
"""The column that names the files: the first of these that the table has."""

CAPTION_COLUMNS = ("caption", "text", "prompt")

TEXT_COLUMNS = ("film", "side", "caption_image", "caption_video")

KNOWN_COLUMNS = (*FILE_COLUMNS, *CAPTION_COLUMNS, *TEXT_COLUMNS, "camera_motion", "motion_score")

PICTURE = "_pipe"
"""How the names of demuxers of pictures end."""


class ListedConfig(BaseModel):
    """How long probing the clips of a table may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe_limit_s: float = Field(default=30.0, gt=0, description="Time limit for probing one file, in seconds")


def describe_file(root: Path, folder: Path, row: TableRow, column: str, limit_s: float) -> dict[str, Any]:
    """Return the columns of one row of a table in `folder`, for the dataset `root`. Raises ReelmillError when its file
    cannot be used."""
    if row.problem:
        raise BadInput(row.problem)
    path = locate(folder, str(row.values.get(column, "")))
    _, digest = digest_source(root, path)
    with read_as(root, path, digest):
        facts = run_in_child(probe, path, limit_s=limit_s)
    is_picture = facts.container.endswith(PICTURE)
    if facts.duration_s is None and not is_picture:
        raise BadMedia(f"{path}: its length is unknown. Convert it to mp4.")
    return {
        "video_id": digest[:16],
        "path": str(path),
        "digest": digest,
        "container": facts.container,
        "start_s": 0.0,
        "end_s": 0.0 if is_picture else facts.duration_s,
        "width": facts.width,
        "height": facts.height,
        **{name: str(row.values[name]) for name in TEXT_COLUMNS if row.values.get(name)},
        "caption": next((str(row.values[name]) for name in CAPTION_COLUMNS if name in row.values), None),
        "camera_motion": row.values.get("camera_motion"),
        "motion_score": _parse_number(row.values, "motion_score"),
        "keep": True,
    }


def _parse_number(values: Mapping[str, Any], name: str) -> float | None:
    try:
        return float(read_comma(values[name])) if name in values else None
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} is {values[name]!r}, which is not a number.") from error


def read_clip_rows(table: Path) -> tuple[list[TableRow], str]:
    """Return the rows of a table of clips, and its column of files; raises BadInput when it has none of either."""
    rows = rename_columns(read_table(table), KNOWN_COLUMNS)
    if not rows:
        raise BadInput(f"{table}: the table has no rows.")
    column = next((name for name in FILE_COLUMNS if any(name in row.values for row in rows)), None)
    if column is None:
        raise BadInput(f"{table}: the table needs a column of files, named {', '.join(FILE_COLUMNS)}.")
    return rows, column


def describe_files(root: Path, path: Path, rows: list[TableRow], column: str, limit_s: float) -> list[dict[str, Any]]:
    """Return a row of SCHEMA for each row of the table at `path`, for the dataset `root`; a file that is named twice is
    one clip."""
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        source = str(row.values.get(column, f"row {number}"))
        named = {"clip_id": hashlib.sha256(source.encode()).hexdigest()[:16], "source": source, "attempt": 1}
        if source not in found:
            found[source] = named | _describe(root, path, number, row, column, limit_s)
    return list(found.values())


def _describe(root: Path, table: Path, number: int, row: TableRow, column: str, limit_s: float) -> dict[str, Any]:
    """Return the columns of a row of a table; its error where its file cannot be used."""

    def failed(failure: dict[str, str]) -> dict[str, Any]:
        return failure | {"error_message": f"{table} row {number}: {failure['error_message']}", "keep": False}

    return tried(lambda: describe_file(root, table.parent, row, column, limit_s), failed, "probing")


@task(name="listed")
def list_clips(root: Path, config: ListedConfig, table: Path) -> ManifestRef:
    """Write the clips of a table to clips.parquet and videos.parquet below `root`, like those of a dataset."""
    rows, column = read_clip_rows(table)
    inputs = [json.dumps([row.values, row.problem], sort_keys=True, default=str) for row in rows]
    inputs += _digest_files(root, table.parent, rows)

    def compute(_: str) -> pa.Table:
        return make_table(describe_files(root, table, rows, column, config.probe_limit_s), SCHEMA)

    listed = find_or_compute(STEP, root, config, inputs, compute)
    if listed.cached and _has_moved(listed):
        remove(listed.path)
        listed = find_or_compute(STEP, root, config, inputs, compute)
    for name in ("clips.parquet", "videos.parquet"):
        write_manifest(root / name, read_manifest(listed), make_lineage(STEP, config, [listed.digest]))
    return listed


def _has_moved(listed: ManifestRef) -> bool:
    """Return whether a file is not where it was when it was listed: the table and its files have moved."""
    return any(path and not Path(path).is_file() for path in (row["path"] for row in read_rows(listed, ("path",))))


def _digest_files(root: Path, folder: Path, rows: list[TableRow]) -> list[str]:
    """Return the current digests of the table's files, so that a changed file is probed again."""
    names = {str(value) for row in rows for name, value in row.values.items() if name in FILE_COLUMNS}
    return [json.dumps([name, _digest_or_none(root, folder / name)]) for name in sorted(names)]


def _digest_or_none(root: Path, path: Path) -> str | None:
    try:
        return digest_source(root, path)[1]
    except (OSError, ValueError, BadMedia):
        return None
