"""Ingest: finds every source, fetches it where it is a URL, identifies it by its content, and probes it. One row per
file.

status: `ok`; `unreadable`, with the reason; or `duplicate`, when an earlier file has the same bytes. `path` is where
the file is: absolute, or below the dataset where it was fetched. The facts, their units and the words of `anomalies`
are those of tasks/media/probe.py. Rows are ordered by source.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadMedia
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute
from tasks.child_process import run_in_child
from tasks.curate.source_fetch import FetchConfig, fetch, is_url
from tasks.curate.source_list import Entry, expand_sources
from tasks.further_columns import COLUMN as FURTHER
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_rows
from tasks.media.probe import VideoFacts, probe
from tasks.media.video import SourceVideo
from tasks.source_files import digest_source, find_source, read_as

log = logging.getLogger("reelmill")

T = TypeVar("T")
R = TypeVar("R")

VERSION = 3

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("digest", pa.string()),
        ("bytes", pa.int64()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("pix_fmt", pa.string()),
        ("bit_depth", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("coded_width", pa.int32()),
        ("coded_height", pa.int32()),
        ("rotation", pa.int32()),
        ("sample_aspect", pa.string()),
        ("fps", pa.float64()),
        ("fps_nominal", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("time_base", pa.string()),
        ("duration_s", pa.float64()),
        ("color_primaries", pa.string()),
        ("color_transfer", pa.string()),
        ("color_matrix", pa.string()),
        ("color_range", pa.string()),
        ("hdr", pa.bool_()),
        ("field_order", pa.string()),
        ("interlaced", pa.bool_()),
        ("has_audio", pa.bool_()),
        ("audio_codec", pa.string()),
        ("audio_channels", pa.int32()),
        ("audio_rate", pa.int32()),
        ("streams", pa.int32()),
        ("stream", pa.int32()),
        ("anomalies", pa.list_(pa.string())),
        (FURTHER, pa.string()),
        ("status", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("ingest", VERSION, SCHEMA, files=("path",))

FETCHED = "sources"
"""The dataset's folder of fetched files."""

PROBES_AT_ONCE = 2
"""A child process each; a probe takes some 40 ms."""


class IngestConfig(BaseModel):
    """Which files count as video, and how long probing one may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    suffixes: tuple[str, ...] | None = Field(
        default=None,
        description="The only suffixes, in lower case, of the files to use from folders and globs; if not given, what "
        "is a film by its content or its name.",
    )
    stream: int | None = Field(
        default=None,
        ge=0,
        description="Number in its file of the video stream to use, as ffprobe counts; if not given, the one that the "
        "file marks as default, then the largest.",
    )
    probe_limit_s: float = Field(default=30.0, gt=0, description="Time limit for probing one file, in seconds.")
    fetch: FetchConfig = Field(default_factory=FetchConfig, description="Limits for fetching one URL.")


def identify(root: Path, entry: Entry, limits: FetchConfig) -> dict[str, Any]:
    """Fetch a source where needed, and return its path, digest, size and id as columns; an error instead when that
    fails."""
    row: dict[str, Any] = {"source": entry.source, FURTHER: entry.further}
    return tried(
        lambda: row | _identify(root, entry, limits),
        lambda failure: row | {"status": "unreadable"} | failure,
        "reading",
        entry.source,
    )


def _identify(root: Path, entry: Entry, limits: FetchConfig) -> dict[str, Any]:
    if entry.problem:
        raise BadMedia(entry.problem)
    path = fetch(entry.source, root / FETCHED, limits) if is_url(entry.source) else Path(entry.source)
    size, digest = digest_source(root, path)
    place = path.relative_to(root).as_posix() if is_url(entry.source) else str(path)
    return {"path": place, "digest": digest, "bytes": size, "video_id": digest[:16]}


def examine(root: Path, file: dict[str, Any], config: IngestConfig) -> dict[str, Any]:
    """Return the row of an identified file: its facts, or why it cannot be read."""
    if "status" in file:
        return file
    path = root / file["path"]

    def probe_file() -> dict[str, Any]:
        with read_as(root, path, file["digest"]) as held:
            facts = _probe(held, config)
        if "extra_video_streams" in facts.anomalies:
            _say_which_stream(file["source"], facts)
        return file | _make_columns(facts) | {"status": "ok"}

    return tried(
        probe_file,
        lambda failure: file | {"status": "unreadable"} | failure,
        "probing",
        file["source"],
    )


def _say_which_stream(source: str, facts: VideoFacts) -> None:
    log.warning(
        "%s: has several video streams. Stream %d (%d x %d) is used; --ingest.stream chooses another.",
        source,
        facts.stream,
        facts.width,
        facts.height,
    )


def _probe(path: Path, config: IngestConfig) -> VideoFacts:
    return run_in_child(probe, path, config.stream, limit_s=config.probe_limit_s)


def _make_columns(facts: VideoFacts) -> dict[str, Any]:
    base, aspect = facts.time_base, facts.sample_aspect
    exact = {"time_base": f"{base.numerator}/{base.denominator}", "sample_aspect": str(aspect)}
    return vars(facts) | exact | {"anomalies": list(facts.anomalies)}


def list_unreadable(entries: Sequence[Entry], config: IngestConfig) -> list[str]:
    """Return a sentence for each source that cannot be read as far as its beginning says; URLs are not fetched."""

    def find_problem(entry: Entry) -> str | None:
        if entry.problem or is_url(entry.source):
            return entry.problem
        return tried(
            lambda: _probe(Path(entry.source), config) and None,
            lambda failure: failure["error_message"],
            "probing",
            entry.source,
        )

    return [problem for problem in _run_at_once(find_problem, entries, PROBES_AT_ONCE) if problem]


def make_rows(root: Path, files: list[dict[str, Any]], config: IngestConfig) -> Iterator[dict[str, Any]]:
    """Yield a row for each identified file; a file with the same bytes as an earlier readable one is its duplicate."""
    firsts = {file["digest"]: file for file in reversed(files) if "digest" in file}
    rows = _run_at_once(lambda file: examine(root, file, config), firsts.values(), PROBES_AT_ONCE)
    known = dict(zip(firsts, rows, strict=True))
    for file in files:
        first = known.get(file.get("digest", ""))
        if first is None or first["source"] == file["source"]:
            yield (first or file) | {"attempt": 1}
        elif first["status"] == "ok":
            yield first | file | {"status": "duplicate", "attempt": 1}
        else:
            yield examine(root, file, config) | {"attempt": 1}


def _run_at_once(call: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, items))


def list_videos(root: Path, ingest: ManifestRef, moved_to: Path | None = None) -> list[SourceVideo]:
    """Return the readable videos of an ingest manifest below `root`, each once, ordered by source; below `moved_to`,
    if their files are there now."""
    columns = ("video_id", "path", "digest", "duration_s", "width", "height", "container", "stream", "status")
    facts = [name for name in SourceVideo.model_fields if name != "path"]
    return [
        SourceVideo(path=find_source(root, row["path"], row["digest"], moved_to), **{name: row[name] for name in facts})
        for row in read_rows(ingest, columns)
        if row["status"] == "ok"
    ]


def ingest_sources(root: Path, config: IngestConfig, sources: Sequence[str]) -> ManifestRef:
    """Return the manifest of all source files below `root`: found, or made. Raises BadInput for a source without
    videos."""
    entries = expand_sources(sources, config.suffixes, exclude=root)
    files = _run_at_once(lambda entry: identify(root, entry, config.fetch), entries, config.fetch.at_once)
    log.debug("ingest: %d files", len(files))
    named = ["\n".join(str(f.get(n)) for n in ("source", "digest", FURTHER) if n != FURTHER or f[n]) for f in files]
    return find_or_compute(
        STEP, root, config, named, lambda _: make_table(list(make_rows(root, files, config)), SCHEMA)
    )


@task(name="ingest")
def ingest_videos(root: Path, config: IngestConfig, sources: list[str]) -> ManifestRef:
    """Ingest all sources; see `ingest_sources`."""
    return ingest_sources(root, config, sources)
