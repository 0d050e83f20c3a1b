"""The three flows in one: footage and pictures in; a dataset, a LoRA and videos that know both out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from flows.command.lineage import LineageConfig
from flows.command.lineage import lineage as walk
from flows.pipeline import PipelineConfig, make_curate_config, make_finetune_config, make_generate_config, pipeline
from flows.running.run import run_flow
from models.svd.lora import load_lora
from tasks.curate.select import SelectConfig
from tasks.finetune.train import TrainConfig
from tasks.footage import Camera, Scene, render_shot
from tasks.generate.jobs import JobsConfig
from tasks.manifest import digest_file, read_manifest_ref, read_rows
from tasks.media.video import write_video
from tests.declared import declared

cv2.setNumThreads(1)
torch.set_num_threads(1)


def config(folder: Path, **settings) -> PipelineConfig:
    return PipelineConfig(
        **{"sources": (str(folder / "films"),), "jobs": folder / "pictures", "out": folder / "out"} | settings
    )


@pytest.mark.usefixtures("prefect_server")
def test_footage_and_pictures_become_videos_that_know_where_they_come_from(tmp_path: Path, model: str):
    film = render_shot(Scene(2), Camera(pan=0.5), 24, 12.0, (160, 96))
    write_video(tmp_path / "films/pan.mp4", film, 12.0)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.ascontiguousarray(film[0])).save(tmp_path / "pictures/a.png")
    train = TrainConfig(steps=1, batch=1, rank=2, motions=("pan_right",))
    asked = config(tmp_path, base=model, train=train, generate=JobsConfig(steps=1), workers=1)
    outcome = run_flow(pipeline, asked)
    assert (outcome.failed, outcome.curated.funnel.kept, outcome.made.clips) == (0, 1, 1)
    lineage = load_lora(outcome.tuned.weights)[1].lineage
    (clip,) = read_rows(outcome.curated.clips)
    assert lineage["clips"] == [clip["clip_id"]]
    assert lineage["dataset_digest"] == read_manifest_ref(outcome.curated.clips).digest
    (video,) = read_rows(outcome.made.outputs)
    assert video["lora_sha256"] == digest_file(outcome.tuned.weights)
    assert (tmp_path / "out/videos" / video["video"]).is_file()
    walk_both_ways(tmp_path / "out", tmp_path / "films/pan.mp4", video["video"])


def walk_both_ways(out: Path, film: Path, video: str):
    """From the clip to the film, and from the film to the clip; a byte of the film that is changed since is told."""
    clip = out / "videos" / video
    down = walk(LineageConfig(file=clip))
    kinds = [link.kind for link in down.links]
    assert kinds == ["clip", "job", "picture", "model", "LoRA", "run", "dataset", "clips", "film"]
    checked = {link.kind: link.whole for link in down.links}
    assert {kind for kind, whole in checked.items() if whole} == {"clip", "picture", "LoRA", "run", "dataset", "film"}
    back = walk(LineageConfig(file=film, among=(out,)))
    assert [link.kind for link in back.links] == ["film", "dataset", "made: run", "made: clips"]
    assert video in back.links[-1].said
    with film.open("ab") as file:
        file.write(b"one more")
    changed = walk(LineageConfig(file=clip))
    assert [link.kind for link in changed.links if link.whole is False] == ["film"]
    assert changed.failed == 1


def test_each_flow_is_told_what_concerns_it(tmp_path: Path):
    asked = config(
        tmp_path, workers=3, runner="ray", select=SelectConfig(min_motion=0.5), train=TrainConfig(steps=7), base="/m"
    )
    curated, tuned = make_curate_config(asked), make_finetune_config(asked)
    assert (curated.out, curated.select.min_motion, curated.workers) == (tmp_path / "out/dataset", 0.5, 3)
    assert (tuned.dataset, tuned.out) == (curated.out, tmp_path / "out/run")
    assert (tuned.train.steps, tuned.base, tuned.workers) == (7, "/m", 3)
    made = make_generate_config(asked, tmp_path / "model")
    assert (curated.sources, made.jobs, made.workers) == (asked.sources, asked.jobs, 3)
    assert {flow.runner for flow in (curated, tuned, made)} == {"ray"}


def test_a_lora_goes_on_the_base_and_a_whole_model_takes_its_place(tmp_path: Path):
    asked = config(tmp_path, base="/models/big", generate=JobsConfig(motion="pan_left", steps=5))
    with_lora = make_generate_config(asked, Path("/run/lora.safetensors"))
    assert (with_lora.model, with_lora.lora) == ("/models/big", "/run/lora.safetensors")
    whole = make_generate_config(asked, Path("/run/model"))
    assert (whole.model, whole.lora) == ("/run/model", None)
    assert (whole.motion, whole.steps, whole.out) == ("pan_left", 5, tmp_path / "out/videos")


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(PipelineConfig) == {
        "": "frozen=True, extra='forbid'",
        "sources": "required, min_length=1",
        "jobs": "required",
        "out": "required",
        "base": "'tiny'",
        "split": "SplitConfig()",
        "select": "SelectConfig()",
        "recipe": "'motion-lora'",
        "train": "TrainConfig()",
        "generate": "JobsConfig()",
        "approve": "False",
    }


def test_the_flow_goes_by_its_name():
    assert pipeline.name == "pipeline"
