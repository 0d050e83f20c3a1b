"""The embedded model's footage: what is filmed moves as it says, forwards and backwards, and begins in many places."""

import cv2
import numpy as np
import pytest

from models.measures.camera import measure_motion
from tasks.footage import OPPOSITE, Camera, Scene, compute_mean_flow, render_shot
from tasks.tiny.render import FPS, FRAMES, ROLL_PER_SPEED, SHARES, SIDE, RenderConfig, Shot, film, film_scene
from tests.declared import declared

cv2.setNumThreads(1)

STILL = RenderConfig(moving=0.0)


def shots_of(scenes: range, config: RenderConfig = STILL) -> list[Shot]:
    return [shot for number in scenes for shot in film_scene(number, config)]


def test_a_shot_does_what_it_says_forwards_and_backwards():
    times = [i / FPS for i in range(FRAMES)]
    for shot in shots_of(range(3)):
        assert (shot.frames.shape, shot.frames.dtype) == ((FRAMES, SIDE, SIDE, 3), np.uint8)
        for motion, frames in ((shot.forwards, shot.frames), (shot.backwards, shot.frames[::-1])):
            measured = measure_motion(frames, times)
            if motion is not None:
                assert measured.motion == motion
                assert measured.strength == pytest.approx(shot.flow, rel=0.35, abs=0.05)


def test_what_is_shown_backwards_is_the_opposite_and_a_roll_is_shown_clockwise_only():
    shots = shots_of(range(6))
    assert {(s.forwards, s.backwards) for s in shots if "roll" not in (s.forwards, s.backwards)} <= {
        (motion, OPPOSITE[motion]) for motion in SHARES if motion != "roll"
    }
    rolls = [s for s in shots if "roll" in (s.forwards, s.backwards)]
    assert {(s.forwards, s.backwards) for s in rolls} == {("roll", None), (None, "roll")}
    times = [i / FPS for i in range(FRAMES)]
    for shot in rolls:
        assert measure_motion(shot.frames if shot.forwards else shot.frames[::-1], times).roll > 0


def test_the_shots_of_a_scene_begin_in_different_places_and_those_with_movers_where_these_are():
    pictures = [shot.frames[0] for shot in film_scene(0, STILL)]
    assert all(np.abs(pictures[0].astype(int) - other).mean() > 10 for other in pictures[1:])
    still = [s.frames for s in shots_of(range(4), RenderConfig(moving=1.0)) if s.forwards == "static"]
    assert sum(not np.array_equal(frames[0], frames[-1]) for frames in still) >= len(still) / 2 > 0


def test_speeds_are_within_what_is_asked():
    config = RenderConfig(slowest=0.2, fastest=0.3, slowest_turn=0.5, fastest_turn=0.6)
    for shot in shots_of(range(4), config):
        motion = shot.forwards or shot.backwards
        assert motion is not None
        slow, fast = (0.5, 0.6) if motion.startswith(("zoom", "roll")) else (0.2, 0.3)
        if motion == "roll":
            slow, fast = slow / ROLL_PER_SPEED, fast / ROLL_PER_SPEED
        assert compute_mean_flow(motion, slow) <= shot.flow <= compute_mean_flow(motion, fast) or motion == "static"


def test_the_shares_are_of_a_whole():
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_a_scene_is_filmed_the_same_each_time_and_another_seed_gives_another():
    first, again, other = (
        next(film_scene(number, RenderConfig(seed=seed))).frames for number, seed in ((3, 0), (3, 0), (3, 1000))
    )
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


def test_film_is_a_larger_picture_shrunk():
    scene, camera = Scene(5, movers=0), Camera.doing("pan_left")
    small, large = film(scene, camera, 2, FPS, (16, 8)), render_shot(scene, camera, 2, FPS, (32, 16))
    assert small.shape == (2, 8, 16, 3)
    assert small[1, 3, 5] == pytest.approx(large[1, 6:8, 10:12].mean((0, 1)), abs=0.51)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(RenderConfig) == {
        "": "frozen=True, extra='forbid'",
        "shots": "8, ge=1",
        "moving": "0.15, ge=0, le=1",
        "slowest": "0.15, gt=0",
        "fastest": "0.6, gt=0",
        "slowest_turn": "0.2, gt=0",
        "fastest_turn": "0.9, gt=0",
        "seed": "0, ge=0",
    }
