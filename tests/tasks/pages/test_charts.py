"""Charts show the numbers they are given, in the page's colours and font, the same way every time."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tasks.pages.charts import bars, curves, histogram, smoothed, smoothed_curve

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: str) -> ET.Element:
    return ET.fromstring(str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def heights(chart: str, colour: str) -> list[float]:
    """Of the bars drawn in a colour, by their order: upright ones' heights in the chart's units."""
    found = []
    for path in parsed(chart).iter(f"{SVG}path"):
        if path.get("style", "") == f"fill: var(--{colour})":
            y = [float(n) for n in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", path.get("d", ""))]
            found.append(max(y) - min(y))
    return found


SOME = np.array([0.1, 0.1, 0.1, 0.9, np.nan])


def every_chart() -> list[str]:
    x = np.arange(4.0)
    return [
        histogram("h", SOME, SOME[:2], "a value", [0.5]),
        bars("b", [("pan right", 3, 1), ("static", 0, 2)], "clips"),
        curves("c", {"one": (x, x), "two": (x, x**2)}, "x", "y"),
        smoothed_curve("s", x, x[::-1], "step", "loss"),
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
        set(re.findall(r'\bid="([^"]+)"', chart)) for chart in (histogram("a", x, x, "n"), histogram("b", x, x, "n"))
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_whatever_a_chart_refers_to_is_in_it(charts):
    for chart in charts:
        ids = set(re.findall(r'\bid="([^"]+)"', chart))
        assert set(re.findall(r"url\(#([^)]+)\)", chart)) <= ids
        assert set(re.findall(r'href="#([^"]+)"', chart)) <= ids


def test_bars_of_a_histogram_are_as_high_as_there_are_clips():
    chart = histogram("h", SOME, np.array([0.1]), "a value")
    kept, dropped = ([h for h in heights(chart, colour) if h > 0.01] for colour in ("accent", "faint"))
    assert len(kept) == 2
    assert kept[0] / kept[1] == pytest.approx(3, abs=0.01)
    assert dropped == pytest.approx([kept[1]], abs=0.01)
    assert 'aria-label="Clips by a value: 4 kept, 1 dropped"' in chart


def test_a_threshold_past_all_values_is_still_in_the_picture():
    chart = histogram("h", np.array([0.001]), np.array([]), "text", [0.07])
    line = re.search(r'd="M ([\d.]+)[^"]*"[^>]*stroke-dasharray', chart)
    assert line
    assert 0 < float(line[1]) < float(parsed(chart).get("viewBox", "").split()[2])


def test_nothing_to_show_says_so():
    assert "nothing measured" in histogram("h", np.array([np.nan]), np.array([]), "text", [0.07])
    assert "nothing measured" in bars("b", [], "clips")


def test_all_values_the_same_are_one_bar():
    chart = histogram("h", np.zeros(5), np.array([]), "motion")
    assert len([h for h in heights(chart, "accent") if h > 0.01]) == 1


def test_bars_say_their_counts_and_are_ordered_from_the_top(charts):
    texts = {
        t.text: float(t.get("y", "nan"))
        for t in parsed(bars("b", [("pan right", 3, 1), ("roll", 0, 2)], "clips")).iter(f"{SVG}text")
    }
    assert texts["pan right"] < texts["roll"]
    assert {"4", "2"} <= set(texts)


def test_a_title_is_escaped():
    chart = bars("b", [("a", 1, 0)], 'clips <b> "x" \\1')
    assert parsed(chart).get("aria-label") == 'clips <b> "x" \\1: a 1'


def test_smoothing_is_a_mean_over_neighbours_as_far_as_there_are_any():
    assert smoothed(np.array([0.0, 3.0, 6.0, 9.0]), 1) == pytest.approx([1.5, 3.0, 6.0, 7.5])
    assert smoothed(np.array([2.0]), 5) == pytest.approx([2.0])
    assert len(smoothed(np.array([]), 1)) == 0


def test_a_loss_curve_says_where_it_began_and_ended():
    chart = smoothed_curve("s", np.array([10.0, 20.0]), np.array([1.5, 0.25]), "step", "loss")
    assert 'aria-label="loss by step: from 1.500 to 0.250"' in chart


def test_several_lines_have_a_legend(charts):
    texts = [t.text for t in parsed(charts[2]).iter(f"{SVG}text")]
    assert {"one", "two", "x", "y"} <= set(texts)
