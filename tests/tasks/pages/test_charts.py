"""Charts show the numbers they are given, in the page's colours and font, the same way every time."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tasks.pages.charts import draw_curves, draw_smoothed, smooth

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: str) -> ET.Element:
    return ET.fromstring(str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def every_chart() -> list[str]:
    x = np.arange(4.0)
    return [
        draw_curves("c", {"one": (x, x), "two": (x, x**2)}, "x", "y"),
        draw_smoothed("s", x, x[::-1], "step", "loss"),
    ]


@pytest.fixture(scope="module")
def charts() -> list[str]:
    return every_chart()


def test_charts_are_well_formed_and_wear_nothing_of_their_own(charts):
    for chart in charts:
        assert parsed(chart).get("width") is None
        assert not re.search(r"#[0-9a-fA-F]{6}|font-family|DejaVu|<style|<metadata", chart)
        assert "var(--accent)" in chart
        assert "var(--soft)" in chart


def test_the_same_numbers_give_the_same_bytes(charts):
    assert every_chart() == charts


def test_two_charts_on_one_page_share_no_id():
    x = np.arange(3.0)
    ids = [
        set(re.findall(r'\bid="([^"]+)"', chart))
        for chart in (draw_smoothed("a", x, x, "n", "m"), draw_smoothed("b", x, x, "n", "m"))
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_whatever_a_chart_refers_to_is_in_it(charts):
    for chart in charts:
        ids = set(re.findall(r'\bid="([^"]+)"', chart))
        assert set(re.findall(r"url\(#([^)]+)\)", chart)) <= ids
        assert set(re.findall(r'href="#([^"]+)"', chart)) <= ids


def test_a_title_is_escaped():
    chart = draw_smoothed("s", np.arange(2.0), np.ones(2), 'steps <b> "x" \\1', "loss")
    assert parsed(chart).get("aria-label") == 'loss by steps <b> "x" \\1: from 1.000 to 1.000'


def test_smoothing_is_a_mean_over_neighbours_as_far_as_there_are_any():
    assert smooth(np.array([0.0, 3.0, 6.0, 9.0]), 1) == pytest.approx([1.5, 3.0, 6.0, 7.5])
    assert smooth(np.array([2.0]), 5) == pytest.approx([2.0])
    assert len(smooth(np.array([]), 1)) == 0


def test_a_loss_curve_says_where_it_began_and_ended():
    chart = draw_smoothed("s", np.array([10.0, 20.0]), np.array([1.5, 0.25]), "step", "loss")
    assert 'aria-label="loss by step: from 1.500 to 0.250"' in chart


def test_several_lines_have_a_legend(charts):
    texts = [t.text for t in parsed(charts[0]).iter(f"{SVG}text")]
    assert {"one", "two", "x", "y"} <= set(texts)
