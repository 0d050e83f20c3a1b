"""Each meter tells its own fault from a clean clip, whatever the camera does meanwhile."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import BadInput
from models.measures.meters import LIMITS, Limits, Meters, count_good_frames, measure_meters
from tasks.footage import Camera, Motion, Scene, render_shot

Frames = NDArray[np.uint8]

FRAMES = 8


def filmed(motion: Motion, seed: int = 505, frames: int = FRAMES, speed: float = 0.5) -> Frames:
    return render_shot(Scene(seed, movers=1), Camera.doing(motion, speed), frames, fps=7.0, size=(64, 64))


def measured(frames: Frames) -> Meters:
    return measure_meters(frames, frames[0])


def flat_curves(**changed: list[float]) -> Meters:
    """Meters of a clip without a fault, but for the curves given."""
    clean = {"sharpness": [1.0] * 6, "colour": [0.0] * 6, "identity": [1.0] * 6, "flicker": [0.0] * 6}
    curves = {name: np.array(values, np.float32) for name, values in (clean | changed).items()}
    return Meters(**curves, change=np.ones(6, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out"])
@pytest.mark.parametrize("seed", [501, 505])
def test_a_clean_clip_is_good_to_its_end_whatever_the_camera_does(motion, seed):
    meters = measured(filmed(motion, seed))
    assert count_good_frames(meters).frames == FRAMES
    assert 0.5 < meters.sharpness.min() <= meters.sharpness.max() < 2.5
    assert meters.colour.max() < 15
    assert meters.identity.min() > 0.45
    assert meters.flicker.max() < 1.5


def test_a_still_picture_repeated_has_no_fault_but_that_it_is_frozen():
    meters = measured(np.repeat(filmed("static")[:1], FRAMES, axis=0))
    assert meters.summary() == pytest.approx(
        {"sharpness": 1.0, "colour": 0.0, "identity": 1.0, "flicker": 0.0, "frozen_share": 1.0}, abs=1e-3
    )


def test_blur_that_grows_while_the_camera_pans_is_seen_as_falling_sharpness():
    frames = filmed("pan_right")
    blurred = np.stack([f if not i else cv2.GaussianBlur(f, (0, 0), 0.35 * i) for i, f in enumerate(frames)])
    meters = measured(blurred.astype(np.uint8))
    assert meters.sharpness[-1] < 0.15
    assert np.all(np.diff(meters.sharpness) < 0.02)
    found = count_good_frames(meters)
    assert found.reason == "blurred"
    assert 2 <= found.frames <= 5


def test_a_zoom_in_is_not_taken_for_blur():
    frames = filmed("zoom_in", speed=0.6)
    assert measured(frames).sharpness[-1] > 0.6


def test_colour_that_drifts_is_measured_in_gray_levels():
    frames = filmed("pan_left").astype(np.float64) * 0.7 + 20
    drifted = frames + np.linspace(0, 40, FRAMES)[:, None, None, None] * np.array([1.0, 0.0, 0.0])
    meters = measured(drifted.round().astype(np.uint8))
    assert meters.colour[-1] == pytest.approx(40, abs=6)
    assert count_good_frames(meters).reason == "colour"


def test_flicker_is_the_jump_of_the_light_and_an_even_fade_is_none():
    frames = filmed("pan_left").astype(np.float64) * 0.6 + 30
    alternating = np.where(np.arange(FRAMES) % 2, 6.0, -6.0)[:, None, None, None]
    flickering = measured((frames + alternating).round().astype(np.uint8))
    assert flickering.flicker[2:] == pytest.approx(24, abs=2.5)
    assert flickering.flicker[:2].tolist() == [0, 0]
    fading = measured((frames + np.linspace(0, 20, FRAMES)[:, None, None, None]).round().astype(np.uint8))
    assert fading.flicker.max() < 2.5


def test_another_picture_has_no_identity_from_the_frame_it_appears():
    frames = np.concatenate([filmed("static", 501)[:4], filmed("static", 777)[:4]])
    meters = measured(frames)
    assert meters.identity[3] > 0.8
    assert meters.identity[4:].max() < 0.3
    assert count_good_frames(meters).frames == 4


def test_frozen_frames_are_counted_and_the_first_one_never_is():
    frames = filmed("pan_right")
    meters = measured(frames[[0, 1, 2, 3, 3, 3, 3, 3]])
    assert meters.frozen_share == pytest.approx(4 / 7)
    assert measured(frames).frozen_share == 0


def test_a_clip_that_leaves_its_picture_behind_is_compared_with_later_frames():
    frames = filmed("pan_right", frames=24, speed=0.6)
    meters = measured(frames)
    assert meters.identity[-1] > 0.3
    assert count_good_frames(meters).frames == 24
    blurred = frames.copy()
    blurred[20:] = [cv2.GaussianBlur(frame, (0, 0), 2.5) for frame in frames[20:]]
    assert count_good_frames(measured(blurred)).frames == 20


def test_the_first_frame_is_measured_against_the_picture_too():
    frames = filmed("static")
    other = measure_meters(frames, filmed("static", 777)[0])
    assert other.identity[0] < 0.3
    assert count_good_frames(other).frames == 0


def test_a_lasting_fault_ends_the_clip_and_a_passing_one_does_not():
    assert count_good_frames(flat_curves()).frames == 6
    assert count_good_frames(flat_curves(sharpness=[1, 1, 0.1, 1, 1, 1])).frames == 6
    assert count_good_frames(flat_curves(sharpness=[1, 1, 0.1, 0.1, 1, 1])).frames == 2
    assert count_good_frames(flat_curves(sharpness=[1, 1, 1, 1, 1, 0.1])).frames == 5


def test_the_first_fault_names_the_reason():
    found = count_good_frames(flat_curves(sharpness=[1, 1, 1, 1, 0, 0], colour=[0, 0, 0, 90, 90, 90]))
    assert (found.frames, found.reason) == (3, "colour")
    assert count_good_frames(flat_curves(sharpness=[1, 9, 9, 9, 9, 9])).reason == "harsh"


@settings(max_examples=50)
@given(st.lists(st.floats(0, 2, width=32), min_size=6, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_limit_never_makes_a_clip_longer(curve, one, other):
    meters = flat_curves(sharpness=curve)
    strict, loose = (
        count_good_frames(meters, Limits(sharpness_min=limit)) for limit in (max(one, other), min(one, other))
    )
    assert strict.frames <= loose.frames <= len(curve)


def test_curves_have_a_finite_value_for_each_frame():
    meters = measured(filmed("tilt_up"))
    assert set(meters.curves()) == {"sharpness", "colour", "identity", "flicker", "change"}
    assert all(len(curve) == FRAMES and np.isfinite(curve).all() for curve in meters.curves().values())
    assert measured(filmed("tilt_up")[:2]).summary()["flicker"] == 0


def test_a_flat_picture_is_measured_without_a_division_by_nothing():
    meters = measured(np.full((4, 32, 48, 3), 128, np.uint8))
    assert all(np.isfinite(curve).all() for curve in meters.curves().values())
    assert LIMITS.sharpness_min < meters.sharpness.min() < LIMITS.sharpness_max


def test_too_few_frames_or_another_size_are_refused():
    frames = filmed("static")
    for wrong, picture in ((frames[:1], frames[0]), (frames, frames[0][:32])):
        with pytest.raises(BadInput, match="two frames or more of the picture's size"):
            measure_meters(wrong, picture)
