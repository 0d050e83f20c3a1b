"""The embedded model is made from nothing by one flow, at the smallest size here; what it ends in is a model."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from flows.running.run import run_flow
from flows.tiny import TinyConfig, tiny
from models.errors import BadInput
from models.svd.model import load_model
from tasks.finetune.encode import LatentsConfig
from tasks.finetune.train import TrainConfig
from tasks.tiny.encoders import EncodersConfig
from tasks.tiny.render import RenderConfig
from tests.declared import declared

torch.set_num_threads(1)

STAGE = TrainConfig(parameters="all", words=True, steps=1, batch=1, crop=8)


def smallest(out: Path, stages: tuple[TrainConfig, ...]) -> TinyConfig:
    return TinyConfig(
        out=out,
        install=out / "installed",
        render=RenderConfig(scenes=4, scenes_per_file=4, side=64),
        encoders=EncodersConfig(clips=8, frame_steps=1, clip_steps=1, crop=16, match_steps=1),
        encode=LatentsConfig(windows_per_clip=1, condition_draws=1),
        stages=stages,
        workers=1,
    )


@pytest.mark.usefixtures("prefect_server")
def test_a_model_is_made_stage_by_stage_and_made_once(tmp_path: Path):
    first = run_flow(tiny, smallest(tmp_path, (STAGE,)))
    assert first.model == tmp_path / "installed"
    one = load_model(str(first.model))
    assert one.facts.lineage["dataset"] == "footage"
    assert len(one.facts.lineage["clips"]) == 8
    assert set(one.words) >= {"pan_left", "pan_right"} or set(one.words) >= {"tilt_up", "tilt_down"}

    stage_1 = {p: p.stat().st_mtime_ns for p in (tmp_path / "stage-1/weights").rglob("*") if p.is_file()}
    second = run_flow(tiny, smallest(tmp_path, (STAGE, STAGE.model_copy(update={"seed": 1}))))
    assert {p: p.stat().st_mtime_ns for p in stage_1} == stage_1
    assert len(list((tmp_path / "base").iterdir())) == 1
    two = load_model(str(second.model))
    assert two.facts.lineage["base_revision"] != one.facts.lineage["base_revision"]
    assert not torch.equal(two.unet.conv_in.weight, one.unet.conv_in.weight)
    assert torch.equal(two.vae.quant_conv.weight, one.vae.quant_conv.weight)


def test_a_folder_with_files_of_others_is_no_place_to_install_a_model(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"has files that Reelmill did not write\. Choose another folder for --install"):
        tiny.fn(smallest(tmp_path / "out", ()).model_copy(update={"install": tmp_path}))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_each_stage_learns_words_and_the_last_sees_whole_pictures_and_every_motion():
    stages = TinyConfig().stages
    assert all(stage.words and stage.parameters == "all" for stage in stages)
    assert (stages[-1].crop, stages[-1].motions) == (None, None)
    known = [set(stage.motions) for stage in stages if stage.motions]
    assert all(earlier < later for earlier, later in pairwise(known))


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(TinyConfig) == {
        "": "frozen=True, extra='forbid'",
        "out": "out/tiny-model",
        "install": "None",
        "render": "RenderConfig()",
        "encoders": "EncodersConfig()",
        "encode": "LatentsConfig(windows_per_clip=1, condition_draws=2)",
        "stages": (
            "(TrainConfig(parameters='all', motions=('pan_left', 'pan_right'), steps=500, batch=16, "
            "log_sigma_mean=2.0, log_sigma_deviation=1.2, words=True, crop=8, ema=0.998), "
            "TrainConfig(parameters='all', motions=('static', 'pan_left', 'pan_right', 'tilt_down', "
            "'tilt_up'), steps=1300, batch=16, log_sigma_mean=2.0, log_sigma_deviation=1.2, words=True, "
            "crop=8, ema=0.998), "
            "TrainConfig(parameters='all', motions=None, steps=600, batch=8, learning_rate=0.001, "
            "log_sigma_mean=1.3, log_sigma_deviation=1.5, words=True, crop=None, ema=0.998))"
        ),
    }


def test_the_flow_goes_by_its_name():
    assert tiny.name == "tiny"
