"""Clips that look alike are found, all of them and no others, without comparing each with each."""

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.caching import make_lineage
from tasks.curate import split
from tasks.curate.dedup import (
    SCHEMA,
    Band,
    DedupConfig,
    Links,
    choose_bands,
    find_candidates,
    group_clips,
    group_duplicates,
    link_embeddings,
    link_hashes,
    parse_hashes,
)
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.video_manifests import add_manifests
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_manifest, read_rows, write_manifest
from tests.declared import declared

CONFIG = DedupConfig()

COLUMNS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("shot_start_pts", pa.int64()),
        ("phash", pa.list_(pa.string())),
        ("embedding", pa.list_(pa.float32())),
    ]
)


def clip(name: str, *hashes: int, video: str = "", shot: int = 0) -> dict:
    return {
        "clip_id": name,
        "video_id": video or name,
        "shot_start_pts": shot,
        "phash": [f"{h:016x}" for h in hashes or (0, 0, 0)],
    }


def groups(*clips: dict[str, Any], config: DedupConfig = CONFIG) -> dict[str, str | None]:
    found = group_clips(pa.Table.from_pylist(list(clips), COLUMNS), config)
    assert found.schema == SCHEMA
    return dict(zip(found["clip_id"].to_pylist(), found["dedup_group"].to_pylist(), strict=True))


def components(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """For each item the first one that it is connected with, by the plainest means."""
    reach = np.eye(count, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(count.bit_length()):
        reach = reach @ reach
    return [int(np.flatnonzero(row)[0]) for row in reach]


def test_clips_alike_in_all_three_frames_have_the_first_ones_name():
    near = 0b1111
    assert groups(clip("a"), clip("b", near, near, near), clip("c", 2**64 - 1, 0, 0)) == {"a": "a", "b": "a", "c": None}


@pytest.mark.parametrize(("bits", "together"), [(10, True), (11, False)])
def test_the_limit_is_in_bits_of_the_worst_frame(bits: int, together: bool):
    found = groups(clip("a"), clip("b", 0, 2**bits - 1, 0))
    assert (found["b"] == "a") is together


def test_links_go_through_others():
    chain = [clip(name, *[2**bits - 1] * 3) for name, bits in (("a", 0), ("b", 8), ("c", 16), ("d", 40))]
    assert groups(*chain) == {"a": "a", "b": "a", "c": "a", "d": None}


def test_pieces_of_one_shot_do_not_repeat_one_another():
    pieces = [clip("a", video="v", shot=5), clip("b", video="v", shot=5)]
    assert groups(*pieces) == {"a": None, "b": None}
    assert groups(*pieces, clip("c", video="v", shot=90)) == {"a": "a", "b": "a", "c": "a"}


def test_a_clip_without_hashes_is_like_no_other():
    unmeasured = clip("b") | {"phash": None}
    assert groups(clip("a"), unmeasured, clip("c")) == {"a": "a", "b": None, "c": "a"}
    assert groups() == {}


def test_hashes_are_read_as_sixty_four_bits():
    column = pa.chunked_array([[["ffffffffffffffff", "0" * 16, "8000000000000000"]]], pa.list_(pa.string()))
    assert parse_hashes(column).tolist() == [[2**64 - 1, 0, 2**63]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.integers(1, 4))
def test_linked_items_are_the_connected_ones_however_they_come(pairs: list[tuple[int, int]], at_once: int):
    links = Links(10)
    for start in range(0, len(pairs), at_once):
        links.add(*np.array(pairs[start : start + at_once]).T)
    assert links.label.tolist() == components(10, pairs)
    assert set(np.flatnonzero(links.linked)) == {i for pair in pairs for i in pair}


def alike(hashes: np.ndarray, shots: list[int], limit: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, j in combinations(range(len(hashes)), 2)
        if shots[i] != shots[j] and np.bitwise_count(hashes[i] ^ hashes[j]).max() <= limit
    ]


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data(), st.integers(1, 60), st.sampled_from([0, 1, 3, 10, 31]), st.integers(1, 3))
def test_groups_are_those_that_comparing_each_with_each_gives(data: st.DataObject, count: int, limit: int, frames: int):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    centres = rng.integers(0, 2**64, (5, frames), dtype=np.uint64)
    hashes = centres[rng.integers(0, 5, count)]
    for _ in range(data.draw(st.integers(0, limit + 2))):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, hashes.shape, dtype=np.uint64))
    shots = rng.integers(0, data.draw(st.integers(1, 40)), count)
    pairs = alike(hashes, shots.tolist(), limit)
    links = link_hashes(hashes, shots, limit)
    assert links.label.tolist() == components(count, pairs)
    assert set(np.flatnonzero(links.linked)) == {i for pair in pairs for i in pair}


@pytest.mark.parametrize("count", [10, 10_000, 1_000_000])
@pytest.mark.parametrize("limit", range(0, 32, 5))
def test_bands_cover_the_hash_and_let_no_alike_pair_through(count: int, limit: int):
    bands = choose_bands(count, limit)
    assert [band.start for band in bands] == np.cumsum([0, *(band.width for band in bands)])[:-1].tolist()
    assert sum(band.width for band in bands) == 64
    # Were every band further apart than its radius, the hashes would be further apart than the limit.
    assert sum(band.radius + 1 for band in bands) == limit + 1


def test_candidates_are_the_pairs_of_near_buckets_each_once():
    values = np.sort(np.random.default_rng(5).integers(0, 64, 50))
    chunks = find_candidates(values, Band(0, 6, 2))
    found = [tuple(sorted(pair)) for a, b in chunks for pair in zip(a.tolist(), b.tolist(), strict=True)]
    near = [(i, j) for i, j in combinations(range(50), 2) if np.bitwise_count(values[i] ^ values[j]) <= 2]
    assert sorted(found) == near


def test_many_clips_of_the_same_picture_are_one_group_at_once():
    count = 20_000
    links = link_hashes(np.zeros((count, 3), np.uint64), np.arange(count), 10)
    assert links.linked.all()
    assert not links.label.any()


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([0.5, 0.9, 0.99]))
def test_embeddings_are_linked_as_comparing_each_with_each_gives(seed: int, count: int, limit: float):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(4, 8))[rng.integers(0, 4, count)] + 0.2 * rng.normal(size=(count, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = {(i, j): unit[i] @ unit[j] for i, j in combinations(range(count), 2)}
    assume(all(abs(cosine - limit) > 1e-5 for cosine in cosines.values()))
    pairs = [pair for pair, cosine in cosines.items() if cosine >= limit]
    assert link_embeddings(3 * vectors, np.arange(count), limit).label.tolist() == components(count, pairs)


def test_embeddings_link_clips_whose_hashes_do_not():
    far, east, north = 2**64 - 1, [1.0, 0.0], [0.0, 2.0]
    clips = [
        clip("a") | {"embedding": east},
        clip("b", far, far, far) | {"embedding": [5.0, 0.1]},
        clip("c", 0, far, 0) | {"embedding": north},
        clip("d", far, 0, far) | {"embedding": None},
        clip("e", 0, far, 0),
    ]
    assert groups(*clips) == {"a": "a", "b": "a", "c": "c", "d": None, "e": "c"}


def test_embeddings_come_from_similarity_where_it_has_run(dataset):
    videos = [
        dataset.add(name, [render_shot(Scene(seed), Camera(pan=0.3), 24)], every=6)
        for name, seed in (("a", 1), ("b", 2))
    ]
    looks = measure_look.fn(dataset.root, LookConfig(), videos)
    seen = []
    for cut in (video.split for video in videos):
        rows = {"clip_id": read_manifest(cut)["clip_id"], "embedding": pa.array([[1.0, 1.0]], pa.list_(pa.float32()))}
        path = dataset.root / "manifests" / "similarity" / cut.path.name
        seen.append(write_manifest(path, pa.table(rows), make_lineage(split.STEP, None, [cut.digest])))
    looked = add_manifests(videos, look=looks)
    without = group_duplicates.fn(dataset.root, CONFIG, looked)
    assert [row["dedup_group"] for row in read_rows(without)] == [None, None]
    compared = group_duplicates.fn(dataset.root, CONFIG, add_manifests(looked, similarity=seen))
    found = [row["dedup_group"] for row in read_rows(compared)]
    assert found[0] is not None
    assert found[0] == found[1]


def test_a_copy_smaller_lighter_and_compressed_is_found_in_another_file(dataset):
    def shot(seed: int, size: tuple[int, int] = (160, 96)) -> np.ndarray:
        return render_shot(Scene(seed), Camera(pan=0.3), 24, size=size)

    copy = np.clip(shot(2, (96, 64)) * 1.08 + 6.0, 0, 255).astype(np.uint8)
    videos = [dataset.add("a", [shot(1), shot(2)], every=6), dataset.add("b", [copy, shot(3, (96, 64))], every=6)]
    looks = measure_look.fn(dataset.root, LookConfig(), videos)
    looked = add_manifests(videos, look=looks)
    first, again = (group_duplicates.fn(dataset.root, CONFIG, looked) for _ in range(2))
    rows = read_rows(first)
    assert [row["dedup_group"] for row in rows] == [None, rows[1]["clip_id"], rows[1]["clip_id"], None]
    assert (first.cached, again.cached) == (False, True)


def test_a_dataset_without_clips_has_no_groups(dataset):
    ref = group_duplicates.fn(dataset.root, CONFIG, [])
    assert read_manifest(ref).schema == SCHEMA
    assert ref.rows == 0


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(DedupConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "max_distance": "10, ge=0, le=31",
        "min_cosine": "0.97, gt=0, le=1",
    }


def test_the_step_goes_by_its_name():
    assert group_duplicates.name == "dedup"
