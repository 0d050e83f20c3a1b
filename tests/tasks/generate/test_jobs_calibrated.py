"""The speed of a motion asked for becomes the motion bucket that makes it, by rule or as a model was calibrated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import BadInput, BadModel
from models.generation.calibration import UNNAMED, Calibration, Response, dump_calibration
from models.generation.card import read_card
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tests.job_tables import jobs_of, table

Pictures = Callable[..., Path]


def test_the_speed_asked_for_sets_the_motion_bucket_unless_one_is_given(pictures, tmp_path, model):
    home = pictures("a.png")
    lines = [
        {"motion": "pan_left", "motion_strength": 0.5, "seed": 1, "motion_bucket": None},
        {"motion": "static", "motion_strength": 0.0, "seed": 2, "motion_bucket": None},
        {"motion": "pan_left", "motion_strength": 0.5, "seed": 3, "motion_bucket": 9},
    ]
    rows = jobs_of(tmp_path / "out", table(home, *({"image": "a.png", **line} for line in lines)), model)
    assert [(row["motion_strength"], row["motion_bucket"]) for row in rows] == [(0.5, 85), (0.0, 0), (0.5, 9)]


def calibration_of(model: str, folder: Path, revision: str | None = None) -> Path:
    responses = {"pan_left": Response((20, 220), (0.0, 1.0)), UNNAMED: Response((0, 200), (0.0, 2.0))}
    made = Calibration(revision or read_card(model).revision, responses)
    path = folder / "calibration.json"
    path.write_text(json.dumps(dump_calibration(made)))
    return path


def test_a_calibration_gives_the_bucket_that_makes_the_speed_asked_for(pictures, tmp_path, model):
    home = pictures("a.png")
    lines = [
        {"motion": "pan_left", "motion_strength": 0.5, "seed": 1, "motion_bucket": None},
        {"motion": None, "motion_strength": 0.5, "seed": 2, "motion_bucket": None},
        {"motion": "pan_left", "motion_strength": 0.5, "seed": 3, "motion_bucket": 9},
        {"motion": "pan_left", "motion_strength": None, "seed": 4, "motion_bucket": None},
        {"motion": "static", "motion_strength": 0.0, "seed": 5, "motion_bucket": None},
    ]
    jobs = table(home, *({"image": "a.png", **line} for line in lines))
    rows = jobs_of(tmp_path / "out", jobs, model, calibration=calibration_of(model, tmp_path))
    assert [(row["status"], row["motion_bucket"]) for row in rows] == [
        ("ready", bucket) for bucket in (120, 50, 9, 127, 0)
    ]


def test_a_motion_that_was_not_calibrated_fails_its_own_row(pictures, tmp_path, model):
    home = pictures("a.png")
    asked = [{"image": "a.png", "motion": m, "motion_strength": 0.3} for m in ("pan_right", "pan_left")]
    failed, made = jobs_of(tmp_path / "out", table(home, *asked), model, calibration=calibration_of(model, tmp_path))
    assert "not calibrated for pan_right" in failed["error_message"]
    assert made["motion_bucket"] == 80


def test_a_calibration_of_other_weights_stops_the_run_before_it_begins(pictures, tmp_path, model):
    with pytest.raises(BadModel, match="weights other than"):
        jobs_of(tmp_path / "out", pictures("a.png"), model, calibration=calibration_of(model, tmp_path, "another"))


def test_of_a_calibration_nothing_but_its_buckets_is_remembered(pictures, tmp_path, model):
    jobs = table(pictures("a.png"), {"image": "a.png", "motion": "pan_left", "motion_strength": 0.5})
    bucket = {"motion_strength": 0.5, "motion": "pan_left", "motion_bucket": 120}
    told = table(tmp_path / "pictures", {"image": "a.png", **bucket}, name="told.parquet")
    config = JobsConfig(model=model, calibration=calibration_of(model, tmp_path))
    calibrated = read_jobs.fn(tmp_path / "out", config, jobs)
    asked = read_jobs.fn(tmp_path / "out", JobsConfig(model=model), told)
    assert (asked.path, asked.cached) == (calibrated.path, True)


def test_a_broken_calibration_stops_the_run_though_nothing_asks_for_a_strength_and_no_model_is_named(
    pictures, tmp_path
):
    (tmp_path / "c.json").write_text("{")
    for name in ("c.json", "gone.json"):
        config = JobsConfig(calibration=tmp_path / name)
        with pytest.raises(BadInput, match=f"{name}: not a calibration"):
            read_jobs.fn(tmp_path / "out", config, pictures("a.png"))
    assert not (tmp_path / "out").exists()
