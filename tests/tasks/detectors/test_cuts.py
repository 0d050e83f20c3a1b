from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tasks.detectors.cuts import CutSettings, find_cuts
from tasks.footage import Motion, dissolve, fade_through
from tasks.media.signals import THUMBNAIL_BYTES, Signals
from tests.declared import declared

Film = Callable[..., np.ndarray]
Find = Callable[..., list[int]]

MOTIONS: tuple[Motion, ...] = ("static", "pan_left", "tilt_up", "zoom_in", "zoom_out", "roll")


@pytest.fixture
def cuts_in(measured: Callable[[np.ndarray], Signals]) -> Find:
    def find(frames: np.ndarray, **settings: float) -> list[int]:
        return [cut.start for cut in find_cuts(measured(frames), CutSettings.model_validate(settings))]

    return find


def plain(change: list[float]) -> Signals:
    """Signals of frames whose pictures have nothing in common."""
    frames = len(change)
    flat = np.full(frames, 100.0)
    pictures = np.random.default_rng(1).integers(0, 256, (frames, THUMBNAIL_BYTES), np.uint8)
    return Signals(np.arange(frames) / 24, np.array(change), flat, flat, flat, pictures)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_hard_cut_at_frame_40_is_found_at_frame_40(film: Film, cuts_in: Find, motion: Motion):
    assert cuts_in(np.concatenate([film(1, motion), film(2, "pan_right", 30)])) == [40]


def test_several_cuts_are_all_found(film: Film, cuts_in: Find):
    shots = [film(seed, motion, 15) for seed, motion in enumerate(MOTIONS)]
    assert cuts_in(np.concatenate(shots)) == [15, 30, 45, 60, 75]


def test_a_cut_to_the_mirrored_scene_is_found(film: Film, cuts_in: Find):
    shot = film(5, "pan_left")
    assert cuts_in(np.concatenate([shot, shot[:, :, ::-1]])) == [40]


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("speed", [0.3, 2.0])
def test_one_shot_has_no_cut_however_fast_the_camera(film: Film, cuts_in: Find, motion: Motion, speed: float):
    assert cuts_in(film(3, motion, speed=speed)) == []


def test_a_camera_that_starts_at_full_speed_is_no_cut(film: Film, cuts_in: Find):
    pan = film(4, "pan_left", 20, speed=1.5)
    assert cuts_in(np.concatenate([np.repeat(pan[:1], 20, axis=0), pan])) == []


def test_a_cut_in_a_still_scene_is_found(film: Film, cuts_in: Find):
    assert cuts_in(np.repeat(np.stack([film(5)[0], film(6)[0]]), 20, axis=0)) == [20]


def test_a_cut_in_the_dark_is_found(film: Film, cuts_in: Find):
    assert cuts_in(np.concatenate([film(7) // 8, film(8) // 8])) == [40]


@pytest.mark.parametrize("each", [2, 3, 4])
def test_frames_shown_several_times_are_no_cuts(film: Film, cuts_in: Find, each: int):
    assert cuts_in(np.repeat(film(9, "pan_left", 20, speed=1.0), each, axis=0)) == []


def test_a_cut_among_frames_shown_three_times_is_found(film: Film, cuts_in: Find):
    shots = np.concatenate([film(9, "pan_left", 10), film(10, "pan_left", 10)])
    assert cuts_in(np.repeat(shots, 3, axis=0)) == [30]


@pytest.mark.parametrize("light", [(1.0,), (1.0, 0.5), (0.9, 0.6, 0.3), (0.6, 0.7, 0.7, 0.6)])
def test_a_flash_of_one_to_four_frames_is_no_cut(film: Film, cuts_in: Find, light: tuple[float, ...]):
    frames = film(11, "pan_left")
    for i, share in enumerate(light, start=20):
        frames[i] = (frames[i] * (1 - share) + 255 * share).round()
    assert cuts_in(frames) == []
    assert cuts_in(frames, flash_return=0.0)


def test_a_short_shot_between_two_others_is_no_flash(film: Film, cuts_in: Find):
    shots = ((1, 20), (2, 3), (3, 20))
    assert cuts_in(np.concatenate([film(seed, "pan_left", frames) for seed, frames in shots])) == [20, 23]


def test_a_shot_that_comes_back_later_than_a_flash_lasts_is_cut_twice(film: Film, cuts_in: Find):
    shot = film(1, frames=30)
    frames = np.concatenate([shot[:12], film(2, frames=10), shot[12:]])
    assert cuts_in(frames) == [12, 22]
    assert cuts_in(frames, flash_s=0.6) == []


def test_a_frame_that_blends_two_shots_gives_one_cut(film: Film, cuts_in: Find):
    before, after = film(12), film(13)
    blend = (before[-1:] // 2) + (after[:1] // 2)
    assert cuts_in(np.concatenate([before, blend, after])) in ([40], [41])


def at_rate(frames: np.ndarray, source: float, rate: float) -> np.ndarray:
    """Frames shown `source` times a second, held in a video of `rate`."""
    return frames[(np.arange(round(len(frames) * rate / source)) * source / rate + 1e-6).astype(int)]


@pytest.mark.parametrize("source", [4, 5, 6, 8])
@pytest.mark.parametrize("rate", [24, 30, 60])
def test_pictures_held_at_4_to_8_hz_are_not_cut_at_each_update(
    film: Film, measured: Callable[..., Signals], source: int, rate: int
):
    drawn = film(16, "pan_left", 24, speed=1.5)
    signals = measured(at_rate(drawn, source, rate), rate=rate)
    assert find_cuts(signals, CutSettings()) == []


def test_a_cut_among_pictures_held_at_5_hz_is_found(film: Film, measured: Callable[..., Signals]):
    drawn = np.concatenate([film(9, "pan_left", 10, speed=0.1), film(10, "pan_left", 10, speed=0.1)])
    found = find_cuts(measured(at_rate(drawn, 5, 30), rate=30), CutSettings())
    assert [cut.start for cut in found] == [60]


def test_unlike_pictures_shown_for_half_a_second_each_are_all_cut(film: Film, cuts_in: Find):
    pictures = np.stack([film(seed, frames=1)[0] for seed in range(20, 26)])
    assert cuts_in(np.repeat(pictures, 12, axis=0)) == [12, 24, 36, 48, 60]


def slide(lines: int, seed: int, ink: int = 30) -> np.ndarray:
    """A white slide of 360 lines with so many lines of dark text."""
    rng, page = np.random.default_rng(seed), np.full((360, 640, 3), 250, np.uint8)
    for line in range(lines):
        words = " ".join("".join(rng.choice(list("abcdefgh"), rng.integers(2, 9))) for _ in range(5))
        place = (30 + int(rng.integers(0, 60)), 60 + int(line * 280 / lines) + int(rng.integers(0, 20)))
        cv2.putText(page, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (ink,) * 3, 2, cv2.LINE_AA)
    return page


@pytest.mark.parametrize("ink", [30, 120])
def test_white_slides_with_text_are_cut_at_each_change(cuts_in: Find, ink: int):
    slides = np.stack([slide(lines, seed, ink) for seed, lines in enumerate((7, 4, 6, 3, 5))])
    assert cuts_in(np.repeat(slides, 48, axis=0)) == [48, 96, 144, 192]


def test_what_moves_a_little_on_a_white_slide_is_no_cut(cuts_in: Find):
    frames = np.repeat(slide(6, 3)[None], 60, axis=0)
    for i in range(60):
        frames[i, 100:120, 100 + 6 * (i // 20) * 10 : 112 + 6 * (i // 20) * 10] = 0
    assert cuts_in(frames) == []


def test_of_two_equal_changes_the_first_is_the_cut():
    assert [cut.start for cut in find_cuts(plain([0, 1, 1, 20, 20, 1, 1]), CutSettings())] == [3]


def test_dissolves_and_fades_are_left_to_others(film: Film, cuts_in: Find):
    before, after = film(14, "pan_left"), film(15)
    assert cuts_in(dissolve(before, after, 10)) == []
    assert cuts_in(fade_through(before, after, 10)) == []


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_very_short_videos_have_no_cut(frames: int):
    assert find_cuts(plain([0.0] * frames), CutSettings()) == []


def test_a_cut_is_found_near_either_end(film: Film, cuts_in: Find):
    assert cuts_in(np.concatenate([film(1, frames=1), film(2, frames=20), film(3, frames=1)])) == [1, 21]


@pytest.mark.parametrize("setting", [{"floor": 250}, {"relative_floor": 2}, {"threshold": 10}])
def test_higher_thresholds_find_fewer_cuts(film: Film, cuts_in: Find, setting: dict[str, float]):
    frames = np.concatenate([film(1, "pan_left", speed=1.0), film(2, "pan_left", speed=1.0)])
    assert cuts_in(frames) == [40]
    assert cuts_in(frames, **setting) == []


def test_times_and_not_frame_numbers_say_how_long_a_flash_lasts(film: Film, measured: Callable[..., Signals]):
    shot = film(1, frames=30)
    signals = measured(np.concatenate([shot[:12], film(2, frames=10), shot[12:]]))
    assert find_cuts(replace(signals, seconds=signals.seconds / 4), CutSettings()) == []


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(CutSettings) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "threshold": "3.0, gt=1",
        "window": "2, ge=1",
        "floor": "2.0, ge=0",
        "relative_floor": "0.06, ge=0",
        "still_floor": "0.5, ge=0",
        "still_difference": "0.08, ge=0",
        "flash_s": "0.25, ge=0",
        "flash_return": "0.5, ge=0",
    }
