"""A calibration gives the bucket that makes the speed asked for, as far as the model can."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadInput, BadModel
from models.generation.calibration import (
    UNNAMED,
    Calibration,
    Response,
    dump_calibration,
    load_calibration,
    make_calibration,
)

EVEN = Response((10, 110, 210), (0.0, 0.5, 1.0))


def rows(motion: str | None, speeds: dict[int, list[float]]) -> list[dict]:
    return [
        {"motion": motion, "motion_bucket": bucket, "strength_measured": speed}
        for bucket, several in speeds.items()
        for speed in several
    ]


def test_between_measured_buckets_a_straight_line_decides():
    assert [EVEN.bucket(strength) for strength in (0.0, 0.25, 0.5, 0.9)] == [10, 60, 110, 190]
    assert EVEN.speed(60) == pytest.approx(0.25)


def test_past_the_ends_the_end_is_asked():
    assert (EVEN.bucket(7.0), EVEN.bucket(-1.0)) == (210, 10)


def test_speeds_that_fall_are_pooled():
    assert Response((1, 2, 3, 4), (0.1, 0.4, 0.2, 0.6)).rising() == pytest.approx([0.1, 0.3, 0.3, 0.6])


def test_where_buckets_make_no_difference_the_middle_one_is_asked():
    assert Response((0, 100, 200), (0.4, 0.4, 0.4)).bucket(0.4) == 100
    assert Response((0, 50, 100, 200), (0.1, 0.4, 0.4, 0.9)).bucket(0.4) == 75


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8), st.floats(-3, 3), st.floats(0, 2))
def test_asking_for_more_never_gives_a_smaller_bucket(speeds, strength, more):
    response = Response(tuple(range(0, 20 * len(speeds), 20)), tuple(speeds))
    assert 0 <= response.bucket(strength) <= response.bucket(strength + more) <= response.buckets[-1]


def test_measured_clips_become_medians_by_motion_and_bucket():
    made = make_calibration("r", rows("pan_left", {20: [0.1, 0.2, 9.0], 10: [0.0]}) + rows(None, {10: [0.3]}))
    assert made.responses == {"pan_left": Response((10, 20), (0.0, 0.2)), UNNAMED: Response((10,), (0.3,))}
    assert made.bucket("pan_left", 0.1) == 15
    assert made.bucket(None, 5.0) == 10


def test_a_motion_that_was_not_measured_is_refused_by_name():
    with pytest.raises(BadInput, match=r"not calibrated for roll \(only for: pan_left\)"):
        Calibration("r", {"pan_left": EVEN}).bucket("roll", 1.0)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    made = Calibration("r", {"pan_left": EVEN})
    (tmp_path / "c.json").write_text(json.dumps(dump_calibration(made)))
    assert load_calibration(tmp_path / "c.json", "r") == made
    with pytest.raises(BadModel, match="weights other than"):
        load_calibration(tmp_path / "c.json", "another")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model_revision": "r"}', '{"model_revision": "r", "responses": {"a": 1}}']
)
def test_what_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadInput, match=r"c\.json: not a calibration"):
        load_calibration(tmp_path / "c.json", "r")
    with pytest.raises(BadInput, match="not a calibration"):
        load_calibration(tmp_path / "gone.json", "r")
