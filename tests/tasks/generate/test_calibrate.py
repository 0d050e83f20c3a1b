"""Calibration measures every motion at every bucket, and keeps the table that jobs ask by."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from models.errors import BadInput
from models.generation.calibration import load_calibration
from models.measures.camera import CameraMotion, measure_motion
from models.svd.model import load_model
from tasks.generate import calibrate
from tasks.generate.calibrate import (
    FILE,
    SCHEMA,
    CalibrateConfig,
    calibrate_model,
    format_table,
    list_motions,
    measure_clip,
    measure_own_speed,
    render_picture,
)
from tasks.manifest import read_manifest, read_rows
from tests.declared import declared

FOUND = CameraMotion("pan_left", 0.5, pan=-0.4, tilt=0.1, zoom=-0.2, roll=-5.0, object_motion=0.0, magnitude=0.6)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("buckets", [(), (-5,), (10, 256)])
def test_a_bucket_that_no_job_can_ask_for_is_not_tried(buckets):
    with pytest.raises(ValidationError, match="buckets"):
        CalibrateConfig(buckets=buckets)


@pytest.mark.slow
def test_each_bucket_is_tried_with_each_motion_and_picture_and_found_again(tmp_path, model):
    config = CalibrateConfig(buckets=(200, 10), pictures=2, motions=("pan_left",), steps=1)
    made = calibrate_model.fn(tmp_path, config, model)
    assert read_manifest(made).schema == SCHEMA
    asked = [(row["motion"], row["motion_bucket"], row["scene"]) for row in read_rows(made)]
    assert asked == [(motion, b, s) for motion in (None, "pan_left") for b in (10, 200) for s in (0, 1)]
    calibration = load_calibration(tmp_path / FILE, load_model(model).revision)
    assert set(calibration.responses) == {"any", "pan_left"}
    assert 10 <= calibration.bucket("pan_left", 0.3) <= 200
    assert calibrate_model.fn(tmp_path, config, model).cached


def test_clips_that_cannot_be_made_are_a_row_each_and_the_others_are_measured(tmp_path, model):
    config = CalibrateConfig(buckets=(10, 200), pictures=1, motions=("tilt_up",), steps=1)
    made = calibrate_model.fn(tmp_path, config, model)
    rows = {(row["motion"], row["motion_bucket"]): row for row in read_rows(made)}
    assert [key for key, row in rows.items() if row["error_code"]] == [("tilt_up", 10), ("tilt_up", 200)]
    assert all(rows[None, bucket]["flow"] is not None for bucket in (10, 200))
    assert "tilt_up" in rows["tilt_up", 10]["error_message"]
    assert set(load_calibration(tmp_path / FILE, load_model(model).revision).responses) == {"any"}


def test_a_bucket_that_one_motion_lacks_is_a_dash_in_its_line():
    table = format_table({"any": {"buckets": [10, 40], "speeds": [0.1, 0.2]}, "roll": {"buckets": [40], "speeds": [3]}})
    assert [line.split() for line in table.splitlines()] == [
        ["motion", "10", "40"],
        ["any", "0.100", "0.200"],
        ["roll", "-", "3.000"],
    ]
    assert format_table({}).split() == ["motion"]


@pytest.mark.parametrize(
    ("motion", "speed"),
    [("pan_left", 0.4), ("pan_right", -0.4), ("tilt_up", 0.1), ("zoom_out", 0.2), ("roll", 5.0), (None, 0.6)],
)
def test_the_speed_is_that_of_the_motion_asked_for(motion, speed):
    assert measure_own_speed(motion, FOUND) == pytest.approx(speed)


def test_all_motions_that_the_model_knows_are_measured_but_static(model):
    assert list_motions(load_model(model), CalibrateConfig()) == [None, "pan_left"]
    assert list_motions(load_model(model), CalibrateConfig(motions=())) == [None]


def test_a_motion_made_by_regions_is_measured_as_it_is_generated(model, monkeypatch):
    """The small model has no word for a tilt, so regions are refused where its one word for a motion would do."""
    loaded = load_model(model)
    regional = replace(loaded, facts=loaded.facts.model_copy(update={"by_regions": ("zoom_in",)}))
    assert list_motions(regional, CalibrateConfig()) == [None, "pan_left", "zoom_in"]
    with pytest.raises(BadInput, match="no word for the camera motion pan_right"):
        measure_clip(regional, CalibrateConfig(steps=1), 0, "zoom_in", 40)


def test_pictures_are_of_the_models_size_and_the_same_every_time(model):
    loaded = load_model(model)
    assert render_picture(loaded, 3).shape == (32, 32, 3)
    assert (render_picture(loaded, 3) == render_picture(loaded, 3)).all()


def test_the_table_reads_as_a_line_for_each_motion():
    lines = format_table({"pan_left": {"buckets": [10, 20], "speeds": [0.1, 0.25]}}).splitlines()
    assert [line.split() for line in lines] == [["motion", "10", "20"], ["pan_left", "0.100", "0.250"]]


def test_a_clip_is_measured_at_the_times_at_which_its_frames_are_shown(model, monkeypatch):
    times: list[list[float]] = []

    def measured(frames, times_s):
        times.append(times_s)
        return measure_motion(frames, times_s)

    monkeypatch.setattr(calibrate, "measure_motion", measured)
    measure_clip(load_model(model), CalibrateConfig(steps=1), 0, None, 40)
    assert times == [pytest.approx([0, 1 / 7, 2 / 7, 3 / 7])]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(CalibrateConfig) == {
        "": "frozen=True, extra='forbid'",
        "buckets": "(10, 40, 80, 120, 160, 200, 240), min_length=1, ge=0, le=255",
        "pictures": "4, ge=1",
        "motions": "None",
        "steps": "15, ge=1, le=1000",
        "seed": "0, ge=0",
        "dtype": "'auto'",
    }


def test_the_step_goes_by_its_name():
    assert calibrate_model.name == "calibrate"
