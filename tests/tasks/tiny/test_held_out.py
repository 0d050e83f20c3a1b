"""Where the pixels of a true clip come from: known motions put them where they must be; what left is not counted."""

import cv2
import numpy as np
import pytest

from models.svd.model import VideoModel, load_model
from tasks.footage import Camera, Motion, trace_view
from tasks.tiny.held_out import find_in_view, make_tensor, measure_errors, move_pixels, render_truth, trace_clip
from tasks.tiny.sitting import MOTIONS

cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def small(model: str) -> VideoModel:
    return load_model(model)


def test_all_motions_of_a_scene_start_with_the_same_picture(small: VideoModel):
    first, *others = (render_truth(3, motion, 0.5, small)[0] for motion in MOTIONS)
    assert all(np.array_equal(first, other) for other in others)
    assert not np.array_equal(first, render_truth(4, "static", 0.5, small)[0])
    assert not np.array_equal(first, render_truth(3, "static", 0.5, small, movers=0)[0])


def test_a_pixel_is_traced_to_where_it_was():
    at = trace_view(Camera.doing("pan_right", 0.5), 1.0, (64, 32))
    assert at.shape == (32, 64, 2)
    assert at[5, 7] == pytest.approx([7 + 16, 5], abs=1e-4)  # half of the short side to the right
    assert trace_view(Camera.doing("tilt_up", 0.5), 1.0, (64, 32))[20, 7] == pytest.approx([7, 4], abs=1e-4)
    zoomed = trace_view(Camera(zoom=np.log(2)), 1.0, (65, 65))
    assert zoomed[32, 32] == pytest.approx([32, 32], abs=1e-4)
    assert zoomed[32, 64] == pytest.approx([48, 32], abs=1e-4)
    # Turned clockwise by a quarter, what is at the right was at the top.
    assert trace_view(Camera(roll=90.0), 1.0, (65, 65))[32, 64] == pytest.approx([32, 0], abs=1e-3)


@pytest.mark.parametrize("motion", [m for m in MOTIONS if m != "static"])
def test_what_is_in_view_is_the_picture_moved_and_nothing_else_is(small: VideoModel, motion: Motion):
    truth = render_truth(1, motion, 0.5, small, movers=0)
    places = trace_clip(motion, 0.5, small)
    seen = find_in_view(places)
    assert seen[0].all()
    assert not seen[-1].all() or motion == "zoom_in"
    moved = measure_errors(move_pixels(truth[0], places), truth, seen)[-1]
    assert moved < 60
    assert moved < measure_errors(np.repeat(truth[:1], len(truth), 0), truth, seen)[-1] / 10


def test_half_of_a_picture_is_left_by_a_pan_of_half_a_side(small: VideoModel):
    seen = find_in_view(trace_clip("pan_left", 0.5, small))
    shares = seen.mean((1, 2))
    frames = np.arange(small.facts.frames) / small.facts.fps
    assert shares == pytest.approx(1 - 0.5 * frames, abs=1 / small.facts.width)
    assert not seen[-1][:, 0].any()
    assert seen[-1][:, -1].all()


def test_errors_are_squared_and_per_frame_and_of_the_pixels_asked_for():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    frames = truth.copy()
    frames[1] = 200
    frames[1, :2] = 0
    assert measure_errors(frames, truth) == [0.0, 20000.0]
    where = np.zeros((2, 4, 4), bool)
    where[:, 2:] = True
    assert measure_errors(frames, truth, where) == [0.0, 40000.0]


def test_pictures_are_told_to_models_in_minus_one_to_one():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 1] = (255, 0, 0)
    told = make_tensor(picture)
    assert told.shape == (3, 2, 3)
    assert told[:, 0, 1].tolist() == [1.0, -1.0, -1.0]
