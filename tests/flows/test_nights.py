"""Ten nights by the flow itself, with one to four workers, priorities, takes and a clock of their own: what is done
when the time is over is the most urgent, and in its order."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from benchmarks.nights import NIGHTS, SMALL, Clip, Night, Outcome, clock_of, list_faults, run_night, write_jobs
from flows.generate import GenerateConfig, generate
from flows.running.run import run_flow
from tasks.manifest import read_rows


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    logging.getLogger("reelmill").handlers.clear()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("night", NIGHTS)
def test_a_night_serves_the_urgent_first_whatever_the_number_of_workers(tmp_path: Path, night: Night):
    outcome = run_night(tmp_path, night)
    assert list_faults(night, outcome) == [], outcome
    if night.workers == night.batch == 1:
        assert outcome.sampled == outcome.written == night.order()[: night.minutes]


def clips(*priorities: int) -> list[Clip]:
    return [Clip(0, priority, 8 - priority) for priority in priorities]


def test_a_night_of_two_halves_is_not_in_order():
    night = Night(range(8, 0, -1), workers=2, minutes=6)
    halves = clips(8, 4, 7, 3, 6, 2)
    faults = list_faults(night, Outcome(halves, halves, clips(5, 1)))
    assert faults[0] == "sampled are not the first 6"
    right = clips(8, 7, 5, 6, 4, 3)
    assert list_faults(night, Outcome(right, right, clips(2, 1))) == []


@pytest.mark.usefixtures("prefect_server")
def test_after_the_deadline_no_further_take_is_announced_or_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    night, out = Night([1, 2], workers=1, minutes=2), tmp_path / "out"
    asked = SMALL | {"jobs": write_jobs(tmp_path / "jobs", night), "out": out, "workers": 1}
    asked |= {"gate": {"extra_takes": 1, "score_min": 1.0}}
    with caplog.at_level(logging.INFO, "reelmill"), clock_of(out):
        run_flow(generate, GenerateConfig.model_validate(asked | {"budget": timedelta(minutes=2)}))
    assert "making extra take" not in caplog.text
    assert [(row["take"], row["status"]) for row in read_rows(out / "outputs.parquet")] == [(0, "ok")] * 2
    with caplog.at_level(logging.INFO, "reelmill"):
        assert run_flow(generate, GenerateConfig.model_validate(asked)).clips == 4
    assert "making extra take 1 for each" in caplog.text
