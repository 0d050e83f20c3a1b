"""The embedded model is made from nothing by one flow, at the smallest size here, and goes on from where it ended."""

from pathlib import Path

import pytest
import torch

from flows.command.main import main
from flows.running.run import run_flow
from flows.tiny import TinyConfig, film, tiny
from models.errors import BadInput
from models.svd.model import load_model
from tasks.tiny import encoders, train
from tasks.tiny.encoders import EncodersConfig
from tasks.tiny.latents import FootageConfig
from tasks.tiny.sitting import SittingConfig
from tests.declared import declared

torch.set_num_threads(1)


def smallest(out: Path, **changes: object) -> TinyConfig:
    return TinyConfig(
        out=out,
        install=out / "installed",
        footage=FootageConfig(scenes=3, scenes_per_file=1, shots=1),
        encoders=EncodersConfig(scenes=2, frame_steps=1, frame_batch=1, clip_steps=1, clip_batch=1, match_steps=1),
        train=SittingConfig(steps=2, batch=1, fall=1, widen_every=1),
        workers=1,
    ).model_copy(update=changes)


@pytest.mark.usefixtures("prefect_server")
def test_a_model_is_made_goes_on_from_its_state_and_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "measure", lambda _: {"obeyed": 0.5})
    monkeypatch.setattr(encoders, "HELD_SCENES", 1)
    out = tmp_path / "out"
    first = run_flow(tiny, smallest(out))
    assert first.model == out / "installed"
    one = load_model(str(first.model))
    assert one.facts.lineage["curve"][-1]["step"] == 2
    assert "roll" in one.words
    assert len(list((out / "latents").glob("*.safetensors"))) == 2, "as many files as two steps draw from"

    more = SittingConfig(steps=3, batch=1, fall=1, widen_every=1)
    second = load_model(str(run_flow(tiny, smallest(out, train=more)).model))
    assert [row["step"] for row in second.facts.lineage["curve"]] == [2, 3]
    assert len(list((out / "base").iterdir())) == 1
    assert torch.equal(second.vae.quant_conv.weight, one.vae.quant_conv.weight)
    assert not torch.equal(second.unet.conv_in.weight, one.unet.conv_in.weight)

    last = SittingConfig(steps=4, batch=1, fall=1, widen_every=1)
    moved = smallest(tmp_path / "other", base=first.model, train=last, state=tmp_path / "kept")
    third = load_model(str(run_flow(tiny, moved).model))
    assert [row["step"] for row in third.facts.lineage["curve"]] == [2, 3, 4]
    assert (tmp_path / "kept" / "state.safetensors").is_file()


def test_a_folder_with_files_of_others_is_no_place_to_install_a_model(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"has files that Reelmill did not write\. Choose another folder for --install"):
        tiny.fn(smallest(tmp_path / "out").model_copy(update={"install": tmp_path}))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_files_of_others_are_replaced_and_a_base_has_to_be_a_model(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "note.txt").write_text("mine")
    assert main(["tiny", "--out", str(tmp_path / "out"), "--install", str(tmp_path), "--dry-run"]) == 2
    assert "has files that Reelmill did not write" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "out"), "--base", str(tmp_path / "gone"), "--dry-run"]) == 2
    assert "no model there" in capsys.readouterr().err


def test_only_the_files_that_the_steps_draw_from_are_filmed(tmp_path: Path):
    class Asked:
        items: list[tuple[Path, int]]

        def chunks(self, step: object, config: object, items: list[tuple[Path, int]], seconds: list[float]) -> list:
            self.items = items
            return [None] * len(seconds)

    asked, config = Asked(), TinyConfig(train=SittingConfig(steps=81, widen_every=40))
    assert film(asked, config, tmp_path) == [None] * 3  # pyright: ignore[reportArgumentType]
    assert asked.items == [(tmp_path, 0), (tmp_path, 25), (tmp_path, 50)]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(TinyConfig) == {
        "": "frozen=True, extra='forbid'",
        "out": "out/tiny-model",
        "install": "None",
        "base": "None",
        "state": "None",
        "footage": "FootageConfig()",
        "encoders": "EncodersConfig()",
        "train": "SittingConfig()",
    }


def test_the_flow_goes_by_its_name():
    assert tiny.name == "tiny"
