"""The morning's list of runs is true: what failed, what waits and how many, in the state's name, as the exit code."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.nights import SMALL as NIGHT
from benchmarks.nights import Night, clock_of, write_jobs
from flows.command.main import main
from flows.generate import GenerateConfig, generate
from flows.running.run import run_flow
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import write_video
from tests.flow_runs import show_state

SMALL = ["--steps", "1", "--frames", "2", "--width", "32", "--height", "32", "--guidance", "1,1", "--workers", "1"]

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def pictures(folder: Path, good: int, bad: int) -> Path:
    folder.mkdir()
    for n in range(good):
        values = np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"good-{n}.png")
    for n in range(bad):
        (folder / f"bad-{n}.png").write_bytes(f"no picture {n}".encode())
    return folder


@pytest.mark.parametrize(
    ("good", "bad", "more", "code", "state", "name"),
    [
        (2, 0, [], 0, "COMPLETED", "Completed"),
        (2, 1, [], 1, "COMPLETED", "2 of 3, 1 failed"),
        (0, 2, [], 1, "FAILED", "Failed"),
        (3, 0, ["--budget", "0s"], 1, "COMPLETED", "Waiting, 0 of 3"),
        (2, 1, ["--budget", "0s"], 1, "FAILED", "Failed"),
        (0, 0, [], 2, "FAILED", "Failed"),
    ],
)
def test_a_night_of_generation_ends_in_the_state_that_its_clips_say(
    tmp_path: Path, good: int, bad: int, more: list[str], code: int, state: str, name: str
):
    jobs, out = pictures(tmp_path / "in", good, bad), tmp_path / "out"
    assert main(["generate", str(jobs), "--out", str(out), *SMALL, *more]) == code
    shown = show_state(out)
    assert shown[:2] == (state, name)
    assert ("time limit" in shown[2]) == bool(more)
    assert ("bad-0" in shown[2]) == (bool(bad) and not more)


def test_a_night_that_its_deadline_cut_says_how_many_wait(tmp_path: Path):
    night, out = Night([1, 2, 3, 4], workers=1, minutes=3), tmp_path / "out"
    asked = NIGHT | {
        "jobs": write_jobs(tmp_path / "jobs", night),
        "out": out,
        "budget": timedelta(minutes=3),
        "workers": 1,
    }
    with clock_of(out):
        outcome = run_flow(generate, GenerateConfig.model_validate(asked))
    assert (outcome.clips, outcome.exit_code) == (3, 1)
    assert show_state(out)[:2] == ("COMPLETED", "Waiting, 3 of 4")


def test_of_films_that_all_fail_the_run_is_failed_and_of_some_it_says_how_many(tmp_path: Path):
    for folder, code, told in (("all", 1, ("FAILED", "Failed")), ("some", 1, ("COMPLETED", "1 of 2, 1 failed"))):
        footage, out = tmp_path / folder, tmp_path / f"{folder}-out"
        footage.mkdir()
        (footage / "broken.mp4").write_bytes(b"no film")
        if folder == "some":
            write_video(footage / "good.mp4", render_shot(Scene(1), Camera(pan=0.5), 24, 12.0, (96, 64)), 12.0)
        assert main(["curate", str(footage), "--out", str(out), "--workers", "1"]) == code
        assert show_state(out)[:2] == told
        assert "broken.mp4" in show_state(out)[2]
    assert len(read_rows(tmp_path / "some-out" / "videos.parquet")) == 2
