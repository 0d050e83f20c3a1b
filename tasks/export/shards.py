"""Shards: a dataset's samples as WebDataset tar files, train-000000.tar and so on for each split.

A sample is three members with the clip's name: .mp4, .json (the clip's facts) and .txt (its caption). Samples are
ordered by a hash, so that the clips of one film are spread over the shards. The same samples give the same bytes: they
depend on no clock, no user and no order of files. A sample whose clip cannot be read, or has other bytes than were cut,
is in no shard: a row without a shard says why.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadMedia
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute, supersede
from tasks.ledger import remove, resolve_inside
from tasks.manifest import ERROR_FIELDS, ManifestRef, digest_file, make_table, publish, read_rows

VERSION = 1

NEEDS = ("clip_id", "side", "caption", "video", "bytes", "sha256", "facts")

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("side", pa.string()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("shards", VERSION, SCHEMA, files=("shard",))

NAMES = re.compile(r"(train|validation|test)-\d{6}\.tar")

Rows = Sequence[Mapping[str, Any]]


class ShardsConfig(BaseModel):
    """The limits of a shard's size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_mb: float = Field(default=1000.0, gt=0, description="Largest size of a shard, in 10^6 bytes.")
    max_samples: int = Field(default=10_000, ge=1, description="Most samples in a shard.")


def group_into_shards(samples: Rows, config: ShardsConfig) -> list[list[Mapping[str, Any]]]:
    """Return the samples in the order of their hashes, in shards; a sample that is too large has its own."""
    shards: list[list[Mapping[str, Any]]] = []
    room = 0.0
    for sample in sorted(samples, key=lambda sample: _hash_text(sample["clip_id"])):
        size = _measure_size(sample)
        if not shards or size > room or len(shards[-1]) >= config.max_samples:
            shards.append([])
            room = config.max_mb * 1e6 - tarfile.RECORDSIZE
        shards[-1].append(sample)
        room -= size
    return shards


def _measure_size(sample: Mapping[str, Any]) -> int:
    """Return the bytes of a sample in a tar file: each member has a header and is padded to a multiple of a block."""
    sizes = (sample["bytes"], len(sample["facts"].encode()), len((sample["caption"] or "").encode()))
    return sum(tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE)) for size in sizes)


def write_shard(path: Path, samples: Rows, dataset: Path) -> list[dict[str, Any]]:
    """Write the samples, whose clips are below `dataset`, to one tar file that appears complete or not at all; return a
    row for each that cannot be read. Without any other, there is no file."""
    failed = []
    with publish(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            members, error = _try_to_read(sample, dataset)
            failed += [{"side": sample["side"], "samples": 0, "attempt": 1, **error}] if error else []
            for ending, content in members:
                member = tarfile.TarInfo(f"{sample['clip_id']}.{ending}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
    if len(failed) == len(samples):
        remove(path)
    return failed


def _try_to_read(sample: Mapping[str, Any], dataset: Path) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Return the members of a sample, and where it cannot be read, the columns of its error instead."""
    nothing: list[tuple[str, bytes]] = []
    name = sample["clip_id"]
    return tried(lambda: (_read_members(sample, dataset), {}), lambda error: (nothing, error), "exporting", name)


def _read_members(sample: Mapping[str, Any], dataset: Path) -> list[tuple[str, bytes]]:
    clip = resolve_inside(dataset, sample["video"]).read_bytes()
    if hashlib.sha256(clip).hexdigest() != sample["sha256"]:
        raise BadMedia(
            f"{sample['video']}: has other bytes than were cut. `reelmill retry` on the export cuts it again."
        )
    return [("mp4", clip), ("json", sample["facts"].encode()), ("txt", (sample["caption"] or "").encode())]


def write_all(out: Path, dataset: Path, samples: Rows, config: ShardsConfig) -> list[dict[str, Any]]:
    """Write the shards of every split below `out`, remove older ones, and return a row per shard and per sample that
    failed."""
    rows = []
    for split in sorted({sample["side"] for sample in samples}):
        shards = group_into_shards([sample for sample in samples if sample["side"] == split], config)
        for number, shard in enumerate(shards):
            path = out / f"{split}-{number:06}.tar"
            failed = write_shard(path, shard, dataset)
            if len(failed) < len(shard):
                measured = {"bytes": path.stat().st_size, "sha256": digest_file(path), "attempt": 1}
                rows.append({"shard": path.name, "side": split, "samples": len(shard) - len(failed)} | measured)
            rows += failed
    written = {row.get("shard") for row in rows}
    for path in out.iterdir():
        if NAMES.fullmatch(path.name) and path.name not in written:
            remove(path)
    return rows


@task(name="shards")
def write_shards(out: Path, config: ShardsConfig, dataset: Path, samples: ManifestRef) -> ManifestRef:
    """Find or write the shards of all samples that have a split, below `out`."""

    def compute(_: str) -> pa.Table:
        supersede(STEP, out)
        chosen = [sample for sample in read_rows(samples, NEEDS) if sample["side"]]
        return make_table(write_all(out, dataset, chosen, config), SCHEMA)

    return find_or_compute(STEP, out, config, [samples], compute)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
