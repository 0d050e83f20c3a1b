from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.detectors.boundary import Boundary, choose_frames, drop_overlaps, list_spans_between
from tasks.detectors.cascade import DetectorSettings, find_boundaries, merge_gradual
from tasks.detectors.dissolves import DissolveSettings, fit_mixture, variance
from tasks.detectors.fades import FadeSettings, find_flat_runs, measure_misfit
from tasks.detectors.pyscenedetect import LibrarySettings, make_picture
from tasks.detectors.wipes import WipeSettings, fit_wipe_time
from tasks.footage import Motion, dissolve, fade_through
from tasks.media.signals import THUMBNAIL_BYTES, Signals
from tests.declared import declared

Film = Callable[..., np.ndarray]
Measured = Callable[[np.ndarray], Signals]
Found = list[tuple[str, int, int]]


def found_in(signals: Signals, **given: object) -> Found:
    boundaries = find_boundaries(signals, DetectorSettings.model_validate(given))
    return [(b.kind, b.start, b.end) for b in boundaries]


def assert_near(found: Found, kind: str, start: int, end: int, frames: int) -> None:
    ((found_kind, first, last),) = found
    assert found_kind == kind
    assert max(abs(first - start), abs(last - end)) <= frames, found


def wiped(before: np.ndarray, after: np.ndarray, length: int, down: bool = False) -> np.ndarray:
    """The second shot moves over the first one from the left, or from above."""
    side = before.shape[1 if down else 2]
    shares = np.arange(1, length + 1) / (length + 1)
    mask = np.arange(side)[None] < shares[:, None] * side
    mask = mask[:, :, None, None] if down else mask[:, None, :, None]
    return np.concatenate([before[:-length], np.where(mask, after[:length], before[-length:]), after[length:]])


@pytest.mark.slow
@pytest.mark.parametrize("length", [5, 8, 12, 20, 32, 48])
@pytest.mark.parametrize(("first", "second"), [("static", "static"), ("pan_left", "zoom_in")])
def test_a_dissolve_takes_its_frames_from_both_shots(
    film: Film, measured: Measured, length: int, first: Motion, second: Motion
):
    frames = dissolve(film(1, first, 80, 0.2), film(2, second, 80, 0.2), length)
    assert_near(found_in(measured(frames)), "dissolve", 80 - length, 80, max(2, length // 6))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 255, 90])
@pytest.mark.parametrize("length", [4, 10, 24])
def test_a_fade_reaches_from_the_one_ramp_to_the_other(film: Film, measured: Measured, length: int, level: int):
    frames = fade_through(film(3, "pan_left", 60), film(4, "tilt_up", 60), length, level)
    assert_near(found_in(measured(frames)), "fade", 60 - length, 60 + length, max(2, length // 6))


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("length", [10, 24])
def test_a_wipe_is_found_to_the_frame_or_two(film: Film, measured: Measured, length: int, down: bool):
    frames = wiped(film(5, "pan_left", 60, 0.2), film(6, "static", 60), length, down)
    assert_near(found_in(measured(frames)), "wipe", 60 - length, 60, 2)


def test_fades_from_and_to_nothing_reach_to_the_ends_of_the_video(film: Film, measured: Measured):
    shot = film(7, "pan_left", 90)
    light = np.clip(np.minimum(np.arange(90), np.arange(90)[::-1]) / 12, 0, 1)[:, None, None, None]
    (first, last) = found_in(measured((shot * light).astype(np.uint8)))
    assert first[:2] == ("fade", 0)
    assert abs(first[2] - 12) <= 2
    assert last[0] == "fade"
    assert abs(last[1] - 78) <= 2
    assert last[2] == 90


def test_black_between_two_cuts_is_no_fade(film: Film, measured: Measured):
    black = np.zeros((20, 64, 96, 3), np.uint8)
    found = found_in(measured(np.concatenate([film(1), black, film(2)])))
    assert found == [("cut", 40, 40), ("cut", 60, 60)]


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["static", "pan_left", "pan_right", "tilt_up", "zoom_in", "zoom_out", "roll"])
@pytest.mark.parametrize("speed", [0.2, 1.0, 2.0])
def test_a_moving_camera_alone_gives_no_boundary(film: Film, measured: Measured, motion: Motion, speed: float):
    assert found_in(measured(film(8, motion, {0.2: 90, 1.0: 60, 2.0: 30}[speed], speed))) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_whip_pan_is_no_boundary(film: Film, measured: Measured, seed: int):
    path = film(seed, "pan_right", 400, 0.24)
    speed = np.full(100, 0.5)
    speed[45:57] += 25 * np.sin(np.linspace(0, np.pi, 12)) ** 2
    assert found_in(measured(path[np.cumsum(speed).astype(int)])) == []


def test_a_flash_is_no_boundary(film: Film, measured: Measured):
    frames = film(9, "pan_left", 80)
    for i, share in enumerate((1.0, 0.7, 0.4, 0.2), start=40):
        frames[i] = (frames[i] * (1 - share) + 255 * share).round()
    assert found_in(measured(frames)) == []


def test_what_crosses_the_picture_and_is_gone_is_no_wipe(film: Film, measured: Measured):
    frames = np.repeat(film(10, frames=1), 80, axis=0)
    for i in range(15, 70):
        left = (i - 42) * 4
        frames[i, :, max(left, 0) : max(left + 50, 0)] = (20, 20, 25)
    assert found_in(measured(frames)) == []


def test_cuts_and_gradual_transitions_are_found_beside_each_other(film: Film, measured: Measured):
    shots = [film(seed, "pan_left", 50, 0.2) for seed in range(11, 15)]
    frames = np.concatenate([shots[0], dissolve(shots[1], fade_through(shots[2], shots[3], 8), 10)])
    kinds = [kind for kind, _, _ in found_in(measured(frames))]
    assert kinds == ["cut", "dissolve", "fade"]


def test_a_cut_at_the_edge_of_a_gradual_transition_belongs_to_it():
    cuts = [Boundary(20, 20, "cut"), Boundary(58, 58, "cut"), Boundary(90, 90, "cut")]
    assert merge_gradual(cuts, [Boundary(60, 80, "dissolve")]) == [cuts[0], Boundary(58, 80, "dissolve"), cuts[2]]


def test_other_thresholds_find_less(film: Film, measured: Measured):
    mixed = measured(dissolve(film(1, "static", 60), film(2, "static", 60), 12))
    assert found_in(mixed)
    assert found_in(mixed, middle_threshold=2.0, low_threshold=2.0, slow_threshold=2.0) == []
    assert found_in(mixed, min_difference=9.0) == []
    faded = measured(fade_through(film(1, "static", 60), film(2, "static", 60), 12))
    assert found_in(faded, min_fade_frames=20, middle_threshold=2.0, low_threshold=2.0, slow_threshold=2.0) == []
    swept = measured(wiped(film(1, "static", 60), film(2, "static", 60), 12))
    assert found_in(swept, wipe_places=1.0) == []


def test_a_fixed_stride_cuts_by_time(film: Film, measured: Measured):
    signals = measured(film(1, frames=60))
    assert found_in(signals, detector="fixed", stride_s=1.0) == [("cut", 24, 24), ("cut", 48, 48)]
    assert found_in(signals, detector="fixed", stride_s=10.0) == []


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_the_detectors_of_pyscenedetect_find_hard_cuts_and_no_flash_guard(
    film: Film, measured: Measured, detector: str
):
    frames = np.concatenate([film(1, "pan_left", 30), film(2, "static", 30), film(3, "tilt_up", 30)])
    assert found_in(measured(frames), detector=detector) == [("cut", 30, 30), ("cut", 60, 60)]
    strict = {"adaptive_threshold": 200.0, "content_threshold": 250.0}
    assert found_in(measured(frames), detector=detector, **strict) == []


def test_a_thumbnail_becomes_the_picture_it_was_taken_from(film: Film, measured: Measured):
    red = np.full((1, 64, 96, 3), (200, 40, 40), np.uint8)
    blue, green, red_ = make_picture(measured(red).thumbnails[0]).reshape(-1, 3).mean(axis=0)
    assert (blue, green, red_) == pytest.approx((40, 40, 200), abs=4)


@pytest.mark.parametrize("detector", ["cascade", "adaptive", "content", "fixed"])
@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_very_short_videos_have_no_boundary(film: Film, measured: Measured, detector: str, frames: int):
    shot = measured(film(1, frames=5)[:frames])
    assert found_in(shot, detector=detector) == []


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90))
def test_boundaries_are_in_order_apart_and_inside_whatever_is_measured(seed: int, frames: int):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (frames, THUMBNAIL_BYTES), np.uint8)
    change, luma, deviation, detail = rng.uniform(0, 60, (4, frames))
    seconds = np.cumsum(rng.uniform(0.001, 0.3, frames))
    signals = Signals(seconds, change, luma, deviation, detail, noise)
    boundaries = find_boundaries(signals, DetectorSettings())
    edges = [0, *(edge for b in boundaries for edge in (b.start, b.end)), frames]
    assert all(a <= b for a, b in pairwise(edges))


def test_what_is_left_between_boundaries_is_every_other_frame():
    assert list_spans_between([Boundary(5, 8, "fade"), Boundary(3, 3, "cut")], 10) == [(0, 3), (3, 5), (8, 10)]
    assert list_spans_between([], 4) == [(0, 4)]
    assert list_spans_between([Boundary(0, 4, "fade")], 4) == []


def test_a_rate_is_kept_by_time_and_not_by_index():
    seconds = np.array([0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0])
    assert choose_frames(seconds, 5).tolist() == [0, 2, 4, 5, 6]


def test_of_overlapping_boundaries_the_better_is_kept():
    a, b, c = Boundary(0, 10, "dissolve"), Boundary(8, 20, "dissolve"), Boundary(20, 30, "dissolve")
    assert drop_overlaps([(0.5, a), (0.9, b), (0.4, c)]) == [b, c]


@pytest.mark.parametrize(("start", "end"), [(10, 20), (3, 30), (24, 28)])
def test_a_mixtures_ends_are_fitted_from_its_courses(start: int, end: int):
    share = np.clip((np.arange(40) - start) / (end - start), 0, 1)
    variance_of, detail = ((1 - share) ** 2 * one + share**2 * other for one, other in ((1.0, 2.0), (0.7, 0.6)))
    courses = np.stack([variance_of + share * (1 - share), detail, share], axis=1)
    assert fit_mixture(courses, (start + end) // 2) == (start, end)


def test_the_drift_of_two_moving_shots_leaves_the_ends_of_their_mixture():
    frame = np.arange(40)
    place = np.interp(frame, [0, 12, 25, 39], [0.3, 0.0, 1.0, 0.8])
    share = np.clip((frame - 12) / 13, 0, 1)
    detail = (1 - share) ** 2 + share**2
    assert fit_mixture(np.stack([np.ones(40), detail, place], axis=1), 18) == (12, 25)


def test_the_variance_of_a_mixture_of_unlike_pictures_dips_by_that_of_their_difference():
    a, b = np.random.default_rng(2).normal(128, 30, (2, 1, THUMBNAIL_BYTES))
    dip = (variance(a) + variance(b)) / 2 - variance((a + b) / 2)
    assert dip == pytest.approx(variance(a - b) / 4)


def test_flat_runs_are_spans():
    assert find_flat_runs(np.array([1.0, 9, 9, 2, 3, 9, 0]), 3.0) == [(0, 1), (3, 5), (6, 7)]


def test_a_ramp_fits_its_own_length_best():
    course = np.minimum(1, np.arange(1, 41) / 9) * 37.0
    misfits = [measure_misfit(course, length) for length in range(30)]
    assert np.argmin(misfits) == 8
    assert misfits[8] == pytest.approx(0, abs=1e-9)


def test_a_plane_of_times_is_recognized():
    columns = np.tile(np.arange(16), 12)
    pairs = np.zeros((30, 192))
    pairs[columns + 5, np.arange(192)] = 50.0
    share, (first, last) = fit_wipe_time(pairs)
    assert share == pytest.approx(1.0)
    assert (first, last) == pytest.approx((6, 21), abs=0.1)
    scattered = np.random.default_rng(3).permuted(pairs, axis=1)
    assert fit_wipe_time(scattered)[0] < 0.5


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(DetectorSettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "detector": "'cascade'",
        "stride_s": "10.0, gt=0",
    }
    assert declared(DissolveSettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "middle_rate": "8.0, gt=0",
        "low_rate": "2.5, gt=0",
        "slow_rate": "1.25, gt=0",
        "middle_threshold": "0.6, gt=0",
        "low_threshold": "0.55, gt=0",
        "slow_threshold": "0.55, gt=0",
        "min_difference": "0.8, ge=0",
        "max_residual": "0.55, ge=0",
        "min_fit": "0.5, ge=0",
        "min_slow_fit": "0.45, ge=0",
        "min_dissolve_frames": "3, ge=1",
    }
    assert declared(FadeSettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "flat_contrast": "4.0, ge=0",
        "min_fade_frames": "3, ge=2",
        "max_fade_s": "3.0, gt=0",
        "fade_misfit": "0.12, ge=0",
        "blink_s": "0.4, ge=0",
    }
    assert declared(LibrarySettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "adaptive_threshold": "3.0, gt=0",
        "adaptive_window": "2, ge=1",
        "min_content": "15.0, ge=0",
        "content_threshold": "27.0, gt=0",
    }
    assert declared(WipeSettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "wipe_rate": "8.0, gt=0",
        "wipe_share": "0.9, ge=0, le=1",
        "wipe_jump": "0.35, ge=0, le=1",
        "wipe_places": "0.65, ge=0, le=1",
        "min_wipe_frames": "6, ge=1",
    }
