"""`reelmill evaluate`: figures on the screen, in a file, and measured once."""

import json
from pathlib import Path

import pytest
import torch

from flows.command.main import main
from flows.evaluate import EvaluationConfig, evaluate
from tests.declared import declared

torch.set_num_threads(1)


def test_a_model_is_measured_told_about_and_written_down(tmp_path: Path, model: str, capsys, prefect_server):
    command = ["evaluate", model, "--out", str(tmp_path / "eval"), "--figures", str(tmp_path / "figures.json")]
    command += ["--pictures", "1", "--motions", '["static", "pan_left"]', "--steps", "1", "--batch", "2"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert first.out.startswith("4 clips from 1 pictures never trained on\n")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["clips"], list(found["by_motion"])) == (4, ["static", "pan_left"])
    assert main(command) == 0
    again = capsys.readouterr()
    assert "evaluate: 0 ran, 1 found" in again.err
    assert again.out == first.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--motions", '["sideways"]'], "sideways"),
        (["--pictures", "0"], "--pictures"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(tmp_path, capsys, flags, said):
    assert main(["evaluate", "tiny", "--out", str(tmp_path), *flags, "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_model_that_is_not_there_is_named(tmp_path, capsys, prefect_server):
    assert main(["evaluate", str(tmp_path / "gone"), "--out", str(tmp_path / "eval")]) == 2
    assert f"reelmill: {tmp_path}/gone: no model there" in capsys.readouterr().err


def test_where_figures_go_does_not_change_what_is_measured(tmp_path):
    one, other = (EvaluationConfig(out=tmp_path / name, figures=tmp_path / name, workers=2) for name in "ab")
    assert one.settings == other.settings
    assert one.settings.model_dump() == EvaluationConfig().settings.model_dump()


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EvaluationConfig) == {
        "": "frozen=True, extra='forbid'",
        "model": "'tiny'",
        "out": "out/tiny-eval",
        "device": "'auto'",
        "figures": "None",
    }


def test_the_flow_goes_by_its_name():
    assert evaluate.name == "evaluate"
