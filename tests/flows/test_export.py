"""Export end to end: clips that were not cut are cut, sides are drawn, and the CSV trains."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.command.main import main
from flows.curate import CurateConfig, curate
from flows.export import ExportConfig, export, read_cut_mode
from flows.running.run import run_flow
from models.errors import BadInput
from tasks.curate.clips import ClipsConfig
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import read_frames, write_video
from tests.declared import declared

SIZE, FPS, FILMS = (96, 64), 12.0, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """Films of two shots each, curated and not cut."""
    cv2.setNumThreads(1)
    folder = tmp_path_factory.mktemp("films")
    for seed in range(FILMS):
        shots = [
            render_shot(Scene(2 * seed + n), Camera(pan=speed), 24, FPS, SIZE) for n, speed in ((0, 0.4), (1, -0.4))
        ]
        write_video(folder / f"{seed}.mp4", np.concatenate(shots), FPS)
    root = tmp_path_factory.mktemp("dataset") / "data"
    run_flow(curate, CurateConfig(sources=(str(folder),), out=root, workers=2))
    return root


def kept(dataset: Path) -> dict[str, int]:
    """The frames of each kept clip."""
    return {r["clip_id"]: r["frames"] for r in read_rows(dataset / "clips.parquet") if r["keep"]}


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    return ["export", str(dataset), "--out", str(out), "--workers", "2", *more]


def test_clips_that_were_not_cut_are_cut_exactly_and_stand_on_their_sides(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(command(dataset, tmp_path / "out", "--to", "hf", "--split.test", "0.4")) == 0
    printed = capsys.readouterr().out
    cuts = {row["clip_id"]: row for row in read_rows(dataset / "cuts.parquet")}
    assert {clip: row["cut_frames"] for clip, row in cuts.items()} == kept(dataset)
    clips = sorted((tmp_path / "out").glob("*/*.mp4"))
    assert {path.stem for path in clips} == set(kept(dataset))
    assert all(len(list(read_frames(path))) == kept(dataset)[path.stem] for path in clips)
    films = [{path.stem[:16] for path in clips if path.parent.name == side} for side in ("train", "validation", "test")]
    assert sum(map(len, films)) == len(set().union(*films)) == FILMS
    assert printed.startswith("clips: ")
    assert f"out: {tmp_path / 'out'}" in printed


def test_a_second_export_runs_nothing_and_writes_the_same(dataset: Path, tmp_path: Path, contents, capsys):
    assert main(command(dataset, tmp_path / "out")) == 0
    before = contents(tmp_path / "out")
    capsys.readouterr()
    assert main(command(dataset, tmp_path / "out")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " found (" in line and "cuts:" not in line]
    assert len(lines) == 3
    assert all(": 0 ran, " in line for line in lines)
    assert contents(tmp_path / "out") == before
    assert any(name.endswith(".tar") for name in before)


@pytest.fixture
def contents():
    """The bytes of an export's files by name."""
    return lambda out: {
        path.name: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and "manifests" not in path.parts and not path.name.startswith(".reelmill.")
    }


def test_the_csv_trains(dataset: Path, tmp_path: Path, model: str):
    assert main(command(dataset, tmp_path / "out", "--to", "csv", "--split.test", "0", "--split.validation", "0")) == 0
    table = tmp_path / "out" / "train" / "metadata.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file_name"] for row in rows} == {f"{clip}.mp4" for clip in kept(dataset)}
    assert all(row["caption"] for row in rows)
    flags = ["--steps", "1", "--train.batch", "1", "--train.rank", "2", "--workers", "1"]
    run = tmp_path / "run"
    assert main(["finetune", str(table), "--out", str(run), "--base", model, *flags]) == 0
    assert (run / "lora.safetensors").is_file()
    assert {row["camera_motion"] for row in read_rows(run / "listed" / "clips.parquet")} == {"pan_left", "pan_right"}
    assert [path.name for path in table.parent.iterdir() if path.suffix not in (".mp4", ".csv")] == []


def test_an_export_that_is_killed_goes_on_and_writes_the_same(dataset: Path, tmp_path: Path, contents):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_flow(export, ExportConfig(dataset=dataset, out=whole, to="webdataset"))
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.command.main", *command(dataset, killed)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(killed.glob("manifests/samples/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    run_flow(export, ExportConfig(dataset=dataset, out=killed, to="webdataset"))
    assert {n: b for n, b in contents(killed).items() if n.endswith(".tar")} == {
        n: b for n, b in contents(whole).items() if n.endswith(".tar")
    }
    assert [path.name for path in killed.rglob(".*") if not path.name.startswith(".reelmill.")] == []


def test_clips_that_were_cut_in_curation_are_used(tmp_path: Path):
    (tmp_path / "curate.yaml").write_text("clips: {mode: copy, crf: 16}\n")
    assert read_cut_mode(str(tmp_path)) == {"clips": {"mode": "copy", "crf": 16}}
    (tmp_path / "curate.yaml").write_text("clips: {mode: 'off'}\n")
    assert read_cut_mode(str(tmp_path)) == read_cut_mode(os.devnull) == {}


def test_what_cannot_be_exported_is_one_sentence(dataset: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="not a dataset"):
        export.fn(ExportConfig(dataset=tmp_path, out=tmp_path / "out"))
    with pytest.raises(BadInput, match="needs the clips as files"):
        export.fn(ExportConfig(dataset=dataset, out=tmp_path / "out", clips=ClipsConfig(mode="off")))
    with pytest.raises(BadInput, match="is the dataset itself"):
        export.fn(ExportConfig(dataset=dataset, out=dataset / "clips" / ".."))
    assert not (tmp_path / "out").exists()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "export.yaml").write_text("to: webdataset\n")
    with pytest.raises(BadInput, match="already holds a webdataset export"):
        export.fn(ExportConfig(dataset=dataset, out=tmp_path / "tars", to="csv"))


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ExportConfig) == {
        "": "frozen=True, extra='forbid'",
        "dataset": "required",
        "out": "required",
        "sources": "None",
        "to": "'webdataset'",
        "split": "HoldOutConfig()",
        "clips": "ClipsConfig(mode='exact')",
        "shards": "ShardsConfig()",
    }


def test_the_flow_goes_by_its_name():
    assert export.name == "export"
