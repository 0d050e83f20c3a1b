"""A model whose scheduler is of another network is refused before any work; another choice of steps is said."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadModel
from models.generation.card import read_card
from models.svd.model import load_model
from models.weights.names import TINY

PUBLISHED = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
"""What decides in the file that Stable Video Diffusion is published with."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "svd"))


def schedule(folder: Path, **changes: Any) -> None:
    settings = {name: value for name, value in (PUBLISHED | changes).items() if value is not None}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))


@pytest.mark.slow
def test_the_published_schedule_is_followed_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture):
    schedule(folder)
    assert load_model(str(folder)).scheduler.config["sigma_max"] == 700.0
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type is epsilon, and what is sampled here is v_prediction"),
        ({"timestep_type": "discrete"}, "timestep_type is discrete, and what is sampled here is continuous"),
        ({"_class_name": "PNDMScheduler", "timestep_type": None}, "timestep_type is None"),
        ({"sigma_min": None}, r"sigma_min None and sigma_max 700\.0 are no range of noise levels"),
        ({"sigma_min": 0.0}, r"sigma_min 0\.0 and sigma_max 700\.0 are no range of noise levels"),
        ({"sigma_max": 0.001}, r"sigma_min 0\.002 and sigma_max 0\.001 are no range of noise levels"),
    ],
)
def test_a_network_that_another_sampler_is_for_is_refused_before_and_when_it_is_loaded(
    folder: Path, changes: dict[str, Any], said: str
):
    schedule(folder, **changes)
    for use in (read_card, load_model):
        with pytest.raises(BadModel, match=rf"scheduler_config\.json: {said}"):
            use(str(folder))


def test_a_folder_without_a_scheduler_is_refused(folder: Path):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(BadModel, match=r"scheduler_config\.json: the file is missing"):
        read_card(str(folder))


@pytest.mark.slow
def test_steps_that_are_not_followed_are_said_once(folder: Path, caplog: pytest.LogCaptureFixture):
    schedule(folder, _class_name="EulerAncestralDiscreteScheduler", use_karras_sigmas=False)
    with caplog.at_level(logging.WARNING, "reelmill"):
        for _ in range(2):
            read_card(str(folder))
            load_model(str(folder))
    (said,) = caplog.messages
    assert "_class_name EulerAncestralDiscreteScheduler, use_karras_sigmas False is not followed" in said
