"""The evaluation of a model: a row for each clip, true clips are judged right, and neither a copy nor noise is."""

import cv2
import pytest
import torch

from models.measures.camera import measure_motion
from models.svd.model import VideoModel, load_model
from tasks.footage import Motion, compute_mean_flow
from tasks.manifest import read_rows
from tasks.tiny.evaluate import EvaluateConfig, evaluate_batch, evaluate_model
from tasks.tiny.figures import compute_figures, read_figures
from tasks.tiny.held_out import render_truth
from tests.declared import declared

cv2.setNumThreads(1)
torch.set_num_threads(1)

MOTIONS = EvaluateConfig().motions

CONFIG = EvaluateConfig(pictures=2, motions=("static", "pan_left"), movers=(False,), steps=1, batch=3)


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
        measured = measure_motion(
            render_truth(scene, motion, 0.5, embedded, movers=0), [i / facts.fps for i in range(facts.frames)]
        )
        assert measured.motion == motion
        assert measured.strength == pytest.approx(compute_mean_flow(motion, 0.5), rel=0.35, abs=0.1)


def test_a_clip_played_backwards_is_judged_as_the_opposite(embedded: VideoModel):
    times = [i / embedded.facts.fps for i in range(embedded.facts.frames)]
    assert measure_motion(render_truth(0, "pan_left", 0.5, embedded)[::-1], times).motion == "pan_right"
    assert measure_motion(render_truth(0, "zoom_in", 0.5, embedded)[::-1], times).motion == "zoom_out"


@pytest.mark.slow
def test_a_row_compares_what_the_model_made_with_the_truth(small: VideoModel):
    (still,) = evaluate_batch(small, CONFIG, "static", [(1, False)])
    (pan,) = evaluate_batch(small, CONFIG, "pan_left", [(1, False)])
    assert (still["scene"], still["asked"], still["movers"], still["speed_asked"]) == (1, "static", False, 0.0)
    assert pan["speed_asked"] == 0.5
    assert still["copy_errors"] == [0.0] * 4
    assert still["in_view"] == [1.0] * 4
    assert pan["copy_errors"][0] == 0 < 10 * pan["oracle_errors"][-1] < pan["copy_errors"][-1]
    assert pan["in_view"][-1] == pytest.approx(1 - 0.5 * 3 / 7, abs=0.04)
    assert pan["errors"][0] == pan["seen_errors"][0] > 0
    assert pan["errors"][-1] != pan["seen_errors"][-1]
    assert still["reconstruction_error"] > 0
    assert pan["reconstruction_error"] is None, "measured once for each scene"


@pytest.mark.slow
def test_an_untrained_model_and_a_copy_miss_the_bars(small: VideoModel):
    rows = [row for motion in CONFIG.motions for row in evaluate_batch(small, CONFIG, motion, [(0, False), (1, False)])]
    found = compute_figures(rows)
    assert {"first_frame_psnr_db", "last_frame_psnr_db", "still_psnr_db", "obeyed"} <= set(found["missed"])
    assert found["copy"]["speed_share"] == 0
    assert found["copy"]["least_obeyed"] == 0


@pytest.mark.slow
def test_movers_change_the_scene_and_are_no_part_of_what_is_asked(small: VideoModel):
    without, moving = evaluate_batch(small, CONFIG, "static", [(1, False), (1, True)])
    assert (without["movers"], moving["movers"]) == (False, True)
    assert max(without["copy_errors"]) == 0 < max(moving["copy_errors"])


@pytest.mark.slow
def test_an_evaluation_has_a_row_for_each_picture_and_motion_and_is_found_again(tmp_path, model: str):
    manifest = evaluate_model.fn(tmp_path, CONFIG, model)
    asked = [(r["scene"], r["asked"]) for r in read_rows(manifest)]
    assert asked == [(0, "static"), (1, "static"), (0, "pan_left"), (1, "pan_left")]
    assert read_figures(manifest)["clips"] == 4
    assert evaluate_model.fn(tmp_path, CONFIG, model).cached
    assert not evaluate_model.fn(tmp_path, CONFIG.model_copy(update={"seed": 1}), model).cached


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EvaluateConfig) == {
        "": "frozen=True, extra='forbid'",
        "pictures": "60, ge=1",
        "motions": "('static', 'pan_left', 'pan_right', 'tilt_up', 'tilt_down', 'zoom_in', 'zoom_out', 'roll')",
        "movers": "(False, True), min_length=1",
        "speed": "0.5, gt=0",
        "steps": "20, ge=1",
        "batch": "10, ge=1",
        "seed": "0, ge=0",
        "dtype": "'auto'",
    }


def test_the_step_goes_by_its_name():
    assert evaluate_model.name == "evaluate"
