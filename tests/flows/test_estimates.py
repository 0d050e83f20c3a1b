"""Estimates grow with what is asked, and the plan says them in words."""

from typing import Any

import pytest

from flows.estimates import estimate, plan_lines, spoken

JOB: dict[str, Any] = {"model": "tiny", "frames": 8, "width": 64, "height": 64, "steps": 25}


def test_the_embedded_models_clip_is_estimated_as_it_was_measured():
    assert estimate(JOB).seconds == pytest.approx(6.5e-5 * 8 * 16 * 16 * 25, rel=0.01)


def test_time_grows_with_steps_memory_with_pixels_and_disk_with_both_sides():
    base, longer, wider = estimate(JOB), estimate(JOB | {"steps": 50}), estimate(JOB | {"width": 128})
    assert longer.seconds == pytest.approx(2 * base.seconds)
    assert (longer.memory, longer.disk) == (base.memory, base.disk)
    assert base.memory < wider.memory < 2 * base.memory, "the weights stay the same"
    assert wider.disk == pytest.approx(2 * base.disk)


def test_disk_grows_with_what_the_format_keeps_and_frames_wait_in_full():
    film, moving, pictures = (estimate(JOB, written).disk for written in ("h264", "gif", "png"))
    assert film < moving < pictures
    assert estimate(JOB).parked == 8 * 64 * 64 * 3


def test_a_plan_has_a_line_for_each_size_and_one_for_all():
    lines = plan_lines([JOB, JOB | {"width": 128}, JOB])
    assert [line.partition(" of ")[0] for line in lines[:2]] == ["2", "1"]
    assert lines[0].startswith("2 of 8 frames of 64x64, 25 steps, by tiny: about ")
    assert lines[2].startswith("in all: about ")
    assert plan_lines([]) == []


def test_times_are_said_in_a_fitting_unit():
    assert [spoken(s) for s in (0.04, 80, 600, 9000, 400_000)] == ["0.0 s", "80.0 s", "10.0 min", "2.5 h", "4.6 days"]
