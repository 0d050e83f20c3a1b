"""Stop stops: what is at work when a signal comes is finished or saved, no more is begun, and the process is gone with
all its children; the folder is locked until its work has ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from flows.running.lock import exclusive, find_holder
from tasks.footage import Camera, Scene, render_shot
from tasks.media.video import write_video
from tests.flows.test_finetune import dataset
from tests.serving import wait_for

pytestmark = pytest.mark.usefixtures("prefect_server")


def footage(folder: Path) -> Path:
    folder.mkdir()
    for n in range(12):
        write_video(folder / f"{n}.mp4", render_shot(Scene(n), Camera(pan=0.5), 24, 12.0, (96, 64)), 12.0)
    return folder


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for n in range(12):
        values = np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{n}.png")
    return folder


def scan(root: Path, _: str) -> list[str]:
    return ["curate", str(footage(root / "in"))]


def train(root: Path, model: str) -> list[str]:
    return ["finetune", str(dataset(root / "in")), "--base", model, "--steps", "100000", "--train.batch", "1"]


def sample(root: Path, _: str) -> list[str]:
    return ["generate", str(pictures(root / "in")), "--steps", "30", "--frames", "2", "--width", "32", "--height", "32"]


def decode(root: Path, _: str) -> list[str]:
    return ["generate", str(pictures(root / "in")), "--steps", "1", "--frames", "2", "--width", "32", "--height", "32"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("work", "begun", "all_of_it"),
    [
        (scan, "manifests/scan/[!.]*.parquet", 12),
        (train, "manifests/encode_clips/*.parquet", None),
        (sample, "latents/[!.]*.safetensors", 12),
        (decode, "manifests/decode/[!.]*.parquet", 12),
    ],
)
def test_a_signal_stops_the_work_saves_it_and_leaves_nothing_behind(
    tmp_path: Path,
    model: str,
    work: Callable[[Path, str], list[str]],
    begun: str,
    all_of_it: int | None,
    number: signal.Signals,
    code: int,
):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.command.main", *work(tmp_path, model), "--out", str(out), "--workers", "1"]
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(command, stderr=file, stdout=file, cwd=Path.cwd()) as process:
        seen = lambda: len(list(out.glob(begun))) if all_of_it else "train: step" in log.read_text()  # noqa: E731
        wait_for(lambda: seen() or process.poll() is not None, "the work to begin")
        assert process.poll() is None, log.read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        made = seen()
        os.kill(process.pid, number)
        wait_for(lambda: find_holder(out) is None, "the folder")
        made_in_all = seen()
        assert process.wait(600) == code, log.read_text()
    assert "stopped. Run the same command to resume." in log.read_text()
    if all_of_it:
        assert seen() == made_in_all, "the folder was locked until the last work ended"
        assert made_in_all <= int(made) + 2 < all_of_it, "only what had begun was finished"
    else:
        assert list(out.rglob("*.safetensors")), "the training's state is saved"
    gone, alive = psutil.wait_procs(children, 30)
    assert not alive, f"{len(gone)} ended"
    with exclusive(out):
        pass
