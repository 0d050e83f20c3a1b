"""Steps that run once: a manifest is named by the digest of all that went into it, and is looked up by that name.

The key covers the inputs' digests, the canonical parameters, the step's version and the model's revision. No path, no
clock and no run id is in it. A manifest counts as found only below the root asked for, and only while every file that
its rows name is still there.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from models.errors import BadManifest
from tasks.manifest import Lineage, ManifestRef, manifest_ref, read_manifest, write_manifest

log = logging.getLogger("reelmill")


@dataclass(frozen=True)
class Step:
    """What a step declares: its name, the version to raise when its results change, the columns it writes, and which
    of those name files below the root."""

    name: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()

    def path(self, root: Path, key: str) -> Path:
        """Where the manifest of `key` lies below `root`."""
        return root / "manifests" / self.name / f"{key}.parquet"


def key_of(lineage: Lineage) -> str:
    """The cache key: 32 hexadecimal digits of the digest of the canonical lineage."""
    canonical = json.dumps(lineage.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def lineage_of(step: Step, config: BaseModel | None, inputs: Iterable[str], revision: str | None = None) -> Lineage:
    """The lineage of one call of `step`: `inputs` are digests, in an order that means something."""
    parameters = config.model_dump(mode="json") if config else {}
    return Lineage(
        step=step.name, version=step.version, parameters=parameters, inputs=tuple(inputs), model_revision=revision
    )


def cached(
    step: Step,
    root: Path,
    config: BaseModel | None,
    inputs: Sequence[ManifestRef | str],
    compute: Callable[[str], pa.Table],
    revision: str | None = None,
) -> ManifestRef:
    """The manifest of this call: found, or computed by `compute(key)` and written.

    `inputs` are manifests or digests of files. `compute` gets the key, to name the files it writes by.
    """
    lineage = lineage_of(step, config, (i.digest if isinstance(i, ManifestRef) else i for i in inputs), revision)
    key = key_of(lineage)
    path = step.path(root, key)
    found = find(step, root, key)
    if found:
        return found
    log.debug("%s runs: %s", step.name, key)
    table = compute(key)
    if table.schema != step.schema:
        raise BadManifest(f"{step.name}: its rows have {table.schema.names}, its schema says {step.schema.names}.")
    return write_manifest(path, _counted(table, attempts_of(path) + 1), lineage)


def find(step: Step, root: Path, key: str) -> ManifestRef | None:
    """The manifest of `key` below `root`, if it is whole and every file it names exists."""
    path = step.path(root, key)
    if not path.exists():
        return None
    try:
        found = manifest_ref(path, cached=True)
        return found if _files_exist(step, root, found) else None
    except BadManifest as error:
        log.warning("%s It is made again.", error)
        return None


def set_aside(path: Path) -> None:
    """Take a manifest out of the cache, so that its step runs again; the new rows count one more `attempt`."""
    path.rename(path.with_suffix(f".{attempts_of(path) + 1}.failed"))


def attempts_of(path: Path) -> int:
    """How many manifests were set aside at this path."""
    return len(list(path.parent.glob(f"{path.stem}.*.failed")))


def _counted(table: pa.Table, attempt: int) -> pa.Table:
    if attempt == 1 or "attempt" not in table.column_names:
        return table
    column = table.schema.get_field_index("attempt")
    return table.set_column(column, table.schema.field(column), pa.array([attempt] * len(table), pa.int32()))


def _files_exist(step: Step, root: Path, manifest: ManifestRef) -> bool:
    if not step.files:
        return True
    columns = read_manifest(manifest, step.files)
    names = (name for column in columns.columns for name in column.to_pylist() if name)
    return all((root / name).is_file() for name in names)
