"""Manifests: Parquet tables with a declared schema, a content digest and a lineage; and files that appear complete.

A manifest's digest covers its rows and column types, not its lineage: two ways to the same rows give the same digest,
so the steps that depend on them do not run again.
"""

import glob
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import BadManifest
from tasks.child_process import is_alive
from tasks.ledger import ASIDE, check_place, list_ours, record, remove

ERROR_FIELDS: tuple[pa.Field, ...] = (
    pa.field("error_code", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("attempt", pa.int32()),
)
"""The columns that end every step's schema: null code and message when the item succeeded, `attempt` from 1."""

UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What pyarrow raises for a file that is no Parquet, or a damaged one, whose names may be no text."""

FEW_ROWS = 100_000
"""Rows of a manifest that may take less than a byte each."""

_LINEAGE, _DIGEST, _LENGTHS = b"reelmill.lineage", b"reelmill.digest", b"reelmill.lengths"


class Lineage(BaseModel):
    """The origin of a manifest: the step, its parameters, and the digests of what it read."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: str
    version: int
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    model_revision: str | None = None


class ManifestRef(BaseModel):
    """A reference that flows pass around instead of tables: the path, the digest of the rows, their number, and whether
    the manifest was found (`cached`) or made."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: str
    rows: int
    cached: bool = False


def write_manifest(
    path: Path, rows: pa.Table, lineage: Lineage, lengths: Mapping[str, int | None] | None = None
) -> ManifestRef:
    """Write `rows` with their digest, their lineage and the `lengths` in bytes of the files that they name, by name.

    The file appears complete or not at all.
    """
    digest = digest_table(rows)
    facts = make_metadata(lineage, digest) | {_LENGTHS: json.dumps(lengths or {}).encode()}
    with publish(path) as aside:
        pq.write_table(rows.replace_schema_metadata(facts), aside, compression="zstd")
    return ManifestRef(path=path, digest=digest, rows=rows.num_rows)


def make_metadata(lineage: Lineage, digest: str) -> dict[bytes | str, bytes | str]:
    """Return the metadata of a manifest's Parquet file: the digest of the rows and their lineage."""
    return {_LINEAGE: lineage.model_dump_json().encode(), _DIGEST: digest.encode()}


def read_manifest(manifest: ManifestRef | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of a manifest; raises BadManifest when the file cannot be read or lacks a column."""
    path = manifest.path if isinstance(manifest, ManifestRef) else manifest
    try:
        with pq.ParquetFile(path) as file:
            check_size(path, file.metadata)
            names = list(columns) if columns is not None else file.schema_arrow.names
            missing = ", ".join(sorted(set(names) - set(file.schema_arrow.names)))
            if missing:
                raise BadManifest(f"{path}: the columns {missing} are missing. Was it made by an older step?")
            return file.read(columns=names).select(names).replace_schema_metadata(None)
    except UNREADABLE as error:
        raise BadManifest(_explain(path, error)) from error


def _explain(path: Path, error: Exception) -> str:
    return f"{path}: not a readable manifest ({' '.join(str(error).split())}). Delete it and run again."


def check_size(path: Path, footer: pq.FileMetaData) -> None:
    """Raise BadManifest where a few bytes stand for more rows than a run writes into them: each of its rows has a name
    of its own."""
    if footer.num_rows > max(FEW_ROWS, path.stat().st_size):
        raise BadManifest(f"{path}: stands for {footer.num_rows} rows, which no run writes so small. Delete it.")


def read_column_names(manifest: ManifestRef | Path) -> list[str]:
    """Read the names of a manifest's columns from its footer; raises BadManifest."""
    path = manifest.path if isinstance(manifest, ManifestRef) else manifest
    try:
        return pq.read_schema(path).names
    except UNREADABLE as error:
        raise BadManifest(_explain(path, error)) from error


def read_rows(manifest: ManifestRef | Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows of a manifest as dictionaries; raises BadManifest."""
    table = read_manifest(manifest, columns)
    try:
        return table.to_pylist()
    except (ValueError, OverflowError) as error:
        path = manifest.path if isinstance(manifest, ManifestRef) else manifest
        raise BadManifest(f"{path}: has a value that cannot be read ({error}). Delete it and run again.") from error


def read_lineage(path: Path) -> Lineage:
    """Read the lineage of a manifest; raises BadManifest when it has none."""
    try:
        return Lineage.model_validate_json(_read_metadata(path)[_LINEAGE])
    except ValidationError as error:
        raise BadManifest(f"{path}: its lineage cannot be read. Delete it and run again.") from error


def read_lengths(path: Path) -> dict[str, int | None]:
    """Read the size in bytes of each file that a manifest names, None for a file that did not exist; raises
    BadManifest."""
    facts = _read_metadata(path)
    if _LENGTHS not in facts:
        raise BadManifest(f"{path}: does not record the sizes of its files.")
    try:
        return {str(name): None if size is None else int(size) for name, size in json.loads(facts[_LENGTHS]).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadManifest(f"{path}: its files' sizes cannot be read ({error}). Delete it and run again.") from error


def read_manifest_ref(path: Path, cached: bool = False) -> ManifestRef:
    """Read the reference of a manifest on disk from its footer; raises BadManifest."""
    facts = _read_metadata(path)
    return ManifestRef(
        path=path, digest=facts[_DIGEST].decode(errors="replace"), rows=int(facts[b"rows"]), cached=cached
    )


def make_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of exactly `schema`; raises BadManifest for an unknown column or a wrong type."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise BadManifest(f"The columns {', '.join(sorted(unknown))} are not in the step's schema.")
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadManifest(f"A row does not fit its step's schema: {error}") from error


def digest_table(table: pa.Table) -> str:
    """Return the SHA-256 of a table's values and types; its chunks and metadata do not count."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None).combine_chunks(), sink, compression="none", store_schema=False)
    return hashlib.sha256(sink.getbuffer()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced and renamed to `path`, on an error it is removed.

    Raises BadInput where another's file is at `path`, or a link on the way to it (tasks.ledger). An error of the disk
    that names no file gets the name of `path`.
    """
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        record(path, aside)
        aside.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def remove_asides(place: Path) -> None:
    """Delete the unfinished files that ended processes left for the file `place`, or anywhere below a folder."""
    names = place.rglob(".*") if place.is_dir() else place.parent.glob(f".{glob.escape(place.name)}.*")
    for path in list(names):
        left = ASIDE.fullmatch(path.name)
        if left and not is_alive(int(left["pid"])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; on success its files appear in `folder`, each whole, in the place of those that
    Reelmill wrote there before. Files of others stay; raises BadInput where one has the name of a new one."""
    check_place(folder / "any")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}")
    aside.mkdir()
    try:
        yield aside
        made = {path.relative_to(aside): path for path in sorted(aside.rglob("*")) if path.is_file()}
        for name in made:
            check_place(folder / name)
        for name, path in made.items():
            record(folder / name, path)
        if not os.path.lexists(folder):
            aside.replace(folder)
            return
        for name, path in made.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
        for path in list_ours(folder):
            if path.relative_to(folder) not in made:
                remove(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def publish_link(path: Path, target: Path) -> None:
    """Make `path` a link to `target`, a path relative to its folder, in one step; raises BadInput as `publish`."""
    check_place(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    aside.symlink_to(target)
    record(path, aside)
    aside.replace(path)


def publish_text(path: Path, text: str) -> None:
    """Write a text file that appears complete or not at all."""
    with publish(path) as aside:
        aside.write_text(text, encoding="utf-8")


def publish_json(path: Path, value: Any) -> None:
    """Write an indented JSON file that appears complete or not at all."""
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def _read_metadata(path: Path) -> dict[bytes, bytes]:
    try:
        footer = pq.read_metadata(path)
    except UNREADABLE as error:
        raise BadManifest(_explain(path, error)) from error
    facts = dict(footer.metadata or {})
    if _DIGEST not in facts or _LINEAGE not in facts:
        raise BadManifest(f"{path}: not a Reelmill manifest, it has no lineage.")
    return facts | {b"rows": str(footer.num_rows).encode()}
