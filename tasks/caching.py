"""Steps that run once: a manifest is named by the digest of everything it depends on, and is found by that name.

The key covers the inputs' digests, the canonical parameters, the step's version and the model's revision. It holds no
path, no clock and no run id. A manifest counts as found only below the given root, and only while every file that its
rows name still exists and has the length it was written with.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from models.errors import BadManifest
from tasks.ledger import is_whole, move, remove
from tasks.manifest import Lineage, ManifestRef, read_lengths, read_manifest_ref, read_rows, write_manifest
from tasks.stopping import check_stopped

log = logging.getLogger("reelmill")


@dataclass(frozen=True)
class Step:
    """A step's declaration: its name, the version to raise when its results change, the columns it writes, and which of
    those name files below the root; where it is `open`, its rows may have further columns after them."""

    name: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()
    open: bool = False

    def path(self, root: Path, key: str) -> Path:
        """Return the path of the manifest of `key` below `root`."""
        return root / "manifests" / self.name / f"{key}.parquet"


def make_key(lineage: Lineage) -> str:
    """Return the cache key: the first 32 hexadecimal digits of the digest of the canonical lineage."""
    canonical = json.dumps(lineage.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def make_lineage(step: Step, config: BaseModel | None, inputs: Iterable[str], revision: str | None = None) -> Lineage:
    """Return the lineage of one call of `step`: `inputs` are digests, whose order matters."""
    parameters = config.model_dump(mode="json") if config else {}
    return Lineage(
        step=step.name, version=step.version, parameters=parameters, inputs=tuple(inputs), model_revision=revision
    )


def find_or_compute(
    step: Step,
    root: Path,
    config: BaseModel | None,
    inputs: Sequence[ManifestRef | str],
    compute: Callable[[str], pa.Table],
    revision: str | None = None,
) -> ManifestRef:
    """Find the manifest of this call, or compute its rows by `compute(key)` and write it; return its reference.

    `inputs` are manifests or digests of files. `compute` receives the key, to name the files it writes. Raises
    KeyboardInterrupt instead of computing where work is asked to stop.
    """
    lineage = make_lineage(step, config, (i.digest if isinstance(i, ManifestRef) else i for i in inputs), revision)
    key = make_key(lineage)
    path = step.path(root, key)
    found = find(step, root, key)
    if found:
        return found
    check_stopped()
    log.debug("%s runs: %s", step.name, key)
    table = compute(key)
    own = table.schema if not step.open else pa.schema([*table.schema][: len(step.schema)])
    if own != step.schema:
        raise BadManifest(f"{step.name}: its rows have {table.schema.names}, its schema says {step.schema.names}.")
    written = write_manifest(path, _add_attempts(table, path), lineage, _measure_lengths(step, root, table))
    _forget_older_attempts(path)
    return written


def find(step: Step, root: Path, key: str) -> ManifestRef | None:
    """Return the manifest of `key` below `root` if it is readable and every file it names is complete, else None."""
    path = step.path(root, key)
    if not path.exists():
        return None
    if not is_whole(path):
        log.warning("%s: has other bytes than were written. It is made again.", path)
        return None
    try:
        found = read_manifest_ref(path, cached=True)
        return found if _has_whole_files(step, root, path) else None
    except BadManifest as error:
        log.warning("%s It is made again.", error)
        return None


def supersede(step: Step, root: Path) -> None:
    """Delete every manifest of `step` below `root`, because the files that they name are about to be replaced."""
    for path in (root / "manifests" / step.name).glob("[!.]*.parquet"):
        remove(path)


def set_aside(path: Path) -> Path:
    """Move a manifest out of the cache, so that its step runs again, and return its new path.

    Rows that then differ get an `attempt` that is one higher.
    """
    return move(path, _name_aside(path, count_attempts(path) + 1))


def count_attempts(path: Path) -> int:
    """Return how many manifests were set aside at this path; only the last one is kept."""
    return max((int(aside.suffixes[-2][1:]) for aside in _list_asides(path)), default=0)


def _list_asides(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.stem}.*.failed"))


def _forget_older_attempts(path: Path) -> None:
    """Delete the manifests that were set aside at this path but for the last one, which counts them all."""
    last = _name_aside(path, count_attempts(path))
    for aside in _list_asides(path):
        if aside != last:
            remove(aside)


def _name_aside(path: Path, attempt: int) -> Path:
    return path.with_suffix(f".{attempt}.failed")


def _add_attempts(table: pa.Table, path: Path) -> pa.Table:
    """Return the rows with their `attempt`: one more than before, except for equal rows that had succeeded."""
    before = count_attempts(path)
    if not before or "attempt" not in table.column_names:
        return table
    former = {
        _make_identity(row): row["attempt"] for row in read_rows(_name_aside(path, before)) if not row.get("error_code")
    }
    attempts = [former.get(_make_identity(row), before + 1) for row in table.to_pylist()]
    column = table.schema.get_field_index("attempt")
    return table.set_column(column, table.schema.field(column), pa.array(attempts, pa.int32()))


def _make_identity(row: dict[str, Any]) -> str:
    return repr({name: value for name, value in row.items() if name != "attempt"})


def _measure_lengths(step: Step, root: Path, table: pa.Table) -> dict[str, int | None]:
    """Return the bytes of every file that the rows name, and of every file in a folder that they name."""
    names = {name for column in step.files for name in table[column].to_pylist() if name}
    files = {Path(name) / file.relative_to(root / name) for name in names for file in _list_files(root / name)}
    return {str(file): _measure_length(root / file) for file in sorted(files)}


def _list_files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]


def _measure_length(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _has_whole_files(step: Step, root: Path, path: Path) -> bool:
    """Say whether every file that a manifest names exists and is complete: a full disk leaves files cut or empty."""
    known = read_lengths(path) if step.files else {}
    found = {name: _measure_length(root / name) for name in known}
    for name, length in found.items():
        if length not in (None, known[name]):
            _say(f"{name}: has {length} bytes, but {known[name]} were written. It is made again.")
    return found == known and None not in found.values()


@cache
def _say(text: str) -> None:
    """Warn once, however often a step checks its files."""
    log.warning("%s", text)
