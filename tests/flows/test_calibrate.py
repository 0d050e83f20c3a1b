"""`reelmill calibrate`: a model in, the table of its motion buckets out."""

from pathlib import Path

import pytest
import torch

from flows.calibrate import CalibrationConfig, calibrate
from flows.command.flags import Interface, parse_command_line
from flows.running.run import run_flow
from models.errors import BadInput
from models.generation.calibration import load_calibration
from models.weights.names import TINY, compute_weights_digest
from tests.declared import declared


@pytest.mark.usefixtures("prefect_server")
def test_a_model_is_measured_and_the_table_is_where_the_command_says(tmp_path):
    torch.set_num_threads(1)
    config = CalibrationConfig(
        model="tiny", out=tmp_path, buckets=(20, 200), pictures=1, motions=("pan_right",), steps=1, workers=1
    )
    outcome = run_flow(calibrate, config)
    assert outcome.table == tmp_path / "calibration.json"
    assert set(load_calibration(outcome.table, compute_weights_digest(TINY)).responses) == {"any", "pan_right"}
    assert [line.split()[0] for line in str(outcome).splitlines()] == ["motion", "any", "pan_right", "table:"]
    before = outcome.table.read_bytes()
    assert run_flow(calibrate, config) == outcome
    assert outcome.table.read_bytes() == before


def test_the_flags_are_the_config():
    interface = Interface(prog="reelmill calibrate", config=CalibrationConfig, positional="model")
    asked = parse_command_line(interface, ["tiny", "--out", "o", "--buckets", "20,200", "--steps", "5"])
    assert asked.config == CalibrationConfig(model="tiny", out=Path("o"), buckets=(20, 200), steps=5)
    with pytest.raises(BadInput, match="--out"):
        parse_command_line(interface, ["tiny"])


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(CalibrationConfig) == {
        "": "frozen=True, extra='forbid'",
        "model": "required",
        "out": "required",
        "device": "'auto'",
    }


def test_the_flow_goes_by_its_name():
    assert calibrate.name == "calibrate"
