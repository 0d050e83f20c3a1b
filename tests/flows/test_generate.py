"""Generation end to end: pictures in, videos and one table out, whatever is bad among them or kills the run."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from flows.command.flags import Interface, parse_command_line
from flows.generate import GenerateConfig, GenerateOutcome, count_clips, find_copy_name, generate, plan
from flows.reproduce import ReproduceConfig, reproduce
from flows.running.run import run_flow
from models.errors import BadInput
from tasks.generate.draw import DrawConfig
from tasks.generate.job_settings import JobsConfig
from tasks.generate.outputs import SCHEMA
from tasks.manifest import read_manifest, read_rows
from tests.declared import declared

SETTLED = ("latents", "videos", "pictures", "manifests")

FAMILY = (
    "Stable Video Diffusion; needs picture, takes fps, guidance, motion LoRA, motion bucket, motion word, noise_aug; "
    "any number of frames, at least 2; sides are multiples of 8; 7 a second"
)

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from flows.generate import GenerateConfig, generate
from flows.running.run import run_flow
run_flow(generate, GenerateConfig.model_validate_json(sys.argv[1]))
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven pictures of noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdefg":
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def config(jobs: Path, out: Path, model: str, **settings: Any) -> GenerateConfig:
    return GenerateConfig(**{"jobs": jobs, "out": out, "model": model, "steps": 2, "batch": 2, "workers": 2} | settings)


def files_of(out: Path) -> dict[str, bytes]:
    """Everything a run leaves below its folder, but for its lock, its marker and its ledger."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != "generate.yaml")
    paths = (path for path in paths if not path.name.startswith(".reelmill."))
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("prefect_server")
def test_a_folder_of_pictures_becomes_videos_a_table_and_a_page(tmp_path, pictures, model):
    (pictures / "broken.png").write_text("no picture")
    shutil.copy(pictures / "a.png", pictures / "same.png")
    outcome = run_flow(generate, config(pictures, tmp_path / "out", model))
    assert (outcome.clips, outcome.failed, outcome.duplicates) == (7, 1, 1)
    assert outcome.outputs == tmp_path / "out" / "outputs.parquet"
    assert read_manifest(outcome.outputs).schema == SCHEMA
    rows = {row["name"]: row for row in read_rows(outcome.outputs)}
    assert list(rows) == ["a", "b", "broken", "c", "d", "e", "f", "g", "same"]
    assert rows["broken"]["error_code"] == "bad_media"
    assert rows["same"]["status"] == "duplicate"
    made = [row for row in rows.values() if row["status"] == "ok"]
    assert all((tmp_path / "out" / row["video"]).is_file() for row in made)
    assert len({row["latents_sha256"] for row in made}) == 7
    assert outcome.page.read_text().count("<video") == 7

    again = run_flow(generate, config(pictures, tmp_path / "out", model))
    assert again == outcome


@pytest.mark.usefixtures("prefect_server")
def test_a_job_without_a_take_that_passes_gets_more_up_to_the_budget_and_the_others_none(tmp_path, pictures, model):
    table = pictures / "jobs.csv"
    table.write_text("image,motion\na.png,pan_left\nb.png,\n")
    gate = {"extra_takes": 2, "good_share": 0.0, "frozen_max": 1.0}
    outcome = run_flow(generate, config(table, tmp_path / "out", model, takes=2, gate=gate))
    rows = read_rows(outcome.outputs)
    assert [(row["job"], row["take"]) for row in rows] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert [row["passed"] for row in rows] == [False] * 4 + [True] * 2, "a random model moves no camera"
    assert all(row["reasons"] for row in rows[:4])
    assert [sum(row["chosen"] for row in rows if row["job"] == job) for job in (0, 1)] == [1, 1]
    assert all(len(row["sharpness_curve"]) == 4 for row in rows)
    again = run_flow(generate, config(table, tmp_path / "out", model, takes=2, gate=gate))
    assert read_rows(again.outputs) == rows
    asked_alone = run_flow(generate, config(table, tmp_path / "other", model, takes=4, gate=gate))
    alone = {row["item_key"]: row["latents_sha256"] for row in read_rows(asked_alone.outputs)}
    assert all(row["item_key"] in alone for row in rows), "an extra take is the take that more takes would have made"


@pytest.mark.usefixtures("prefect_server")
def test_mended_jobs_are_made_and_the_others_left(tmp_path, pictures, model):
    good = (pictures / "c.png").read_bytes()
    (pictures / "c.png").write_bytes(good[:200])
    out = tmp_path / "out"
    assert run_flow(generate, config(pictures, out, model)).failed == 1
    before = {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    (pictures / "c.png").write_bytes(good)
    assert run_flow(generate, config(pictures, out, model)).failed == 0
    after = {path: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    assert {path: after[path] for path in before} == before
    assert len([path for path in after.keys() - before.keys() if path.suffix == ".mp4"]) == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_run_killed_while_sampling_decoding_and_encoding_ends_as_one_that_was_not(tmp_path, pictures, model):
    settings = {"steps": 6, "motion": "pan_left"}
    run_flow(generate, config(pictures, tmp_path / "undisturbed", model, **settings))
    out = tmp_path / "killed"
    killed_when(config(pictures, out, model, **settings), lambda: count(out / "latents") >= 3)
    assert 3 <= count(out / "latents") < 7
    left_half_written(out / "latents", "x.safetensors")
    killed_when(config(pictures, out, model, **settings), lambda: count(out / "frames", ".npy") >= 1)
    assert count(out / "frames", ".npy") >= 1
    left_half_written(out / "frames", "x.npy")
    killed_when(config(pictures, out, model, **settings), lambda: count(out / "videos", ".mp4") >= 2)
    assert 2 <= count(out / "videos", ".mp4") < 7
    outcome = run_flow(generate, config(pictures, out, model, **settings))
    assert (outcome.clips, outcome.failed) == (7, 0)
    undisturbed, killed = files_of(tmp_path / "undisturbed"), files_of(out)
    assert sorted(killed) == sorted(undisturbed), "nothing twice, nothing missing, nothing half written"
    assert killed["outputs.parquet"] == undisturbed["outputs.parquet"]
    assert killed == undisturbed


def count(folder: Path, suffix: str = ".safetensors") -> int:
    """Whole files of one kind in a folder that may not be there yet."""
    return sum(1 for path in folder.glob(f"[!.]*{suffix}")) if folder.is_dir() else 0


def left_half_written(folder: Path, name: str) -> None:
    (folder / f".{name}.4711-0a1b2c3d{Path(name).suffix}").write_bytes(b"half")


def killed_when(config: GenerateConfig, reached: Callable[[], bool]) -> None:
    """Run the flow in a process of its own and kill it, without a chance to tidy up, as soon as `reached`."""
    said = config.out.with_name("said.txt")
    with said.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, config.model_dump_json()], stdout=file, stderr=file)
    deadline = time.monotonic() + 280
    while not reached():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, f"the run did not come as far as this: {said.read_text()}"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_plan_checks_every_job_and_writes_nothing(tmp_path, pictures, model):
    (pictures / "broken.png").write_text("no picture")
    shutil.copy(pictures / "a.png", pictures / "same.png")
    planned = plan(config(pictures, tmp_path / "out", model))
    assert (planned.failed, planned.ready, planned.batches) == (1, 7, 4)
    assert str(planned).splitlines() == [
        "ready: 7 clips in 4 batches",
        (
            f"7 of 4 frames of 32x32, 2 steps, by {model}: about 0.1 s each; batch 2, decoded whole, about 0.0 GB of"
            " memory"
        ),
        "total: about 0.5 s on one core, 0.1 MB on disk",
        f"{model}: {FAMILY}",
        "job 2: broken.png: cannot be read as a picture (its content is not in a known picture format).",
        "job 8: same: asks for the same clip as job 0; give it another seed, key or prefix.",
    ]
    assert not (tmp_path / "out").exists()


def test_a_plan_of_nothing_but_bad_jobs_says_so(tmp_path, pictures, model):
    (pictures / "jobs.csv").write_text("image\ngone.png\n")
    planned = plan(config(pictures / "jobs.csv", tmp_path / "out", model))
    assert (planned.failed, planned.ready, planned.takes) == (1, 0, ())


@pytest.mark.usefixtures("prefect_server")
def test_every_format_is_made_of_the_same_latents_and_leaves_no_frames_behind(tmp_path, pictures, model):
    out, suffixes = tmp_path / "out", {"h264": ".mp4", "webp": ".webp", "png": ""}
    (pictures / "jobs.csv").write_text("image\na.png\nb.png\n")
    for written, suffix in suffixes.items():
        asked = config(pictures / "jobs.csv", out, model, format=written)
        outcome = run_flow(generate, asked)
        assert (outcome.clips, outcome.failed) == (2, 0)
        assert {Path(row["video"]).suffix for row in read_rows(outcome.outputs)} == {suffix}
        assert outcome.page.read_text().count("<video") == (2 if written == "h264" else 0)
        assert not (out / "frames").exists()
    assert (count(out / "latents"), count(out / "videos", ".json")) == (2, 6)


def test_a_format_that_cannot_be_made_so_is_refused_before_anything_is_read(tmp_path, model):
    for written, crf, said in (
        ("gif", 20, "gif has no quality to choose"),
        ("hevc", 60, "goes from 0, the best, to 51"),
    ):
        asked = config(tmp_path / "gone", tmp_path / "out", model, format=written, crf=crf)
        for attempt in (plan, generate.fn):
            with pytest.raises(BadInput, match=said):
                attempt(asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["gone", "empty", "notes.doc"])
def test_jobs_that_are_none_are_refused_in_one_sentence(tmp_path, model, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").write_text("words")
    with pytest.raises(BadInput, match=name):
        plan(config(tmp_path / name, tmp_path / "out", model))


def test_clips_of_another_format_are_no_space_saved(tmp_path):
    videos = tmp_path / "videos"
    (videos / "c.d-1").mkdir(parents=True)
    for name in ("a.mp4", "a.json", "b.mp4", "b.json", "c.d-1.json", ".e.json"):
        (videos / name).write_bytes(b"")
    assert [count_clips(tmp_path, written) for written in ("h264", "av1", "png", "gif")] == [2, 2, 1, 0]


def test_what_waits_is_not_told_as_failed(tmp_path):
    outcome = GenerateOutcome(
        failed=16, clips=0, duplicates=0, waiting=12, stopped="late", outputs=tmp_path / "t", page=tmp_path / "p"
    )
    assert str(outcome).splitlines()[:5] == ["failed: 4", "clips: 0", "duplicates: 0", "waiting: 12", "stopped: late"]
    all_wait = outcome.model_copy(update={"failed": 12})
    assert str(all_wait).startswith("clips: 0"), "where nothing failed, nothing is said of it"


def test_the_flags_are_the_config(tmp_path):
    interface = Interface(prog="reelmill generate", config=GenerateConfig, positional="jobs")
    asked = parse_command_line(interface, ["pics", "--out", "o", "--steps", "5", "--motion", "pan_left", "--dry-run"])
    assert asked.dry_run
    assert asked.config == GenerateConfig(jobs=Path("pics"), out=Path("o"), steps=5, motion="pan_left")
    with pytest.raises(BadInput, match="--fit"):
        parse_command_line(interface, ["pics", "--out", "o", "--fit", "squeeze"])


def test_a_config_is_frozen_and_knows_its_fields(tmp_path):
    with pytest.raises(ValidationError, match="extra_forbidden"):
        GenerateConfig.model_validate({"jobs": "j", "out": "o", "colour": "red"})
    assert GenerateConfig(jobs=Path("j"), out=Path("o"), device="cpu").per_job == JobsConfig(dtype="float32")


def test_on_a_gpu_auto_is_left_to_each_jobs_family(monkeypatch):
    monkeypatch.setattr("flows.generate.find_device", lambda _: torch.device("cuda", 0))
    assert GenerateConfig(jobs=Path("j"), out=Path("o")).per_job.dtype == "auto"
    assert GenerateConfig(jobs=Path("j"), out=Path("o"), dtype="float16").per_job.dtype == "float16"


def test_pictures_are_drawn_on_the_runs_device_unless_on_one_of_their_own():
    run = GenerateConfig(jobs=Path("j"), out=Path("o"), device="cuda:1")
    assert (run.draw.device, run.drawing.device) == (None, "cuda:1")
    assert run.model_copy(update={"draw": DrawConfig(device="cpu")}).drawing == DrawConfig(device="cpu")


@pytest.mark.usefixtures("prefect_server")
def test_a_chain_ends_early_where_it_is_not_good_and_is_made_again_to_the_bit(pictures, tmp_path, model, caplog):
    asked = {"frames": 9, "longer": "chain", "steps": 2, "workers": 1, "workflow_out": tmp_path / "workflows"}
    outcome = run_flow(generate, config(pictures / "a.png", tmp_path / "out", model, **asked))
    (row,) = read_rows(outcome.outputs)
    assert (row["status"], row["longer"], row["frames"], row["frames_kept"]) == ("ok", "chain", 9, 4)
    assert not row["passed"]
    assert "a: a workflow knows of no chains" in caplog.text
    assert reproduce(ReproduceConfig(clip=tmp_path / "out" / row["video"])).differs == ()


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(GenerateConfig) == {
        "": "frozen=True, extra='forbid'",
        "jobs": "required",
        "out": "required",
        "images": "None",
        "workflow_out": "None",
        "batch": "1, ge=1, le=256",
        "device": "'auto'",
        "format": "'h264'",
        "crf": "None, ge=0, le=63",
        "trim": "False",
        "draw": "DrawConfig()",
        "gate": "GateConfig()",
    }


def test_the_flow_goes_by_its_name():
    assert generate.name == "generate"


def test_pictures_whose_names_are_one_on_some_file_system_are_copied_as_two(tmp_path: Path):
    (tmp_path / "Größe.png").write_bytes(b"one")
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    assert find_copy_name(tmp_path, Path("Größe.png"), one) == "Größe.png"
    assert find_copy_name(tmp_path, Path("other.png"), two) == "other.png"
    for name in ("Größe.png", "gröSSe.png", "Gro\u0308ße.png"):
        assert find_copy_name(tmp_path, Path(name), two).endswith(f"-{two[:10]}.png")
