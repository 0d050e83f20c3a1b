import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.measures.alignment import Alignment, align, find_coarse_alignment, is_inside, make_positions, move_back
from tasks.footage import Camera, Scene, render_shot

cv2.setNumThreads(1)

SIZE = (171, 128)


def picture(seed: int, **camera: float) -> NDArray[np.uint8]:
    """A still scene, gray [128, 171], after a camera has moved by so much."""
    frame = render_shot(Scene(seed, movers=0), Camera(**camera), 2, 1.0, SIZE)[-1]
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8)


@pytest.mark.parametrize("shift", [0.5, 7.25, -20.0, 43.0, -58.0])
def test_a_shift_is_found_up_to_almost_half_a_side(shift: float):
    found = align(picture(3), picture(3, pan=-shift / 128))
    assert found.shift.real == pytest.approx(shift, rel=0.01, abs=0.3)
    assert abs(found.shift.imag) < 0.3
    assert abs(found.turn - 1) < 0.005


@pytest.mark.parametrize("zoom", [-0.45, -0.2, 0.03, 0.3, 0.45])
def test_a_magnification_is_found(zoom: float):
    found = align(picture(4), picture(4, zoom=zoom))
    assert np.log(abs(found.turn)) == pytest.approx(zoom, rel=0.06, abs=0.01)
    assert abs(found.shift) < 1


@pytest.mark.parametrize("degrees", [-27.0, -10.0, 3.0, 20.0, 30.0])
def test_a_turn_is_found_clockwise_positive(degrees: float):
    found = align(picture(5), picture(5, roll=degrees))
    assert np.rad2deg(np.angle(found.turn)) == pytest.approx(degrees, abs=0.5)
    assert abs(found.shift) < 1


def test_the_coarse_search_is_right_to_a_coarse_pixel():
    found = find_coarse_alignment(picture(6), picture(6, pan=0.4, tilt=0.2), (0.0,), (0.0,))
    assert found.shift == pytest.approx(complex(-0.4 * 128, 0.2 * 128), abs=4)


def test_a_small_object_does_not_carry_the_picture_away():
    before = picture(7)
    after = before.copy()
    cv2.circle(before, (60, 60), 22, 255, -1)
    cv2.circle(after, (90, 70), 22, 255, -1)
    assert abs(align(before, after).shift) < 0.3


def test_a_change_of_brightness_is_no_motion():
    before = picture(8)
    found = align(before, before // 2 + 60)
    assert abs(found.shift) < 0.1
    assert abs(found.turn - 1) < 0.003


@pytest.mark.parametrize("seed", range(20, 28))
def test_unrelated_pictures_do_not_move_far(seed: int):
    assert abs(align(picture(seed), picture(seed + 100)).shift) < 5


@pytest.mark.parametrize("level", [0, 128])
def test_a_flat_picture_does_not_move(level: int):
    flat = np.full((64, 96), level, np.uint8)
    assert align(flat, flat) == Alignment()


def test_alignments_compose_and_scale():
    first, then = Alignment(1.1 + 0.2j, 3 - 4j), Alignment(0.9 - 0.1j, 1 + 1j)
    points = make_positions(6, 8)
    assert np.allclose(then.after(first).apply(points), then.apply(first.apply(points)))
    assert np.allclose(first.scaled(2).apply(2 * points), 2 * first.apply(points))


def test_the_matrix_is_opencvs_over_pixel_coordinates():
    alignment = Alignment(np.exp(0.2 + 0.3j), 5 - 2j)
    corner = alignment.matrix(8, 6) @ [0, 0, 1]
    expected = alignment.apply(make_positions(6, 8))[0, 0] + complex(3.5, 2.5)
    assert complex(*corner) == pytest.approx(expected, abs=1e-5)


def test_bringing_back_undoes_a_shift_and_marks_what_is_gone():
    before = picture(9)
    after = np.roll(before, 10, axis=1)
    back, seen = move_back(after, Alignment(shift=10 + 0j))
    assert np.array_equal(back[:, :-10], before[:, :-10])
    assert seen[:, :-10].all()
    assert not seen[:, -10:].any()


def test_inside_includes_the_border():
    points = make_positions(4, 5)
    assert is_inside(points).all()
    assert is_inside(points + 1).sum() == 16
