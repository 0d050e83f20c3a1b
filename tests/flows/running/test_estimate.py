"""Estimates grow with what is asked, and the plan says them in words."""

from typing import Any

import pytest
import torch

from flows.running.estimate import describe_plan, estimate, format_duration, plan_memory
from models.memory.measured_costs import Cost
from models.memory.plan import Plan

JOB: dict[str, Any] = {"model": "tiny", "frames": 8, "width": 64, "height": 64, "steps": 25, "dtype": "float32"}


def test_the_embedded_models_clip_is_estimated_as_it_was_measured():
    assert estimate(JOB).seconds == pytest.approx(6.5e-5 * 8 * 16 * 16 * 25, rel=0.01)


def test_time_grows_with_steps_and_disk_with_both_sides():
    base, longer, wider = estimate(JOB), estimate(JOB | {"steps": 50}), estimate(JOB | {"width": 128})
    assert longer.seconds == pytest.approx(2 * base.seconds)
    assert longer.disk == base.disk
    assert wider.disk == pytest.approx(2 * base.disk)


def test_disk_grows_with_what_the_format_keeps_and_frames_wait_in_full():
    film, moving, pictures = (estimate(JOB, written=written).disk for written in ("h264", "gif", "png"))
    assert film < moving < pictures
    assert estimate(JOB).parked == 8 * 64 * 64 * 3


def test_memory_is_that_of_the_plan_that_would_be_used_now():
    plenty, scarce = plan_memory(JOB, batch=4, free=10**10), plan_memory(JOB, batch=4, free=10**6)
    assert (plenty.sampling, plenty.decoding) == (Plan(batch=4), Plan())
    assert scarce.sampling.feed_forward
    assert str(scarce).startswith(f"{scarce.sampling}, decoded in strips of 16 MiB, about ")
    assert plan_memory(JOB | {"width": 128}, free=10**10).sampling_bytes == plenty.sampling_bytes // 2
    assert plan_memory(JOB | {"frames": 80}, free=10**10).sampling_bytes == plenty.sampling_bytes // 4, "windows"


def test_a_time_that_was_measured_on_the_device_is_used(monkeypatch):
    costs = {"whole": Cost(3.0, None), "decoded whole": Cost(9.0, None)}
    monkeypatch.setattr("flows.running.estimate._read_costs", lambda *_: costs)
    assert estimate(JOB).seconds == 3.0 * 8 * 16 * 16 * 25
    assert " as measured each; batch 1, decoded whole, about " in describe_plan([JOB])[0]


def test_on_a_gpu_without_a_measurement_no_time_is_said(monkeypatch):
    monkeypatch.setattr("flows.running.estimate.format_device", lambda _: "NVIDIA Pretended")
    monkeypatch.setattr("models.memory.measured_costs.format_device", lambda _: "NVIDIA Pretended")
    monkeypatch.setattr("flows.running.estimate.measure_free_memory", lambda _: 10**10)
    lines = describe_plan([JOB], torch.device("cuda", 0))
    assert "by tiny: not measured yet on NVIDIA Pretended each; batch 1, guidance together, decoded whole" in lines[0]
    assert lines[1].startswith("total: time not measured yet, ")


def test_a_plan_has_a_line_for_each_size_and_one_for_all():
    lines = describe_plan([JOB, JOB | {"width": 128}, JOB])
    assert [line.partition(" of ")[0] for line in lines[:2]] == ["2", "1"]
    assert lines[0].startswith("2 of 8 frames of 64x64, 25 steps, by tiny: about ")
    assert lines[2].startswith("total: about ")
    assert describe_plan([]) == []


def test_a_motion_by_regions_takes_a_pass_of_the_unet_for_each_and_a_line_of_its_own():
    zoom, pan = JOB | {"word": "regions:zoom_in"}, JOB | {"word": "pan_left"}
    assert estimate(zoom).seconds == pytest.approx(4 * estimate(pan).seconds)
    plain, regional, *_ = describe_plan([zoom, pan, JOB])
    assert plain.startswith("2 of 8 frames of 64x64, 25 steps, by tiny: ")
    assert regional.startswith("1 of 8 frames of 64x64, 25 steps in 4 regions, by tiny: ")


def test_times_are_said_in_a_fitting_unit():
    assert [format_duration(s) for s in (0.04, 80, 600, 9000, 400_000)] == [
        "0.0 s",
        "80.0 s",
        "10.0 min",
        "2.5 h",
        "4.6 days",
    ]
