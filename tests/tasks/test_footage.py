"""Rendered footage moves by what it says, is the same each time, and differs from scene to scene."""

from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.measures.camera import measure_motion
from tasks.footage import (
    OPPOSITE,
    Camera,
    Frames,
    Motion,
    Scene,
    compute_mean_flow,
    dissolve,
    fade_through,
    render_shot,
    render_title,
)

cv2.setNumThreads(1)

SIZE, SIDE, FPS = (96, 64), 64, 8.0

STILL = Scene(3, movers=0)

MOTIONS: tuple[Motion, ...] = get_args(Motion)


def film(camera: Camera, frames: int = 2, scene: Scene = STILL, fps: float = FPS) -> Frames:
    return render_shot(scene, camera, frames, fps, SIZE)


def off_by(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in gray levels."""
    return float(np.abs(one.astype(np.float32) - other).mean())


def turned(frame: np.ndarray, magnified: float, clockwise: float) -> np.ndarray:
    """The picture magnified and turned about its middle, away from the edge."""
    middle = ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, -clockwise, magnified)
    return cv2.warpAffine(frame, matrix, SIZE)[12:-12, 12:-12]


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 50))
@settings(max_examples=25)
def test_a_camera_that_goes_right_and_up_by_pixels_moves_the_picture_left_and_down_by_as_many(right, up, seed):
    camera = Camera(pan=right * FPS / SIDE, tilt=up * FPS / SIDE)
    before, after = film(camera, scene=Scene(seed, movers=0))
    height, width = SIDE, SIZE[0]
    there = before[max(0, -up) : height - max(0, up), max(0, right) : width + min(0, right)]
    here = after[max(0, up) : height + min(0, up), max(0, -right) : width - max(0, right)]
    assert off_by(there, here) < 0.5


@pytest.mark.parametrize("zoom", [0.8, -0.8])
def test_zooming_magnifies_by_the_exponential_of_speed_and_time(zoom: float):
    before, after = film(Camera(zoom=zoom))
    seen = after[12:-12, 12:-12]
    assert off_by(turned(before, np.exp(zoom / FPS), 0), seen) < 5
    assert off_by(turned(before, np.exp(-zoom / FPS), 0), seen) > 10


@pytest.mark.parametrize("roll", [60.0, -60.0])
def test_a_positive_roll_turns_the_picture_clockwise(roll: float):
    before, after = film(Camera(roll=roll))
    seen = after[12:-12, 12:-12]
    assert off_by(turned(before, 1, roll / FPS), seen) < 5
    assert off_by(turned(before, 1, -roll / FPS), seen) > 10


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_named_motion_is_one_number_of_the_camera(motion: Motion):
    camera = Camera.doing(motion, 0.5)
    moves = {name: value for name, value in vars(camera).items() if value}
    expected = {
        "static": {}, "pan_left": {"pan": -0.5}, "pan_right": {"pan": 0.5}, "tilt_up": {"tilt": 0.5},
        "tilt_down": {"tilt": -0.5}, "zoom_in": {"zoom": 0.5}, "zoom_out": {"zoom": -0.5}, "roll": {"roll": 30.0},
    }  # fmt: skip
    assert moves == expected[motion]


@pytest.mark.parametrize("motion", OPPOSITE)
def test_the_opposite_motion_undoes_a_motion(motion: str):
    there, back = (vars(Camera.doing(m, 0.3)) for m in (OPPOSITE[motion], OPPOSITE[OPPOSITE[motion]]))
    assert {name: -value for name, value in there.items()} == back


def test_a_still_camera_in_a_world_without_shapes_shows_one_picture():
    frames = film(Camera(), frames=4)
    assert np.array_equal(frames, np.repeat(frames[:1], 4, axis=0))


def test_shapes_move_before_a_background_that_stays():
    frames = render_shot(Scene(5, movers=4), Camera(), 16, FPS, (128, 128))
    changed = (frames != frames[0]).any(axis=(0, 3))
    assert 0.01 < changed.mean() < 0.5
    assert measure_motion(frames, [i / FPS for i in range(16)]).motion == "static"


def test_the_world_is_left_as_it_was_by_the_shapes_drawn_into_it():
    plain = film(Camera())
    film(Camera(), scene=Scene(STILL.seed, movers=4))
    assert np.array_equal(film(Camera()), plain)


def test_a_scene_is_the_same_each_time_and_no_other_scene():
    first, again, other = (film(Camera(pan=0.3), scene=Scene(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert off_by(first, other) > 20


def test_a_moment_looks_the_same_at_every_frame_rate():
    camera, scene = Camera(pan=0.3, zoom=0.2), Scene(9, movers=2)
    slow, fast = film(camera, 3, scene, fps=2.0), film(camera, 9, scene, fps=8.0)
    assert np.array_equal(slow, fast[::4])


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_mean_flow_is_the_one_that_is_measured(motion: Motion):
    frames = render_shot(STILL, Camera.doing(motion, 0.4), 8, 7.0, (128, 128))
    measured = measure_motion(frames, [i / 7 for i in range(8)])
    assert measured.motion == motion
    assert measured.magnitude == pytest.approx(compute_mean_flow(motion, 0.4), rel=0.15, abs=0.01)


def test_a_shot_of_no_frames_is_refused():
    with pytest.raises(ValueError, match="at least one frame, not 0"):
        film(Camera(), frames=0)


def flat(level: int, frames: int = 5) -> Frames:
    return np.full((frames, 4, 6, 3), level, np.uint8)


def levels(frames: Frames) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_a_dissolve_mixes_the_end_of_one_shot_with_the_start_of_the_other():
    assert levels(dissolve(flat(0), flat(100), 3)) == [0, 0, 25, 50, 75, 100, 100]


def test_a_fade_goes_to_the_level_and_back():
    assert levels(fade_through(flat(100), flat(200), 2)) == [100, 100, 100, 50, 0, 100, 200, 200, 200, 200]
    assert levels(fade_through(flat(100), flat(200), 2, level=255))[3:7] == [178, 255, 228, 200]


@pytest.mark.parametrize("join", [dissolve, fade_through])
@pytest.mark.parametrize("length", [0, 5])
def test_a_transition_longer_than_its_shots_is_refused(join, length: int):
    with pytest.raises(ValueError, match=f"A transition of {length} frames"):
        join(flat(0), flat(1), length)


def test_a_title_card_stands_still_and_is_bright_letters_on_dark():
    card = render_title(["REELMILL", "A TITLE"], 3, SIZE)
    assert card.shape == (3, SIDE, SIZE[0], 3)
    assert np.array_equal(card[0], card[2])
    assert 0.02 < (card[0].min(axis=2) > 200).mean() < 0.4
