from itertools import product

import cv2
import numpy as np
import pytest

from models.errors import BadInput
from models.measures.camera import (
    MOTIONS,
    CameraMotion,
    classify,
    convert_to_gray,
    fit_similarity,
    mean_radius,
    measure_motion,
    measure_texture,
)
from tasks.footage import Camera, Motion, Scene, render_shot

cv2.setNumThreads(1)

RENDERED: tuple[Motion, ...] = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll",
)
SPEEDS = (0.15, 0.4, 0.9)


def measure(camera: Camera, seed: int, frames: int, fps: float, size: tuple[int, int], movers: int = 2) -> CameraMotion:
    film = render_shot(Scene(seed, movers), camera, frames, fps, size)
    return measure_motion(film, [i / fps for i in range(frames)])


def degraded(film: np.ndarray, noise: float, blur: float) -> np.ndarray:
    """What a small model's decoder may do to a clip: blur, then noise of its own on each frame."""
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), blur) for frame in film]) if blur else film
    noisy = blurred + np.random.default_rng(0).normal(0, noise, film.shape)
    return np.clip(noisy, 0, 255).round().astype(np.uint8)


def mistaken(cases: list[tuple[Motion, float, int]], frames: int, fps: float, size: tuple[int, int]) -> list[tuple]:
    """The cases (motion, speed, scene) that are called something else."""
    found = [
        (*case, measure(Camera.doing(case[0], case[1]), case[2], frames, fps, size, 1 + case[2] % 3).motion)
        for case in cases
    ]
    return [case for case in found if case[0] != case[-1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frames", "fps", "size", "scenes"),
    [(8, 7.0, (64, 64), (0, 1)), (5, 7.0, (96, 64), (3,)), (4, 2.0, (240, 144), (4,)), (13, 24.0, (128, 96), (5,))],
    ids=["tiny", "wide", "two a second", "every frame"],
)
def test_every_camera_motion_is_named_right(frames: int, fps: float, size: tuple[int, int], scenes: tuple[int, ...]):
    cases = [case for case in product(RENDERED, SPEEDS, scenes) if case[0] != "static" or case[1] == SPEEDS[0]]
    wrong = mistaken(cases, frames, fps, size)
    assert len(wrong) <= 0.02 * len(cases), wrong


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "blur"), [(12.0, 0.0), (0.0, 1.5), (8.0, 1.5)], ids=["noise", "blur", "both"])
def test_noisy_and_blurred_tiny_clips_are_named_right(noise: float, blur: float):
    times = [i / 7 for i in range(8)]
    films = {m: render_shot(Scene(53), Camera.doing(m, 0.3), 8, 7, (64, 64)) for m in RENDERED}
    named = {m: measure_motion(degraded(film, noise, blur), times).motion for m, film in films.items()}
    assert named == {m: m for m in RENDERED}


@pytest.mark.parametrize(
    ("camera", "name"),
    [
        (Camera(pan=0.4), "pan"),
        (Camera(tilt=-0.3), "tilt"),
        (Camera(zoom=0.35), "zoom"),
        (Camera(zoom=-0.5), "zoom"),
        (Camera(roll=-25), "roll"),
    ],
)
def test_speeds_are_measured_in_sides_per_second_with_their_sign(camera: Camera, name: str):
    found = measure(camera, 11, 8, 7, (96, 64))
    for part in ("pan", "tilt", "zoom", "roll"):
        unit = 60 if part == "roll" else 1
        assert getattr(found, part) == pytest.approx(getattr(camera, part), rel=0.05, abs=0.015 * unit), (name, part)


def test_a_pan_gives_its_speed_as_strength_and_magnitude():
    found = measure(Camera(pan=0.4), 12, 8, 7, (96, 64), movers=0)
    assert found.strength == pytest.approx(0.4, rel=0.05)
    assert found.magnitude == pytest.approx(0.4, rel=0.05)
    assert found.object_motion < 0.02


def test_only_what_the_camera_does_not_explain_is_object_motion():
    still, busy = (measure(Camera(pan=0.3), 13, 8, 7, (96, 64), movers=n) for n in (0, 3))
    assert busy.object_motion > 2 * still.object_motion
    assert busy.pan == pytest.approx(still.pan, abs=0.01)


def test_a_motion_back_and_forth_is_complex_not_static():
    there = render_shot(Scene(14, 0), Camera(pan=0.5), 4, 4, (96, 64))
    film = np.concatenate([there, there[-2::-1], there[1:]])
    found = measure_motion(film, [i / 4 for i in range(len(film))])
    assert found.motion == "complex"
    assert found.strength == pytest.approx(0.5, rel=0.1)


LOST = [Camera(pan=4.0), Camera(tilt=-3.0), Camera(roll=90.0), Camera(roll=-120.0), Camera(zoom=2.5)]


@pytest.mark.parametrize("camera", LOST)
@pytest.mark.parametrize("seed", [91, 92])
def test_a_camera_too_fast_to_follow_is_unknown_and_never_static(camera: Camera, seed: int):
    frames = render_shot(Scene(seed), camera, 5, fps=2, size=(320, 180))
    assert measure_motion(frames, [i / 2 for i in range(5)]).motion == "unknown"


@pytest.mark.parametrize(
    ("camera", "name", "speed"),
    [
        (Camera(pan=4.0), "pan", 4.0),
        (Camera(tilt=-3.0), "tilt", -3.0),
        (Camera(roll=90.0), "roll", 90.0),
        (Camera(roll=-120.0), "roll", -120.0),
    ],
)
def test_a_frame_soon_after_tells_what_a_fast_camera_does(camera: Camera, name: str, speed: float):
    frames = render_shot(Scene(93), camera, 21, fps=10, size=(320, 180))
    found = measure_motion(frames[::5], [i / 2 for i in range(5)], find_soon=lambda i: (frames[5 * i + 1], i / 2 + 0.1))
    assert found.motion.startswith(name)
    assert getattr(found, name) == pytest.approx(speed, rel=0.1)


def test_a_camera_lost_for_less_than_half_of_the_time_is_what_it_was_in_the_rest():
    slow = render_shot(Scene(94), Camera(pan=0.2), 6, fps=2, size=(320, 180))
    other = render_shot(Scene(95), Camera(), 1, size=(320, 180))
    found = measure_motion(np.concatenate([slow, other]), [i / 2 for i in range(7)])
    assert found.motion == "pan_right"
    assert found.pan == pytest.approx(0.2, rel=0.1)


def test_a_diagonal_is_complex_and_a_slant_is_not():
    assert measure(Camera(pan=0.3, tilt=0.3), 15, 4, 4, (96, 64)).motion == "complex"
    assert measure(Camera(pan=0.3, tilt=0.1), 15, 4, 4, (96, 64)).motion == "pan_right"


def test_uneven_times_give_the_same_speed():
    film = render_shot(Scene(16, 0), Camera(pan=0.3), 25, 24, (96, 64))
    chosen = [0, 5, 8, 17, 24]
    found = measure_motion(film[chosen], [i / 24 for i in chosen])
    assert found.pan == pytest.approx(0.3, rel=0.05)
    assert found.magnitude == pytest.approx(0.3, rel=0.05)


def test_noise_does_not_count_more_at_a_higher_frame_rate():
    film = degraded(np.repeat(render_shot(Scene(17, 0), Camera(), 1, size=(64, 64)), 25, axis=0), 8.0, 0.0)
    fast = measure_motion(film, [i / 24 for i in range(25)])
    slow = measure_motion(film[::3], [i / 8 for i in range(9)])
    assert fast.motion == slow.motion == "static"
    assert fast.magnitude == pytest.approx(slow.magnitude, rel=0.01)


@pytest.mark.parametrize("level", [0, 90])
def test_a_flat_clip_is_static(level: int):
    found = measure_motion(np.full((3, 48, 64, 3), level, np.uint8), [0, 0.5, 1])
    assert (found.motion, found.strength, found.magnitude, found.object_motion) == ("static", 0, 0, 0)


@pytest.mark.parametrize(("frames", "times"), [(1, [0.0]), (3, [0.0, 0.5])])
def test_fewer_than_two_frames_or_missing_times_are_an_error(frames: int, times: list[float]):
    with pytest.raises(BadInput, match="two or more frames"):
        measure_motion(np.zeros((frames, 32, 32, 3), np.uint8), times)


def test_the_fit_ignores_what_a_minority_does():
    flow = np.full((40, 60, 2), (3.0, -2.0), np.float32)
    flow[5:25, 5:35] = (-9, 9)
    turn, shift = fit_similarity(flow, np.ones((40, 60)))
    assert turn == pytest.approx(1, abs=0.005)
    assert shift == pytest.approx(3 - 2j, abs=0.1)


def test_the_fit_ignores_what_has_no_weight():
    flow = np.zeros((40, 60, 2), np.float32)
    flow[:, 10:] = 50
    weights = np.zeros((40, 60))
    weights[:, :10] = 1
    assert fit_similarity(flow, weights) == pytest.approx((1, 0), abs=1e-6)
    assert fit_similarity(flow, 0 * weights) == (1, 0)


def test_texture_is_where_motion_can_be_seen_in_both_directions():
    gray = np.full((60, 90), 100, np.uint8)
    gray[:, 30:60:8] = 200
    gray[:, 60:] = np.random.default_rng(0).integers(0, 2, (15, 8)).repeat(4, 0).repeat(4, 1)[:, :30] * 150
    weights = measure_texture(gray)
    assert weights[:, :20].max() < 0.01
    assert np.median(weights[20:40, 38:52]) < 0.1
    assert np.median(weights[20:40, 68:82]) > 0.8


@pytest.mark.parametrize(("amplitude", "weight"), [(6.72, 0.8), (13.4, 0.941)])
def test_texture_is_the_share_of_the_squared_slopes_in_them_and_the_squared_floor(amplitude: float, weight: float):
    """Waves of 7 pixels across and down, whose slopes are sines; the blur before leaves 0.404 of them."""
    y, x = np.mgrid[0:70, 0:91] * 2 * np.pi / 7
    waves = np.rint(128 + amplitude * (np.cos(x) + np.cos(y))).astype(np.uint8)
    squared = (0.404 * amplitude * np.sin(2 * np.pi / 7)) ** 2 / 2
    assert squared / (squared + 0.75**2) == pytest.approx(weight, abs=0.001)
    assert measure_texture(waves)[14:-14, 14:-14] == pytest.approx(weight, abs=0.02)


@pytest.mark.parametrize(
    ("speeds", "strength", "expected"),
    [
        ((0.5, 0.0, 0.0, 0.0), 0.5, "pan_right"),
        ((-0.5, 0.1, 0.0, 0.0), 0.51, "pan_left"),
        ((0.0, 0.2, 0.0, 0.0), 0.2, "tilt_up"),
        ((0.0, 0.0, -0.3, 0.0), 0.12, "zoom_out"),
        ((0.0, 0.0, 0.0, -30.0), 0.21, "roll"),
        ((0.3, 0.3, 0.0, 0.0), 0.42, "complex"),
        ((0.05, 0.0, 0.0, 0.0), 0.4, "complex"),
        ((0.01, 0.01, 0.0, 0.0), 0.05, "static"),
        ((0.01, 0.0, 0.0, 0.0), 0.2, "complex"),
    ],
)
def test_the_class_follows_from_the_share_of_one_component(speeds: tuple[float, ...], strength: float, expected: str):
    pan, tilt, zoom, roll = speeds
    assert classify(pan, tilt, zoom, roll, strength, mean_radius(64, 64)) == expected
    assert expected in MOTIONS


def test_a_motion_that_does_not_add_up_is_complex():
    assert classify(0.5, 0, 0, 0, 0.5, mean_radius(64, 64), steadiness=0.6) == "pan_right"
    assert classify(0.5, 0, 0, 0, 0.5, mean_radius(64, 64), steadiness=0.4) == "complex"


def test_the_mean_radius_is_in_short_sides():
    assert mean_radius(100, 100) == pytest.approx(np.sqrt(1 / 6))
    assert mean_radius(200, 100) == mean_radius(100, 200) > mean_radius(100, 100)


def test_frames_of_any_size_are_measured_at_one():
    assert convert_to_gray(np.zeros((64, 64, 3), np.uint8)).shape == (128, 128)
    assert convert_to_gray(np.zeros((1080, 1920, 3), np.uint8)).shape == (128, 228)
