"""Ingest: every source file is found, identified by its content, and probed. One row per file, ordered by path.

status: `ok`; `unreadable`, with the reason; or `duplicate`, when an earlier file has the same bytes. width, height and
rotation are as in tasks/probe.py: the picture as shown, and the degrees clockwise that turn it upright.
"""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadInput, BadMedia
from tasks.caching import Step, cached
from tasks.children import run_in_child
from tasks.manifest import ERROR_FIELDS, ManifestRef, file_digest, read_rows, table_of
from tasks.probe import VideoFacts, probe
from tasks.video import SourceVideo

log = logging.getLogger("reelmill")

VERSION = 1

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("source", pa.string()),
        ("digest", pa.string()),
        ("bytes", pa.int64()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("pix_fmt", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("fps", pa.float64()),
        ("fps_nominal", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("time_base", pa.string()),
        ("duration_s", pa.float64()),
        ("has_audio", pa.bool_()),
        ("status", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("ingest", VERSION, SCHEMA)


class IngestConfig(BaseModel):
    """Which files count as video, and how long one may take to be probed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suffixes: tuple[str, ...] = Field(
        default=(
            ".mp4",
            ".m4v",
            ".mov",
            ".mkv",
            ".webm",
            ".avi",
            ".ts",
            ".mts",
            ".m2ts",
            ".mpg",
            ".mpeg",
            ".wmv",
            ".flv",
            ".mxf",
        ),
        description="Endings of the files taken from folders and globs, in lower case.",
    )
    probe_limit_s: float = Field(default=30.0, gt=0, description="Time limit of probing one file, in seconds.")


def expand(sources: Sequence[str], suffixes: Sequence[str], exclude: Path | None = None) -> list[Path]:
    """The files that `sources` name, absolute, each once, ordered by path.

    A source is a file (taken whatever its ending), a folder (searched with all below it) or a glob. Hidden files and
    whatever lies below `exclude` are left out. Raises BadInput for a source that names no video.
    """
    files = {Path(os.path.abspath(file)) for source in sources for file in _files_of(source, tuple(suffixes), exclude)}
    if not files:
        raise BadInput("No source is given. Name a video file, a folder of them or a glob.")
    return sorted(files, key=str)


def _files_of(source: str, suffixes: tuple[str, ...], exclude: Path | None) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = list(_videos_below(path, suffixes, exclude))
        if not found:
            raise BadInput(f"{source}: no video in this folder. Files ending in {', '.join(suffixes)} are taken.")
        return found
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise BadInput(f"{source}: no such file or folder. Check the path.")
    found = [file for match in matches for file in _videos_below(match, suffixes, exclude)]
    if not found:
        raise BadInput(f"{source}: no video among its {len(matches)} matches. Check the pattern.")
    return found


def _videos_below(path: Path, suffixes: tuple[str, ...], exclude: Path | None) -> Iterator[Path]:
    if exclude and path.absolute().is_relative_to(exclude.absolute()):
        return
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                yield from _videos_below(entry, suffixes, exclude)
    elif path.suffix.lower() in suffixes:
        yield path


def identify(path: Path) -> dict[str, Any]:
    """A file's source, digest, size and id as columns; an error instead when it cannot be opened."""
    try:
        digest = file_digest(path)
        return {"source": str(path), "digest": digest, "bytes": path.stat().st_size, "video_id": digest[:16]}
    except OSError as error:
        reason = f"{path}: cannot be opened ({error.strerror}). Check its permissions."
        return {"source": str(path), "status": "unreadable", "error_code": BadMedia.code, "error_message": reason}


def examine(file: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """The row of an identified file: its facts, or why it cannot be read."""
    if "status" in file:
        return file
    try:
        facts = run_in_child(probe, Path(file["source"]), limit_s=limit_s)
    except BadMedia as error:
        return file | {"status": "unreadable", "error_code": error.code, "error_message": str(error)}
    return file | _columns(facts) | {"status": "ok"}


def _columns(facts: VideoFacts) -> dict[str, Any]:
    base = facts.time_base
    return vars(facts) | {"time_base": f"{base.numerator}/{base.denominator}"}


def rows_of(files: list[dict[str, Any]], limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for each identified file; what has the same bytes as an earlier readable one is its duplicate."""
    originals: dict[str, dict[str, Any]] = {}
    for file in files:
        original = originals.get(file.get("digest", ""))
        row = original | file | {"status": "duplicate"} if original else examine(file, limit_s)
        if row["status"] == "ok":
            originals[row["digest"]] = row
        yield row | {"attempt": 1}


def source_videos(ingest: ManifestRef) -> list[SourceVideo]:
    """The videos of an ingest manifest that can be read, each once, ordered by path."""
    columns = ("video_id", "source", "digest", "duration_s", "width", "height", "status")
    return [
        SourceVideo(
            path=Path(row["source"]), **{name: row[name] for name in SourceVideo.model_fields if name != "path"}
        )
        for row in read_rows(ingest, columns)
        if row["status"] == "ok"
    ]


def ingest_sources(root: Path, config: IngestConfig, sources: Sequence[str]) -> ManifestRef:
    """The manifest of all source files below `root`: found, or made; raises BadInput for a source without videos."""
    files = [identify(path) for path in expand(sources, config.suffixes, exclude=root)]
    log.debug("ingest: %d files", len(files))
    named = [f"{file['source']}\n{file.get('digest')}" for file in files]
    return cached(STEP, root, config, named, lambda _: table_of(list(rows_of(files, config.probe_limit_s)), SCHEMA))


@task(name="ingest", cache_policy=NO_CACHE)
def ingest_videos(root: Path, config: IngestConfig, sources: list[str]) -> ManifestRef:
    """Ingest all sources; see `ingest_sources`."""
    return ingest_sources(root, config, sources)
