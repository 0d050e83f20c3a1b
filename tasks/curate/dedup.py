"""Dedup: which clips of the whole dataset look alike, by perceptual hashes of several frames and by embeddings.

Two clips look alike when each of the hashes of their first, middle and last frame differs in at most `max_distance` of
its 64 bits (two unrelated pictures differ in about 32), or when the cosine of their embeddings, where there are any, is
at least `min_cosine`. Clips that are linked so, directly or through others, share one `dedup_group`: the clip_id of the
first of them. A clip that looks like no other has none. Pieces of one shot are not compared: they follow one another,
they do not repeat. `select` decides which clip of a group is kept.

No pair is missed and few are compared: multi-index hashing (Norouzi, Punjani and Fleet, "Fast exact search in Hamming
space with multi-index hashing", 2014). The hashes are cut into bands. Two hashes that differ in few bits differ in very
few bits of some band, so only clips from neighbouring buckets of a band are compared. The bands' width follows the
number of clips.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from tasks import clip_measures
from tasks.caching import Step, find_or_compute
from tasks.clip_columns import encode_values
from tasks.curate.video_manifests import VideoManifests
from tasks.manifest import ManifestRef, read_manifest

VERSION = 1

NEEDS = {
    "split": ("clip_id", "video_id", "shot_start_pts"),
    "look": ("clip_id", "phash"),
    "similarity": ("clip_id", "embedding"),
}
"""Embeddings are vectors of one length, null where unmeasured; none are read where similarity has not run."""

SCHEMA = clip_measures.make_step_schema(clip_measures.DEDUP)

STEP = Step("dedup", VERSION, SCHEMA)

PAIRS_AT_ONCE = 1 << 18
"""Pairs compared at a time; they bound the memory."""

BLOCK = 1024
"""Embeddings whose cosines are computed at a time."""

WIDEST = 22
"""Bits of the widest band: its table of buckets has 2 to their power entries."""

SEVERAL = -1
"""The shot of hashes that clips of several shots share."""

Hashes = NDArray[np.uint64]
Integers = NDArray[np.integer]
Pairs = tuple[Integers, Integers]


class DedupConfig(BaseModel):
    """How similar duplicates are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_distance: int = Field(
        default=10, ge=0, le=31, description="Hashes of duplicates differ in at most this many of their 64 bits."
    )
    min_cosine: float = Field(
        default=0.97, gt=0, le=1, description="Embeddings of duplicates, if any, have at least this cosine."
    )


class Band(NamedTuple):
    """`width` bits of a hash from bit `start`; in these, similar hashes differ in at most `radius` bits."""

    start: int
    width: int
    radius: int

    @property
    def probes(self) -> int:
        """Return the number of buckets that may hold hashes similar to a given one."""
        return sum(comb(self.width, k) for k in range(self.radius + 1))


class Links:
    """Which of `count` items are linked, directly or through others; `label` is the first item of each item's group."""

    def __init__(self, count: int) -> None:
        self.label: Integers = np.arange(count)
        self.linked = np.zeros(count, bool)

    def add(self, a: Integers, b: Integers) -> None:
        """Link the items a[i] and b[i]."""
        self.linked[a] = self.linked[b] = True
        while len(a):
            low = np.minimum(self.label[a], self.label[b])
            np.minimum.at(self.label, self.label[a], low)
            np.minimum.at(self.label, self.label[b], low)
            self._settle()
            apart = self.label[a] != self.label[b]
            a, b = a[apart], b[apart]

    def _settle(self) -> None:
        while (self.label != (higher := self.label[self.label])).any():
            self.label = higher


def parse_hashes(phash: pa.ChunkedArray) -> Hashes:
    """Parse hashes [clips, frames] from lists with 16 hexadecimal digits for each frame, none of them null."""
    digits = "".join(phash.combine_chunks().flatten().to_pylist())
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(len(phash), -1)


def choose_bands(count: int, max_distance: int) -> list[Band]:
    """Return the bands that make comparing `count` hashes cheapest.

    Their radii add up to max_distance + 1 - bands, so that two hashes within the distance are within the radius of at
    least one band; a band of radius -1 is not needed.
    """
    fewest = -(-64 // WIDEST)
    return min(
        (_cut(bands, max_distance) for bands in range(fewest, 17)), key=lambda bands: _estimate_cost(bands, count)
    )


def find_candidates(ranked: Integers, band: Band) -> Iterator[Pairs]:
    """Yield, in parts, each pair of places whose values of a band differ in at most its radius, once; `ranked` is
    ascending."""
    sizes = np.bincount(ranked, minlength=1 << band.width)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    places = np.arange(len(ranked), dtype=np.int32)
    yield from _make_pairs(places, places + 1, starts[ranked + 1] - places - 1)
    for mask in _list_masks(band):
        # Of two buckets, the lower one looks for the other.
        other = ranked ^ mask
        lower = np.flatnonzero(other > ranked).astype(np.int32)
        first = starts[other[lower]]
        yield from _make_pairs(lower, first, starts[other[lower] + 1] - first)


def link_hashes(hashes: Hashes, shots: Integers, max_distance: int) -> Links:
    """Link items [n, frames] whose hashes are all within `max_distance`, but not those of one shot."""
    unique, item = np.unique(hashes, axis=0, return_inverse=True)
    item = item.ravel()
    shot = _find_shots(item, shots, len(unique))
    links = Links(len(unique))
    # The frame whose pictures are the most different cuts the search down best, and the next one the pairs found.
    frames = sorted(range(hashes.shape[1]), key=lambda f: -len(np.unique(unique[:, f])))
    for band in (band for band in choose_bands(len(unique), max_distance) if band.radius >= 0):
        values = (unique[:, frames[0]] >> np.uint64(band.start)).astype(np.int64) & ((1 << band.width) - 1)
        order = np.argsort(values, kind="stable")
        ranked = [np.ascontiguousarray(unique[order, f]) for f in (*frames[1:], frames[0])]
        for pair in find_candidates(values[order].astype(np.int32), band):
            near = _keep_near(pair, ranked, max_distance)
            a, b = (order[places] for places in near)
            new = (links.label[a] != links.label[b]) & ((shot[a] != shot[b]) | (shot[a] == SEVERAL))
            links.add(a[new], b[new])
    return _expand_links(links, item, shot == SEVERAL)


def link_embeddings(vectors: NDArray[np.floating], shots: Integers, min_cosine: float) -> Links:
    """Link items [n, length] with a cosine of at least `min_cosine`, but not those of one shot, block by block."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    links = Links(len(unit))
    for i in range(0, len(unit), BLOCK):
        for j in range(i, len(unit), BLOCK):
            a, b = np.nonzero(unit[i : i + BLOCK] @ unit[j : j + BLOCK].T >= min_cosine - 1e-6)
            a, b = a + i, b + j
            new = (a < b) & (shots[a] != shots[b])
            links.add(a[new], b[new])
    return links


def group_clips(clips: pa.Table, config: DedupConfig) -> pa.Table:
    """Return the rows of clips with the columns of NEEDS, embeddings where there are any.

    A clip without hashes and embedding has no group.
    """
    count = len(clips)
    shots = encode_values(clips, "video_id", "shot_start_pts")
    links = Links(count)
    hashed = _find_measured(clips["phash"])
    if len(hashed):
        hashes = parse_hashes(clips["phash"].take(hashed))
        _take_over(links, hashed, link_hashes(hashes, shots[hashed], config.max_distance))
    seen = _find_measured(clips["embedding"]) if "embedding" in clips.column_names else hashed[:0]
    if len(seen):
        vectors = clips["embedding"].take(seen).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        _take_over(links, seen, link_embeddings(vectors.reshape(len(seen), -1), shots[seen], config.min_cosine))
    group = clips["clip_id"].take(pa.array(links.label, mask=~links.linked))
    errors = [pa.nulls(count, pa.string())] * 2
    return pa.table([clips["clip_id"], group, *errors, pa.array(np.ones(count, np.int32))], SCHEMA)


def read_clips(videos: Sequence[VideoManifests]) -> pa.Table:
    """Read the clips of all videos, joined by clip_id from each video's manifests, in the order of the splits."""
    steps = [(columns, [ref for video in videos for ref in video.of([step])]) for step, columns in NEEDS.items()]
    parts = [pa.concat_tables(read_manifest(ref, columns) for ref in refs) for columns, refs in steps if refs]
    if not parts:
        empty = [("clip_id", pa.string()), ("video_id", pa.string()), ("shot_start_pts", pa.int64())]
        return pa.schema([*empty, ("phash", pa.list_(pa.string()))]).empty_table()
    clips = parts[0].filter(parts[0]["clip_id"].is_valid())
    for part in parts[1:]:
        row = {clip: i for i, clip in enumerate(part["clip_id"].to_pylist())}
        rows = pa.array([row.get(clip) for clip in clips["clip_id"].to_pylist()], pa.int64())
        for name in part.column_names[1:]:
            clips = clips.append_column(name, part[name].take(rows))
    return clips


@task(name="dedup")
def group_duplicates(root: Path, config: DedupConfig, videos: Sequence[VideoManifests]) -> ManifestRef:
    """Group the clips of all videos by their hashes and, where there are any, their embeddings."""
    inputs = [manifest for video in videos for manifest in video.of(NEEDS)]
    return find_or_compute(STEP, root, config, inputs, lambda _: group_clips(read_clips(videos), config))


def _cut(bands: int, max_distance: int) -> list[Band]:
    """Cut 64 bits into `bands` of about the same width; the narrow ones get the small radii."""
    widths = [64 // bands + (i < 64 % bands) for i in range(bands)]
    left = max_distance + 1 - bands
    radii = [left // bands + (i < left % bands) for i in range(bands)] if left >= 0 else [0] * (max_distance + 1)
    radii += [-1] * (bands - len(radii))
    starts = np.cumsum([0, *widths]).tolist()
    return [Band(start, width, radius) for start, width, radius in zip(starts, widths, radii, strict=False)]


def _estimate_cost(bands: list[Band], count: int) -> float:
    """Return the cost per item: buckets looked up, and pairs found in them by chance, each about 0.4 of a look-up's
    time."""
    return sum(band.probes * (1 + 0.4 * count / 2**band.width) for band in bands)


def _list_masks(band: Band) -> list[int]:
    """Return the bits that may differ between a bucket and one of its neighbours."""
    bits = [1 << bit for bit in range(band.width)]
    return [sum(some) for k in range(1, band.radius + 1) for some in combinations(bits, k)]


def _make_pairs(places: Integers, first: Integers, count: Integers) -> Iterator[Pairs]:
    """Yield the pairs (places[i], j) with first[i] <= j < first[i] + count[i], about PAIRS_AT_ONCE at a time."""
    busy = np.flatnonzero(count)
    places, first, count = places[busy], first[busy], count[busy]
    ends = np.cumsum(count, dtype=np.int64)
    start = 0
    while start < len(busy):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        many = count[start:stop]
        # What b starts from at each step of a, less the steps before it.
        shift = first[start:stop] - (ends[start:stop] - many - before)
        yield np.repeat(places[start:stop], many), np.repeat(shift, many) + np.arange(ends[stop - 1] - before)
        start = stop


def _keep_near(pair: Pairs, ranked: list[Hashes], max_distance: int) -> Pairs:
    """Return the pairs of places whose hashes are all within the distance."""
    for hashes in ranked:
        near = np.flatnonzero(np.bitwise_count(hashes[pair[0]] ^ hashes[pair[1]]) <= max_distance)
        pair = pair[0][near], pair[1][near]
    return pair


def _find_shots(item: Integers, shots: Integers, count: int) -> Integers:
    """Return the shot of each group of items with the same hashes; SEVERAL when they come from more than one."""
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(least, item, shots)
    np.maximum.at(most, item, shots)
    return np.where(least == most, least, SEVERAL)


def _expand_links(links: Links, item: Integers, several: NDArray[np.bool_]) -> Links:
    """Return the links of items from those of their groups; items of several shots with the same hashes are linked
    too."""
    found = Links(len(item))
    label = links.label[item]
    first = np.full(len(links.label), len(item))
    np.minimum.at(first, label, np.arange(len(item)))
    found.linked = (links.linked | several)[item]
    found.label = np.where(found.linked, first[label], found.label)
    return found


def _take_over(links: Links, rows: Integers, more: Links) -> None:
    """Add the links among some of the items."""
    linked = np.flatnonzero(more.linked)
    links.add(rows[linked], rows[more.label[linked]])


def _find_measured(column: pa.ChunkedArray) -> Integers:
    return np.flatnonzero(column.is_valid().to_numpy()).astype(np.int64)
