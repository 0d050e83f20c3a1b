"""The meters of the embedded model: true clips are judged right, wrong ones wrong, and the figures add up."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.measures.camera import measure_motion
from models.svd.model import VideoModel, load_model
from tasks.footage import Motion, compute_mean_flow
from tasks.manifest import read_rows
from tasks.tiny.evaluate import (
    EvaluateConfig,
    compute_figures,
    evaluate_batch,
    evaluate_model,
    format_figures,
    measure_errors,
    read_figures,
    render_truth,
)
from tests.declared import declared

cv2.setNumThreads(1)
torch.set_num_threads(1)

MOTIONS = EvaluateConfig().motions

CONFIG = EvaluateConfig(pictures=2, motions=("static", "pan_left"), steps=1, batch=3)


@pytest.fixture(scope="module")
def embedded() -> VideoModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def small(model: str) -> VideoModel:
    return load_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("motion", MOTIONS)
def test_true_clips_are_judged_right(embedded: VideoModel, motion: Motion):
    facts = embedded.facts
    for scene in range(6):
        frames = render_truth(scene, motion, 0.5, embedded)
        assert frames.shape == (facts.frames, facts.height, facts.width, 3)
        measured = measure_motion(frames, [i / facts.fps for i in range(facts.frames)])
        assert measured.motion == motion
        assert measured.magnitude == pytest.approx(compute_mean_flow(motion, 0.5), rel=0.35, abs=0.1)


def test_a_clip_played_backwards_is_judged_as_the_opposite(embedded: VideoModel):
    times = [i / embedded.facts.fps for i in range(embedded.facts.frames)]
    assert measure_motion(render_truth(0, "pan_left", 0.5, embedded)[::-1], times).motion == "pan_right"
    assert measure_motion(render_truth(0, "zoom_in", 0.5, embedded)[::-1], times).motion == "zoom_out"


def test_all_motions_of_a_scene_start_with_the_same_picture(embedded: VideoModel):
    first, *others = (render_truth(3, motion, 0.5, embedded)[0] for motion in MOTIONS)
    assert all(np.array_equal(first, other) for other in others)
    assert not np.array_equal(first, render_truth(4, "static", 0.5, embedded)[0])


def test_errors_are_squared_and_per_frame():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    frames = truth.copy()
    frames[1] = 200
    frames[1, :2] = 0
    assert measure_errors(frames, truth) == [0.0, 20000.0]


def row(scene: int, asked: str, measured: str, last: float = 65.025, **changes: Any) -> dict[str, Any]:
    return {
        "scene": scene, "asked": asked, "measured": measured, "speed_asked": 0.5, "speed_measured": 0.4,
        "reconstruction_error": 6.5025, "errors": [6.5025, last], "copy_errors": [0.0, 650.25],
    } | changes  # fmt: skip


def test_figures_count_what_was_obeyed_and_what_was_not():
    found = compute_figures(
        [row(0, "pan_left", "pan_left"), row(0, "static", "static"), row(1, "pan_left", "pan_right", last=650.25)]
    )
    assert (found["pictures"], found["clips"]) == (2, 3)
    assert found["obeyed"] == pytest.approx(2 / 3)
    assert found["autoencoder_psnr_db"] == pytest.approx(40.0)
    assert found["frame_psnr_db"] == pytest.approx([40.0, (30 + 30 + 20) / 3])
    assert found["copy_last_frame_psnr_db"] == pytest.approx(20.0)
    pans = found["by_motion"]["pan_left"]
    assert (pans["asked"], pans["right"], pans["measured"]) == (2, 1, {"pan_left": 1, "pan_right": 1})
    assert pans["last_frame_psnr_db"] == pytest.approx(25.0)
    assert list(found["by_motion"]) == ["pan_left", "static"]


def test_the_figures_are_told_in_a_line_for_each_motion():
    text = format_figures(compute_figures([row(0, "pan_left", "pan_left"), row(1, "static", "complex")]))
    assert text.startswith("2 clips from 2 pictures never trained on\n")
    assert "motion asked=measured    50.0 %" in text
    assert "  pan_left     1 of   1   speed asked 0.50, measured 0.40" in text
    assert "  static       0 of   1" in text
    assert 'measured {"complex": 1}' in text


@pytest.mark.slow
def test_a_row_compares_what_the_model_made_with_the_truth(small: VideoModel):
    rows = list(evaluate_batch(small, CONFIG, [(1, "static"), (1, "pan_left")]))
    assert [(r["scene"], r["asked"], r["speed_asked"]) for r in rows] == [(1, "static", 0.0), (1, "pan_left", 0.5)]
    still, pan = rows
    assert still["copy_errors"][0] == pan["copy_errors"][0] == 0
    assert still["copy_errors"][-1] < pan["copy_errors"][-1] / 2
    assert all(len(r["errors"]) == 4 and r["errors"][0] > 0 for r in rows)


@pytest.mark.slow
def test_an_evaluation_has_a_row_for_each_picture_and_motion_and_is_found_again(tmp_path, model: str):
    manifest = evaluate_model.fn(tmp_path, CONFIG, model)
    asked = [(r["scene"], r["asked"]) for r in read_rows(manifest)]
    assert asked == [(0, "static"), (0, "pan_left"), (1, "static"), (1, "pan_left")]
    assert read_figures(manifest)["clips"] == 4
    assert evaluate_model.fn(tmp_path, CONFIG, model).cached
    assert not evaluate_model.fn(tmp_path, CONFIG.model_copy(update={"seed": 1}), model).cached


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EvaluateConfig) == {
        "": "frozen=True, extra='forbid'",
        "pictures": "42, ge=1",
        "motions": "('static', 'pan_left', 'pan_right', 'tilt_up', 'tilt_down', 'zoom_in', 'zoom_out')",
        "speed": "0.5, gt=0",
        "steps": "20, ge=1",
        "batch": "7, ge=1",
        "seed": "0, ge=0",
        "dtype": "'auto'",
    }


def test_the_step_goes_by_its_name():
    assert evaluate_model.name == "evaluate"
