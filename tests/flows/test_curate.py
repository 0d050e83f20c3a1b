"""Curate, whole: every file is accounted for, a second run finds all, and a killed run is as if it had not been."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from flows.command.main import main
from flows.curate import PRESETS, CurateConfig, curate, estimate_work, list_uncut
from flows.running.run import run_flow
from tasks.curate.clips import SCHEMA as CUTS
from tasks.curate.clips import TABLE, ClipsConfig
from tasks.curate.split import SplitConfig
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import Lineage, make_table, read_rows, write_manifest
from tasks.media.video import SourceVideo, write_video
from tests.declared import declared

SIZE, FPS = (160, 96), 12.0


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films: two shots, a pan, a still picture, and a copy of the pan."""
    cv2.setNumThreads(1)
    folder = tmp_path_factory.mktemp("good")
    still, pan = (render_shot(Scene(seed), Camera(pan=speed), 24, FPS, SIZE) for seed, speed in ((1, 0.0), (2, 0.5)))
    write_video(folder / "a two shots.mp4", np.concatenate([pan, still]), FPS)
    write_video(folder / "b pan.mp4", pan, FPS)
    write_video(folder / "c still.mp4", np.repeat(still[:1], 24, axis=0), FPS)
    shutil.copy(folder / "b pan.mp4", folder / "d copy of b.mp4")
    return folder


@pytest.fixture(scope="module")
def mixed(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same films among files that are none."""
    folder = tmp_path_factory.mktemp("mixed")
    for film in good.iterdir():
        shutil.copy(film, folder)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("Dear diary, this is no film.\n" * 50)
    (folder / "truncated.mp4").write_bytes((good / "b pan.mp4").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def undisturbed(good: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """The dataset of the good films, made in one go."""
    dataset = tmp_path_factory.mktemp("undisturbed") / "dataset"
    run_flow(curate, CurateConfig(sources=(str(good),), out=dataset, workers=2))
    return dataset


def names(dataset: Path, table: str, column: str) -> dict[str, list]:
    """The values of a column by the source's file name."""
    found: dict[str, list] = {}
    for row in read_rows(dataset / table, ("source", column)):
        found.setdefault(Path(row["source"]).name, []).append(row[column])
    return found


def test_shots_are_found_measured_and_chosen(undisturbed: Path):
    starts = names(undisturbed, "clips.parquet", "start_s")
    assert starts == {"a two shots.mp4": [0.0, 2.0], "b pan.mp4": [0.0], "c still.mp4": [0.0]}
    cameras = names(undisturbed, "clips.parquet", "camera_motion")
    assert (cameras["a two shots.mp4"], cameras["b pan.mp4"]) == (["pan_right", "static"], ["pan_right"])
    assert names(undisturbed, "clips.parquet", "keep")["c still.mp4"] == [False]


def test_each_source_was_decoded_once_and_a_copy_not_at_all(undisturbed: Path):
    assert names(undisturbed, "videos.parquet", "decodes") == {
        "a two shots.mp4": [1],
        "b pan.mp4": [1],
        "c still.mp4": [1],
        "d copy of b.mp4": [None],
    }
    assert names(undisturbed, "videos.parquet", "status")["d copy of b.mp4"] == ["duplicate"]


def test_a_file_that_is_no_film_is_a_row_with_its_reason_and_the_others_are_curated(
    mixed: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    assert main(["curate", str(mixed), "--out", str(tmp_path / "dataset")]) == 1
    statuses = names(tmp_path / "dataset", "videos.parquet", "status")
    assert {name for name, status in statuses.items() if status == ["unreadable"]} == {
        "empty.mp4",
        "text.mp4",
        "truncated.mp4",
    }
    reasons = names(tmp_path / "dataset", "videos.parquet", "error_message")
    printed = capsys.readouterr()
    for name in ("empty.mp4", "text.mp4", "truncated.mp4"):
        assert name in reasons[name][0]
        assert f"reelmill: {reasons[name][0]}" in printed.err
    assert "Traceback" not in printed.err
    assert "videos: 7, 3 failed" in printed.out
    kept = names(tmp_path / "dataset", "clips.parquet", "motion_score")
    assert kept == names(undisturbed, "clips.parquet", "motion_score")


def test_a_second_run_computes_nothing_and_writes_the_same(
    undisturbed: Path, good: Path, capsys: pytest.CaptureFixture[str]
):
    before = tables(undisturbed)
    assert main(["curate", str(good), "--out", str(undisturbed), "--workers", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " found (" in line]
    assert len(lines) == 10
    assert all(": 0 ran, " in line for line in lines)
    assert tables(undisturbed) == before


def test_a_changed_threshold_computes_nothing_either(
    undisturbed: Path, good: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    assert main(["curate", str(good), "--out", str(copy), "--select.min-motion", "0.9"]) == 0
    assert all(": 0 ran, " in line for line in capsys.readouterr().err.splitlines() if " found (" in line)
    assert names(copy, "clips.parquet", "motion_score") == names(undisturbed, "clips.parquet", "motion_score")
    assert "min_motion: 0.9" in (copy / "curate.yaml").read_text()


def tables(dataset: Path) -> list[bytes]:
    return [(dataset / name).read_bytes() for name in ("videos.parquet", "clips.parquet")]


def wait_for(path: Path, pattern: str, process: subprocess.Popen, limit_s: float = 90.0) -> None:
    until = time.monotonic() + limit_s
    while not any(path.glob(pattern)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("step", ["scan", "motion"])
def test_a_run_killed_in_the_middle_and_run_again_is_as_if_it_had_not_been(
    good: Path, undisturbed: Path, tmp_path: Path, repository: Path, step: str
):
    dataset = tmp_path / "dataset"
    command = [sys.executable, "-m", "flows.command.main", "curate", str(good), "--out", str(dataset), "--workers", "1"]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_for(dataset, f"manifests/{step}/[!.]*.parquet", process)
        os.kill(process.pid, signal.SIGKILL)
    made = {path: path.stat().st_mtime_ns for path in dataset.glob("manifests/*/[!.]*.parquet")}
    assert not (dataset / "clips.parquet").exists()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{step}: 3 ran" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert tables(dataset) == tables(undisturbed)
    assert sorted(p.relative_to(dataset) for p in dataset.rglob("*.parquet")) == sorted(
        p.relative_to(undisturbed) for p in undisturbed.rglob("*.parquet")
    )
    assert not [path for path in dataset.rglob(".*") if not path.name.startswith(".reelmill.")]


def test_two_runs_do_not_share_a_folder(
    good: Path, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    dataset = tmp_path / "dataset"
    command = [sys.executable, "-m", "flows.command.main", "curate", str(good), "--out", str(dataset), "--workers", "1"]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(dataset, "curate.yaml", process)
        assert main(["curate", str(good), "--out", str(dataset)]) == 2
        process.kill()
    assert f"another run (process {process.pid}) is working in this folder" in capsys.readouterr().err


def test_select_decides_again_and_keeps_the_other_thresholds(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    assert main(["select", str(copy), "--min-clip-s", "3", "--no-drop-duplicates"]) == 0
    assert "clips: 4, 0 kept" in capsys.readouterr().out
    assert main(["select", str(copy), "--min-clip-s", "none"]) == 0
    assert "clips: 4, 3 kept" in capsys.readouterr().out
    assert "drop_duplicates: false" in (copy / "curate.yaml").read_text()
    assert main(["select", str(copy), "--min-clip-s", "1", "--drop-duplicates"]) == 0
    assert tables(copy)[0] == tables(undisturbed)[0]
    assert names(copy, "clips.parquet", "drop_reasons") == names(undisturbed, "clips.parquet", "drop_reasons")


def test_the_page_is_written_again_from_the_tables(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    (copy / "report/index.html").unlink()
    assert main(["report", str(copy)]) == 0
    assert capsys.readouterr().out == f"page: {copy}/report/index.html\n"
    assert "<html" in (copy / "report/index.html").read_text()
    (copy / "clips.parquet").unlink()
    assert main(["report", str(copy)]) == 2


def test_select_needs_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["select", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()
    assert main(["select", str(tmp_path)]) == 2
    assert "it has no clips.parquet" in capsys.readouterr().err


def test_retry_runs_just_what_failed_and_counts_the_attempts(
    mixed: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    sources, dataset = shutil.copytree(mixed, tmp_path / "sources"), tmp_path / "dataset"
    assert main(["curate", str(sources), "--out", str(dataset)]) == 1
    shutil.copy(good / "b pan.mp4", sources / "truncated.mp4")
    for bad in ("empty.mp4", "text.mp4"):
        (sources / bad).unlink()
    capsys.readouterr()
    assert main(["retry", str(dataset)]) == 0
    printed = capsys.readouterr()
    assert "scan: 0 ran, 3 found" in printed.err
    assert names(dataset, "videos.parquet", "status")["truncated.mp4"] == ["duplicate"]


def test_retrying_what_stays_broken_says_so_again(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    dataset = tmp_path / "dataset"
    assert main(["curate", str(mixed), "--out", str(dataset)]) == 1
    assert main(["retry", str(dataset)]) == 1
    attempts = names(dataset, "videos.parquet", "attempt")
    assert (attempts["text.mp4"], attempts["b pan.mp4"]) == ([2], [1])
    assert "retried: 3" in capsys.readouterr().out
    assert main(["status", str(dataset)]) == 1
    status = capsys.readouterr().out
    assert status.startswith(f"{dataset}: curate, idle")
    assert "videos.parquet: 7 rows" in status
    assert status.count("text.mp4: ") == 1


def test_the_flow_can_be_loaded_from_another_directory(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    loaded = load_flow_from_entrypoint(f"{repository}/flows/curate.py:curate", use_placeholder_flow=False)
    assert isinstance(loaded, Flow)
    assert loaded.name == "curate"


def test_the_form_of_the_flow_shows_the_config():
    schema = parameter_schema(curate)
    config = schema.definitions["CurateConfig"]
    assert schema.required == ["config"]
    assert set(config["properties"]) == set(CurateConfig.model_fields)
    assert config["properties"]["out"]["description"] == "Folder of the dataset."
    assert config["properties"]["select"]["properties"]["max_text_area"]["default"] == 0.07


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_configuration(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    film = tmp_path / "a.mp4"
    write_video(film, np.zeros((4, 32, 32, 3), np.uint8), 8)
    code = main(["curate", str(film), "--out", str(tmp_path / "b"), "--preset", preset, "--dry-run"])
    shown = capsys.readouterr()
    if preset == "svd":
        assert code == 2
        assert "things asked for cannot be found" in shown.err, "its models are not on this machine"
    else:
        assert code == 0
        assert f"- {film}" in shown.out


def test_one_shortest_length_decides(tmp_path: Path):
    def decides(**settings: dict[str, float]) -> float | None:
        return CurateConfig.model_validate({"sources": ("a",), "out": tmp_path, **settings}).select.min_clip_s

    assert decides() == SplitConfig().min_clip_s
    assert decides(split={"min_clip_s": 1.5}) == 1.5
    assert decides(split={"min_clip_s": 1.5}, select={"min_motion": 0.1}) == 1.5
    assert decides(split={"min_clip_s": 1.5}, select={"min_clip_s": 3.0}) == 3.0


def test_sources_do_not_depend_on_where_the_settings_are_read_again(tmp_path: Path):
    config = CurateConfig(sources=("a", "~/b", "s3://c/d", "/e/*.mp4"), out=tmp_path)
    assert config.sources == (str(Path("a").absolute()), str(Path("~/b").expanduser()), "s3://c/d", "/e/*.mp4")


def test_work_follows_duration_and_pixels():
    def video(seconds: float | None, width: int) -> SourceVideo:
        return SourceVideo(video_id="v", path=Path("v"), digest="d", duration_s=seconds, width=width, height=720)

    assert estimate_work([video(10, 1280), video(20, 1280), video(10, 2560)], 0.5) == [5, 10, 10]
    assert estimate_work([video(None, 1280)], 1.0) == [60]


def test_kept_clips_are_cut_to_files_when_asked_and_listed(
    good: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = tmp_path / "dataset"
    shutil.copytree(undisturbed, dataset)
    assert main(["curate", str(good), "--out", str(dataset), "--clips.mode", "exact"]) == 0
    ran = [line for line in capsys.readouterr().err.splitlines() if " found (" in line and ": 0 ran, " not in line]
    assert {line.split(":")[1].strip() for line in ran} == {"clips", "cuts"}, "nothing else was done again"
    cuts = {row["clip_id"]: row for row in read_rows(dataset / "cuts.parquet")}
    kept = {row["clip_id"]: row for row in read_rows(dataset / "clips.parquet") if row["keep"]}
    assert {clip: row["cut_frames"] for clip, row in cuts.items()} == {c: row["frames"] for c, row in kept.items()}
    assert {path.name for path in (dataset / "clips").iterdir()} == {
        Path(row["cut_path"]).name for row in cuts.values()
    }

    assert main(["curate", str(good), "--out", str(dataset), "--clips.mode", "copy"]) in (0, 1)
    for row in read_rows(dataset / "cuts.parquet"):
        clip = kept[row["clip_id"]]
        assert row["error_code"] in (None, "no_keyframes")
        assert row["error_code"] or clip["start_pts"] <= row["cut_start_pts"] < row["cut_end_pts"] <= clip["end_pts"]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(CurateConfig) == {
        "": "frozen=True, extra='forbid'",
        "sources": "required, min_length=1",
        "out": "required",
        "preset": "'offline'",
        "weights": "~/.cache/reelmill/weights",
        "ingest": "IngestConfig()",
        "scan": "ScanConfig()",
        "split": "SplitConfig()",
        "look": "LookConfig()",
        "motion": "MotionConfig()",
        "text": "TextConfig()",
        "caption": "CaptionConfig()",
        "similarity": "SimilarityConfig()",
        "dedup": "DedupConfig()",
        "select": "SelectConfig()",
        "clips": "ClipsConfig()",
        "report": "ReportConfig()",
    }


def test_the_flow_goes_by_its_name():
    assert curate.name == "curate"


def test_clips_that_could_not_be_cut_are_said_if_cutting_was_asked_for(tmp_path: Path):
    rows = [{"clip_id": "a"}, {"clip_id": "b", "error_message": "b.mp4: cannot be decoded."}]
    write_manifest(tmp_path / TABLE, make_table(rows, CUTS), Lineage(step="cuts", version=1))
    said = {
        mode: list_uncut(CurateConfig(sources=("b.mp4",), out=tmp_path, clips=ClipsConfig(mode=mode)))
        for mode in ("exact", "copy", "off")
    }
    assert said == {"exact": ["b.mp4: cannot be decoded."], "copy": ["b.mp4: cannot be decoded."], "off": []}
