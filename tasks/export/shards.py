"""Shards: a dataset's samples as WebDataset tar files, train-000000.tar and so on for each side.

A sample is three members with the clip's name: .mp4, .json (all that is known of the clip) and .txt (its caption).
Samples lie in an order drawn by a hash, so that the clips of one film are spread over the shards. The same samples give
the same bytes: no clock, no user and no order of a folder is in them.
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
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks.caching import Step, cached, supersede
from tasks.manifest import ERROR_FIELDS, ManifestRef, file_digest, publish, read_rows, table_of

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
    """How large a shard may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_mb: float = Field(default=1000.0, gt=0, description="A shard is full before it is larger, in 10^6 bytes.")
    max_samples: int = Field(default=10_000, ge=1, description="Most samples in a shard.")


def shards_of(samples: Rows, config: ShardsConfig) -> list[list[Mapping[str, Any]]]:
    """Samples in the order of their hashes, cut into shards; one that is larger than a shard has one of its own."""
    shards: list[list[Mapping[str, Any]]] = []
    room = 0.0
    for sample in sorted(samples, key=lambda sample: _digest(sample["clip_id"])):
        size = _size(sample)
        if not shards or size > room or len(shards[-1]) >= config.max_samples:
            shards.append([])
            room = config.max_mb * 1e6 - tarfile.RECORDSIZE
        shards[-1].append(sample)
        room -= size
    return shards


def _size(sample: Mapping[str, Any]) -> int:
    """The bytes that a sample takes in a tar file: each member has a header and is filled up to whole blocks."""
    sizes = (sample["bytes"], len(sample["facts"].encode()), len((sample["caption"] or "").encode()))
    return sum(tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE)) for size in sizes)


def write_shard(path: Path, samples: Rows, dataset: Path) -> None:
    """Write the samples, whose clips lie below `dataset`, to one tar file that appears whole or not at all."""
    with publish(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for ending, content in _members(sample, dataset):
                member = tarfile.TarInfo(f"{sample['clip_id']}.{ending}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def _members(sample: Mapping[str, Any], dataset: Path) -> Iterator[tuple[str, bytes]]:
    yield "mp4", (dataset / sample["video"]).read_bytes()
    yield "json", sample["facts"].encode()
    yield "txt", (sample["caption"] or "").encode()


def write_all(out: Path, dataset: Path, samples: Rows, config: ShardsConfig) -> list[dict[str, Any]]:
    """Write the shards of every side below `out`, where older ones are removed: a row for each."""
    rows = []
    for split in sorted({sample["side"] for sample in samples}):
        shards = shards_of([sample for sample in samples if sample["side"] == split], config)
        for number, shard in enumerate(shards):
            path = out / f"{split}-{number:06}.tar"
            write_shard(path, shard, dataset)
            measured = {"bytes": path.stat().st_size, "sha256": file_digest(path), "attempt": 1}
            rows.append({"shard": path.name, "side": split, "samples": len(shard)} | measured)
    written = {row["shard"] for row in rows}
    for path in out.iterdir():
        if NAMES.fullmatch(path.name) and path.name not in written:
            path.unlink()
    return rows


@task(name="shards", cache_policy=NO_CACHE)
def write_shards(out: Path, config: ShardsConfig, dataset: Path, samples: ManifestRef) -> ManifestRef:
    """The shards of all samples that have a side, below `out`: found, or made."""

    def compute(_: str) -> pa.Table:
        supersede(STEP, out)
        chosen = [sample for sample in read_rows(samples, NEEDS) if sample["side"]]
        return table_of(write_all(out, dataset, chosen, config), SCHEMA)

    return cached(STEP, out, config, [samples], compute)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
