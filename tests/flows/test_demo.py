"""What the demo asks of the flows it runs; `make demo` runs it whole."""

import json
from pathlib import Path

import pytest

import flows.demo
from flows.demo import DemoConfig, demo, generate_more, read_embedded_figures, run_flows
from flows.pipeline import make_curate_config, make_finetune_config, make_generate_config
from models.errors import BadModel
from tests.declared import declared


@pytest.fixture
def config(tmp_path: Path) -> DemoConfig:
    return DemoConfig(out=tmp_path, motion="tilt_up", sampling_steps=3, workers=2, runner="dask")


def test_the_lora_learns_the_chosen_motion_from_the_films_alone(config: DemoConfig, tmp_path: Path):
    asked = run_flows(config, tmp_path / "pictures")
    assert make_curate_config(asked).sources == (str(tmp_path / "footage"),)
    assert make_finetune_config(asked).train == config.train.model_copy(update={"motions": ("tilt_up",)})
    assert (asked.base, asked.workers, asked.runner) == ("tiny", 2, "dask")


def test_the_three_batches_differ_in_the_model_and_in_what_is_asked_and_in_nothing_else(config, tmp_path):
    pictures = tmp_path / "pictures"
    lora = make_generate_config(run_flows(config, pictures), tmp_path / "run/lora.safetensors")
    plain, asked = (
        generate_more(config, pictures, "plain", None),
        generate_more(config, pictures, "asked", config.motion),
    )
    assert plain.model_copy(update={"motion": "tilt_up", "out": asked.out}) == asked
    assert (plain.lora, plain.motion, asked.lora) == (None, None, None)
    assert lora.lora == str(tmp_path / "run/lora.safetensors")
    assert len({batch.out for batch in (plain, lora, asked)}) == 3
    same = ("jobs", "seed", "steps", "model", "takes", "fps", "guidance", "motion_bucket")
    assert [getattr(lora, name) for name in same] == [getattr(plain, name) for name in same]
    assert (plain.steps, plain.workers, plain.runner) == (3, 2, "dask")


def test_the_embedded_models_figures_are_those_of_its_evaluation():
    found = read_embedded_figures()
    assert found["clips"] == sum(facts["asked"] for facts in found["by_motion"].values())
    assert 0 < found["obeyed"] <= 1


def test_a_model_without_figures_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flows.demo, "TINY", tmp_path)
    with pytest.raises(BadModel, match=r"eval\.json: the embedded model was never measured\. Run `make tiny-eval`"):
        read_embedded_figures()
    (tmp_path / "eval.json").write_text(json.dumps({"clips": 0}))
    assert read_embedded_figures() == {"clips": 0}


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(DemoConfig) == {
        "": "frozen=True, extra='forbid'",
        "out": "out/demo",
        "motion": "'pan_right'",
        "pictures": "6, ge=1",
        "sampling_steps": "20, ge=1",
        "footage": "FootageConfig()",
        "train": (
            "TrainConfig(steps=150, batch=8, learning_rate=0.004, log_sigma_mean=2.0, log_sigma_deviation=1.2, crop=8)"
        ),
    }


def test_the_flow_goes_by_its_name():
    assert demo.name == "demo"
