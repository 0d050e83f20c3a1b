"""Small curves: their points lie where the values say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.pages.sparks import HEIGHT, MARGIN, WIDTH, draw_spark


def points(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'points="([^"]*)"', svg)
    assert found
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]  # pyright: ignore[reportReturnType]


def test_a_curve_runs_from_left_to_right_and_high_values_are_up():
    assert points(draw_spark([0.0, 0.5, 1.0], 1.0, "x")) == [(2, 32), (60, 17), (118, 2)]


def test_a_value_above_the_top_raises_the_scale():
    assert points(draw_spark([4.0, 2.0], 1.0, "x")) == [(2, 2), (118, 17)]


def test_limits_are_drawn_where_they_are_on_the_scale_and_the_end_where_there_is_one():
    svg = draw_spark([1.0] * 5, 1.0, "x", limits=(0.5, 7.0), end=2)
    assert svg.count('class="limit"') == 1
    assert 'class="end" x1="60.0"' in svg
    assert 'class="end"' not in draw_spark([1.0] * 5, 1.0, "x", end=5)


def test_the_label_is_escaped():
    assert "<b>" not in draw_spark([1.0], 1.0, "<b>")


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0]])
def test_curves_of_nothing_are_drawn_at_the_bottom(values):
    assert {y for _, y in points(draw_spark(values, 0.0, "x"))} == {HEIGHT - MARGIN}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 10))
def test_points_stay_inside_the_picture(values, top):
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(draw_spark(values, top, "x")))
