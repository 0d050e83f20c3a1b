import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curate.dedup import SCHEMA, DedupConfig, alike_pairs, group_clips, group_duplicates, hashes_of, linked
from tasks.curate.look import LookConfig, measure_look
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_manifest, read_rows

CONFIG = DedupConfig()


def clip(name: str, *hashes: int, video: str = "", shot: int = 0) -> dict:
    return {
        "clip_id": name,
        "video_id": video or name,
        "shot_start_pts": shot,
        "phash": [f"{h:016x}" for h in hashes or (0, 0, 0)],
    }


def groups(*clips: dict, config: DedupConfig = CONFIG) -> dict[str, str | None]:
    return {row["clip_id"]: row["dedup_group"] for row in group_clips(clips, config)}


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
    assert hashes_of([["ffffffffffffffff", "0" * 16, "8000000000000000"]]).tolist() == [[2**64 - 1, 0, 2**63]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_linked_items_are_the_connected_ones(pairs: list[tuple[int, int]]):
    count = 10
    reach = np.eye(count, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(count):
        reach = reach @ reach
    assert linked(count, pairs) == [int(np.flatnonzero(row)[0]) for row in reach]


def test_pairs_are_those_that_a_plain_comparison_finds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (40, 3), dtype=np.uint64)
    hashes[20:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 64, (20, 3), dtype=np.uint64))
    assert alike_pairs(hashes, range(40), 1) == [(i, i + 20) for i in range(20)]


def test_a_copy_smaller_lighter_and_compressed_is_found_in_another_file(dataset):
    def shot(seed: int, size: tuple[int, int] = (160, 96)) -> np.ndarray:
        return render_shot(Scene(seed), Camera(pan=0.3), 24, size=size)

    copy = np.clip(shot(2, (96, 64)) * 1.08 + 6.0, 0, 255).astype(np.uint8)
    videos = [dataset.add("a", [shot(1), shot(2)], every=6), dataset.add("b", [copy, shot(3, (96, 64))], every=6)]
    looks = measure_look.fn(dataset.root, LookConfig(), videos)
    pairs = [(split, look) for (_, split), look in zip(videos, looks, strict=True)]
    first, again = (group_duplicates.fn(dataset.root, CONFIG, pairs) for _ in range(2))
    rows = read_rows(first)
    assert [row["dedup_group"] for row in rows] == [None, rows[1]["clip_id"], rows[1]["clip_id"], None]
    assert (first.cached, again.cached) == (False, True)


def test_a_dataset_without_clips_has_no_groups(dataset):
    ref = group_duplicates.fn(dataset.root, CONFIG, [])
    assert read_manifest(ref).schema == SCHEMA
    assert ref.rows == 0
