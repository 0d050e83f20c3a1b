import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.detectors.boundary import Boundary
from tasks.detectors.cascade import DetectorSettings, find_boundaries
from tasks.detectors.thinning import choose_thinned, take_frames, thin_boundaries, widen_boundary
from tasks.footage import dissolve, fade_through
from tasks.media.signals import THUMBNAIL_BYTES, Signals

Film = Callable[..., np.ndarray]
Measured = Callable[..., Signals]


def spread(signals: Signals, times: int) -> Signals:
    """The same seconds at `times` the rate: every frame between two is their mixture, as a faster camera sees it."""
    place = np.arange(len(signals.seconds) * times - times + 1) / times
    low, share = np.floor(place).astype(int), place % 1
    high = np.minimum(low + 1, len(signals.seconds) - 1)

    def between(values: np.ndarray) -> np.ndarray:
        part = share[:, None] if values.ndim > 1 else share
        return values[low] * (1 - part) + values[high] * part

    named = {name: between(getattr(signals, name).astype(float)) for name in Signals.__dataclass_fields__}
    named["change"] /= times
    named["thumbnails"] = named["thumbnails"].round().astype(np.uint8)
    return Signals(**named)


@pytest.mark.parametrize("rate", [24, 25, 29.97, 30])
def test_up_to_30_frames_a_second_every_frame_is_left(rate: float):
    assert choose_thinned(np.arange(90) / rate).tolist() == list(range(90))


@pytest.mark.parametrize(("rate", "step"), [(48, 2), (50, 2), (59.94, 2), (60, 2), (120, 4), (240, 8), (480, 16)])
def test_of_more_frames_a_second_each_so_manyth_and_the_last_is_left(rate: float, step: int):
    chosen = choose_thinned(np.arange(960) / rate).tolist()
    assert chosen == sorted({*range(0, 960, step), 959})


def test_times_that_vary_are_thinned_by_time():
    seconds = np.concatenate([np.arange(60) / 60, 1 + np.arange(30) / 10])
    assert choose_thinned(seconds)[-30:].tolist() == list(range(60, 90))


def test_a_boundary_goes_to_thinned_frames_and_back():
    kept = np.arange(0, 80, 8)
    assert thin_boundaries([Boundary(17, 17, "cut"), Boundary(24, 40, "fade")], kept) == [
        Boundary(3, 3, "cut"),
        Boundary(3, 5, "fade"),
    ]
    assert widen_boundary(Boundary(3, 5, "fade"), kept, 80, []) == Boundary(17, 40, "fade")
    assert widen_boundary(Boundary(0, 10, "fade"), kept, 80, []) == Boundary(0, 80, "fade")
    assert widen_boundary(Boundary(3, 5, "fade"), kept, 80, [Boundary(10, 20, "wipe")]) == Boundary(20, 40, "fade")


@pytest.mark.parametrize("times", [1, 2, 5, 10, 20])
def test_a_dissolve_and_a_fade_are_found_at_any_rate(film: Film, measured: Measured, times: int):
    shots = [film(seed, motion, 60, 0.1) for seed, motion in ((1, "pan_left"), (2, "zoom_in"), (3, "static"))]
    frames = fade_through(dissolve(shots[0], shots[1], 20), shots[2], 10)
    found = find_boundaries(spread(measured(frames), times), DetectorSettings())
    assert [b.kind for b in found] == ["dissolve", "fade"]
    edges = np.array([[b.start, b.end] for b in found]) / times
    assert np.abs(edges - [[40, 60], [90, 110]]).max() <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "first", "second"), [(4, "static", "pan_left"), (5, "static", "static"), (5, "tilt_up", "pan_right")]
)
def test_dissolves_of_four_and_five_seconds_are_found(
    film: Film, measured: Measured, seconds: int, first: str, second: str
):
    length = 24 * seconds
    frames = dissolve(film(41, first, length + 72, 0.05), film(62, second, length + 72, 0.05), length)
    (found,) = find_boundaries(measured(frames), DetectorSettings())
    assert found.kind == "dissolve"
    assert max(abs(found.start - 72), abs(found.end - 72 - length)) <= 12, found


@pytest.mark.slow
def test_a_split_costs_no_more_for_each_frame_at_480_frames_a_second(film: Film, measured: Measured):
    frames = dissolve(film(1, "pan_left", 80, 0.2), film(2, "zoom_in", 80, 0.2), 24)

    def cost(times: int) -> float:
        signals = spread(measured(frames), times)
        started = time.process_time()
        assert [b.kind for b in find_boundaries(signals, DetectorSettings())] == ["dissolve"]
        return (time.process_time() - started) / len(signals.seconds)

    cost(1)
    assert cost(20) < 2 * cost(1)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.floats(60, 600))
def test_boundaries_are_in_order_and_apart_at_any_rate(seed: int, frames: int, rate: float):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (frames, THUMBNAIL_BYTES), np.uint8)
    change, luma, deviation, detail = rng.uniform(0, 60, (4, frames))
    deviation *= rng.random(frames) < 0.8
    found = find_boundaries(
        Signals(np.arange(frames) / rate, change, luma, deviation, detail, noise), DetectorSettings()
    )
    edges = [0, *(edge for b in found for edge in (b.start, b.end)), frames]
    assert all(a <= b for a, b in pairwise(edges))


def test_some_frames_of_signals_are_taken_with_all_their_columns(film: Film, measured: Measured):
    signals = measured(film(1, frames=6))
    taken = take_frames(signals, np.array([1, 4]))
    assert taken.seconds.tolist() == signals.seconds[[1, 4]].tolist()
    assert (taken.thumbnails == signals.thumbnails[[1, 4]]).all()
