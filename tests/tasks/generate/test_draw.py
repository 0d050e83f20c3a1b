"""Pictures are drawn from texts once, kept by what decides them, and a job without its picture says why."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.asking import JobsConfig
from tasks.generate.draw import DrawConfig, draw_pictures, pictures_to_draw, with_drawn
from tasks.generate.jobs import SCHEMA, read_jobs
from tasks.manifest import ManifestRef, read_manifest, read_rows
from tests.small_families import drawing_pipeline, save

CONFIG = DrawConfig(steps=1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(drawing_pipeline, tmp_path_factory.mktemp("drawer") / "model")


def jobs_of(folder: Path, model: str, drawer: Path, *rows: dict[str, Any], **settings: Any) -> ManifestRef:
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = JobsConfig(model=model, picture_model=str(drawer), frames=3, **settings)
    return read_jobs.fn(folder / "out", config, folder / "jobs.jsonl")


def test_a_picture_is_drawn_once_for_all_takes_and_jobs_that_share_it(tmp_path, model, drawer):
    rows = ({"prompt": "a ball"}, {"prompt": "a ball", "motion_bucket": 9}, {"prompt": "a cube"})
    jobs, root = jobs_of(tmp_path, model, drawer, *rows, takes=2), tmp_path / "out"
    asks = pictures_to_draw(CONFIG, jobs)
    drawn = draw_pictures.fn(root, CONFIG, asks)
    assert [ref.cached for ref in drawn] == [False, False]
    assert [ref.cached for ref in draw_pictures.fn(root, CONFIG, asks)] == [True, True]
    made = with_drawn.fn(root, CONFIG, jobs, drawn)
    assert read_manifest(made).schema == SCHEMA
    pictures = [row["picture"] for row in read_rows(made)]
    assert pictures[0] == pictures[1] == pictures[2] == pictures[3] != pictures[4] == pictures[5]
    for row in read_rows(made):
        with Image.open(root / row["picture"]) as picture:
            assert picture.size == (32, 32)
            assert row["picture_sha256"] == hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
    assert [row["item_key"] for row in read_rows(made)] == [row["item_key"] for row in read_rows(jobs)]


@pytest.mark.parametrize("change", [{"seed": 1}, {"key": "other"}, {"negative_prompt": "x"}, {"width": 40}])
def test_what_decides_a_picture_makes_another_one(tmp_path, model, drawer, change):
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"}, {"prompt": "a ball"} | change)
    refs = draw_pictures.fn(tmp_path / "out", CONFIG, pictures_to_draw(CONFIG, jobs))
    assert len({row["picture_sha256"] for ref in refs for row in read_rows(ref)}) == 2
    assert len(pictures_to_draw(CONFIG.model_copy(update={"guidance": 2.0}), jobs)) == 2


def test_a_picture_that_cannot_be_drawn_is_its_jobs_failure_and_is_tried_again(tmp_path, model, drawer):
    own, root = Path(shutil.copytree(drawer, tmp_path / "own")), tmp_path / "out"
    jobs = jobs_of(tmp_path, model, own, {"prompt": "a ball"})
    (own / "unet" / "config.json").write_text("{}")
    for attempt in (1, 2):
        drawn = draw_pictures.fn(root, CONFIG, pictures_to_draw(CONFIG, jobs))
        (row,) = read_rows(with_drawn.fn(root, CONFIG, jobs, drawn))
        assert (row["status"], row["error_code"], row["attempt"]) == ("failed", "bad_model", attempt)
        assert row["error_message"].startswith("a-ball: ")
        assert row["picture"] is None


def test_a_job_whose_picture_is_not_drawn_yet_waits_and_one_that_has_its_own_is_ready(tmp_path, model, drawer):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    own = {"image": "a.png", "prompt": "a ball", "picture_model": "sd"}
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"}, own)
    waiting, ready = read_rows(with_drawn.fn(tmp_path / "out", CONFIG, jobs, []))
    assert (waiting["status"], waiting["error_code"]) == ("waiting", "not_started")
    assert (ready["status"], ready["prompt"]) == ("ready", None)
    assert ready["ignored"] == [
        "picture_model: the picture given is used.",
        "prompt: Stable Video Diffusion does not take it.",
    ]


def test_a_model_that_draws_no_pictures_is_named_in_the_jobs_row(tmp_path, model):
    (row,) = read_rows(jobs_of(tmp_path, model, Path(model), {"prompt": "a ball"}))
    assert row["error_code"] == "bad_model"
    assert "StableVideoDiffusionPipeline, which draws no pictures here" in row["error_message"]
