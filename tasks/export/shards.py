"""Shards: a dataset's samples as WebDataset tar files, train-000000.tar and so on for each split.

A sample is three members with the clip's name: .mp4, .json (the clip's facts) and .txt (its caption). Samples are
ordered by a hash, so that the clips of one film are spread over the shards. The same samples give the same bytes: they
depend on no clock, no user and no order of files.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from tasks.caching import Step, find_or_compute, supersede
from tasks.ledger import remove, resolve_inside
from tasks.manifest import ERROR_FIELDS, ManifestRef, digest_file, make_table, publish, read_rows

VERSION = 1

NEEDS = ("clip_id", "side", "caption", "video", "bytes", "facts")

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


def write_shard(path: Path, samples: Rows, dataset: Path) -> None:
    """Write the samples, whose clips are below `dataset`, to one tar file that appears complete or not at all."""
    with publish(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for ending, content in _read_members(sample, dataset):
                member = tarfile.TarInfo(f"{sample['clip_id']}.{ending}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def _read_members(sample: Mapping[str, Any], dataset: Path) -> Iterator[tuple[str, bytes]]:
    yield "mp4", resolve_inside(dataset, sample["video"]).read_bytes()
    yield "json", sample["facts"].encode()
    yield "txt", (sample["caption"] or "").encode()


def write_all(out: Path, dataset: Path, samples: Rows, config: ShardsConfig) -> list[dict[str, Any]]:
    """Write the shards of every split below `out`, remove older ones, and return a row per shard."""
    rows = []
    for split in sorted({sample["side"] for sample in samples}):
        shards = group_into_shards([sample for sample in samples if sample["side"] == split], config)
        for number, shard in enumerate(shards):
            path = out / f"{split}-{number:06}.tar"
            write_shard(path, shard, dataset)
            measured = {"bytes": path.stat().st_size, "sha256": digest_file(path), "attempt": 1}
            rows.append({"shard": path.name, "side": split, "samples": len(shard)} | measured)
    written = {row["shard"] for row in rows}
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
