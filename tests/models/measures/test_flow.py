import cv2
import numpy as np
import pytest

from models.measures.flow import SHORT_SIDE, choose_flow_size, farneback, stays_inside
from tasks.footage import Camera, Scene, render_shot

cv2.setNumThreads(1)


def filmed(camera: Camera, seed: int = 3, size: tuple[int, int] = (171, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Two gray pictures of a scene without moving shapes, one second apart."""
    frames = render_shot(Scene(seed, movers=0), camera, 2, 1.0, size)
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    return before, after


@pytest.mark.parametrize("pan", [-0.45, -0.33, -0.1, 0.02, 0.2, 0.33, 0.45])
def test_shifts_up_to_a_third_of_the_frame_and_more_are_measured_right(pan: float):
    flow = farneback(*filmed(Camera(pan=pan)))
    seen = stays_inside(flow)
    assert flow.shape == (128, 171, 2)
    assert flow[seen][:, 0].mean() == pytest.approx(-pan * 128, rel=0.05, abs=0.2)
    assert np.abs(flow[seen][:, 1]).mean() < 0.5


def test_a_tilt_up_moves_the_picture_down():
    flow = farneback(*filmed(Camera(tilt=0.3)))
    assert np.median(flow[..., 1]) == pytest.approx(0.3 * 128, rel=0.05)


def test_a_zoom_flows_away_from_the_middle_as_far_as_the_distance_says():
    flow = farneback(*filmed(Camera(zoom=np.log(1.5))))
    assert flow[64, 25] == pytest.approx([(25 - 85) * 0.5, 0], abs=1.5)
    assert flow[100, 85] == pytest.approx([0, (100 - 63.5) * 0.5], abs=1.5)


def test_a_roll_flows_along_circles_clockwise():
    flow = farneback(*filmed(Camera(roll=20)))
    turned = np.exp(1j * np.deg2rad(20)) - 1
    expected = turned * complex(0, -40)
    assert flow[23, 85] == pytest.approx([expected.real, expected.imag], abs=1.5)


def test_what_moves_by_itself_flows_by_itself():
    before, _ = filmed(Camera())
    after = before.copy()
    patch = render_shot(Scene(50, movers=0), Camera(), 1, size=(40, 40))[0, ..., 0]
    before[40:80, 60:100] = patch
    after[44:84, 66:106] = patch
    flow = farneback(before, after)
    assert np.median(flow[50:70, 70:90], axis=(0, 1)) == pytest.approx([6, 4], abs=0.5)
    assert np.median(np.abs(flow[:, :30])) < 0.05


def test_a_picture_without_texture_moves_with_its_surroundings():
    before, after = filmed(Camera(pan=0.1))
    before[40:90, 50:120] = after[40:90, 50:120] = 128
    flow = farneback(before, after)
    assert np.median(flow[40:90, 50:120, 0]) <= 0
    assert np.median(flow[:, 13:30, 0]) == pytest.approx(-12.8, abs=0.5)


def test_a_still_has_no_flow():
    before, _ = filmed(Camera())
    assert np.abs(farneback(before, before)).max() < 0.01


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(720, 1280, (228, 128)), (64, 64, (128, 128)), (96, 64, (128, 192))]
)
def test_flow_is_measured_at_one_short_side(height: int, width: int, expected: tuple[int, int]):
    assert choose_flow_size(height, width) == expected
    assert min(choose_flow_size(height, width)) == SHORT_SIDE


def test_pixels_that_leave_the_picture_are_known():
    flow = np.zeros((10, 12, 2), np.float32)
    flow[..., 0] = 3
    assert stays_inside(flow).sum() == 10 * 9
