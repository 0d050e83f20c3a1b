"""Dedup: which clips of the whole dataset look alike, by the perceptual hashes of their first, middle and last frame.

Two clips look alike when each of the three hashes differs in at most `max_distance` of its 64 bits (two unrelated
pictures differ in about 32). Clips that are linked so, directly or through others, have one `dedup_group`, which is the
first one's clip_id; a clip like no other has none. Pieces of one shot are not compared: they follow, not repeat, one
another. The cost grows with the square of the number of clips: a second for some 20,000.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks.caching import Step, cached
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of

VERSION = 1

NEEDS = (("clip_id", "video_id", "shot_start_pts"), ("clip_id", "phash"))
"""Columns read of the split and of the step look."""

SCHEMA = pa.schema([("clip_id", pa.string()), ("dedup_group", pa.string()), *ERROR_FIELDS])

STEP = Step("dedup", VERSION, SCHEMA)


class DedupConfig(BaseModel):
    """How alike duplicates are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_distance: int = Field(
        default=10, ge=0, le=31, description="Bits of 64 in which hashes of duplicates differ at most."
    )


def hashes_of(digits: Sequence[Sequence[str]]) -> NDArray[np.uint64]:
    """Hashes [clips, 3] from three times 16 hexadecimal digits each."""
    return np.array([[int(one, 16) for one in clip] for clip in digits], np.uint64).reshape(len(digits), 3)


def alike_pairs(hashes: NDArray[np.uint64], shots: Sequence[Any], max_distance: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of clips [clips, 3] from different `shots` whose hashes all lie within `max_distance`."""
    _, shot = np.unique(np.array(shots, dtype=str), return_inverse=True)
    pairs = []
    for i in range(len(hashes) - 1):
        distance = np.bitwise_count(hashes[i + 1 :] ^ hashes[i]).max(axis=1)
        alike = np.flatnonzero((distance <= max_distance) & (shot[i + 1 :] != shot[i]))
        pairs += [(i, i + 1 + int(j)) for j in alike]
    return pairs


def linked(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `count` items the first item that it is linked to by `pairs`, directly or through others."""
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        first[high] = low
    return [root(i) for i in range(count)]


def group_clips(clips: Sequence[dict[str, Any]], config: DedupConfig) -> list[dict[str, Any]]:
    """The rows of clips given with the columns of NEEDS; a clip without hashes is like no other."""
    hashed = [clip for clip in clips if clip.get("phash")]
    shots = [f"{clip['video_id']}-{clip['shot_start_pts']}" for clip in hashed]
    pairs = alike_pairs(hashes_of([clip["phash"] for clip in hashed]), shots, config.max_distance)
    firsts = linked(len(hashed), pairs)
    in_pair = {i for pair in pairs for i in pair}
    groups = {clip["clip_id"]: hashed[firsts[i]]["clip_id"] for i, clip in enumerate(hashed) if i in in_pair}
    return [{"clip_id": clip["clip_id"], "dedup_group": groups.get(clip["clip_id"]), "attempt": 1} for clip in clips]


@task(name="dedup", cache_policy=NO_CACHE)
def group_duplicates(root: Path, config: DedupConfig, videos: list[tuple[ManifestRef, ManifestRef]]) -> ManifestRef:
    """Group the clips of all videos, each given by its split and its look."""

    def compute(_: str) -> pa.Table:
        clips: dict[str, dict[str, Any]] = {}
        for manifests in videos:
            for manifest, columns in zip(manifests, NEEDS, strict=True):
                for row in read_rows(manifest, columns):
                    clips.setdefault(row["clip_id"], {}).update(row)
        return table_of(group_clips(list(clips.values()), config), SCHEMA)

    return cached(STEP, root, config, [manifest for pair in videos for manifest in pair], compute)
