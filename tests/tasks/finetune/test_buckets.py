"""Buckets: a film's shape is kept, each clip is shown once an epoch, and no bucket is too small to train."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.finetune.buckets import Batches, Bucket, choose_size, describe_buckets, list_sizes

LAND, TALL = Bucket(14, 1024, 576, 7.0), Bucket(14, 576, 1024, 7.0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1920, 1080), (1024, 576)),
        ((1080, 1920), (576, 1024)),
        ((640, 480), (896, 640)),
        ((500, 500), (768, 768)),
        ((4096, 1716), (1152, 512)),
        ((3000, 100), (1152, 512)),
        (None, (1024, 576)),
    ],
)
def test_a_film_goes_to_the_bucket_of_its_shape(shape, size):
    assert choose_size(shape, 1024, 576, 64) == size


@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 8))
def test_buckets_have_the_models_pixels_or_less_in_whole_units(across: int, down: int, unit: int):
    width, height = across * unit, down * unit
    sizes = list_sizes(width, height, unit)
    assert (width, height) in sizes
    assert all(w % unit == 0 == h % unit and w * h <= width * height for w, h in sizes)
    assert all(max(size) <= 2.4 * min(size) for size in sizes if size != (width, height))


def windows(counts: dict[Bucket, int], each: int = 3) -> dict[int, tuple[str, Bucket]]:
    """So many clips in each bucket, of `each` windows."""
    clips = [(f"{bucket.width}-{i}", bucket) for bucket, count in counts.items() for i in range(count)]
    return dict(enumerate(clip for clip in clips for _ in range(each)))


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 9), st.integers(0, 5))
def test_every_clip_is_shown_once_an_epoch_in_batches_of_one_bucket(land: int, tall: int, size: int, epoch: int):
    known = windows({LAND: land, TALL: tall})
    batches = Batches(known, size, seed=1)
    shown = [batches.at(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]
    assert Counter(known[i][0] for batch in shown for i in batch) == Counter({clip for clip, _ in known.values()})
    assert all(len({known[i][1] for i in batch}) == 1 for batch in shown)
    assert all(1 <= len(batch) <= size for batch in shown)


def test_a_bucket_smaller_than_a_batch_trains():
    batches = Batches(windows({LAND: 9, TALL: 1}), 8, seed=0)
    assert sorted(len(batches.at(step)) for step in range(3)) == [1, 1, 8]


def test_the_order_is_that_of_the_seed_and_the_step_and_changes_with_the_epoch():
    known = windows({LAND: 8, TALL: 5})
    first, again, other = (Batches(known, 2, seed) for seed in (0, 0, 1))
    late = [again.at(step) for step in (20, 3, 11)]
    assert late == [first.at(step) for step in (20, 3, 11)], "asked for in any order, as after a resume"
    epochs = [[first.at(step) for step in range(start, start + 7)] for start in (0, 7)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != [other.at(step) for step in range(7)]
    assert {i for epoch in range(30) for step in range(7) for i in first.at(7 * epoch + step)} == set(known)


def test_mixed_rates_are_buckets_of_their_own_and_stated():
    slow = LAND._replace(fps=5.0)
    batches = Batches(windows({LAND: 3, slow: 2}), 8, seed=0)
    assert batches.per_epoch == 2
    assert describe_buckets(batches) == "2 of 14x1024x576 at 5 fps, 3 of 14x1024x576 at 7 fps"
