"""Finetuning end to end: a dataset in, weights that know it out, and one sentence for whatever cannot be trained."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from flows.command.main import main
from flows.finetune import RECIPES, FinetuneConfig, check, finetune
from flows.generate import GenerateConfig, generate
from flows.running.lock import exclusive
from flows.running.run import run_flow
from models.errors import BadManifest
from models.svd.lora import load_lora
from models.svd.model import load_model
from tasks.finetune.encode import LatentsConfig
from tasks.finetune.train import TrainConfig
from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.ledger import mark, record
from tasks.manifest import Lineage, digest_file, make_table, read_manifest_ref, read_rows, write_manifest
from tasks.media.video import write_video
from tests.declared import declared
from tests.small_svd import CLIPS

torch.set_num_threads(1)

MADE = Lineage(step="select", version=1)

TRAIN = TrainConfig(steps=2, batch=1, rank=2)


def dataset(root: Path, keep: bool = True, end_s: float = 1.0) -> Path:
    """Two films of a second, one clip each, as curation leaves them; the second clip ends at `end_s`."""
    rows = []
    shown: list[tuple[Motion, float]] = [("pan_left", 1.0), ("static", end_s)]
    for seed, (motion, end) in enumerate(shown):
        path = root / f"{motion}.mp4"
        write_video(path, render_shot(Scene(seed, 0), Camera.doing(motion), 7, 7.0, (48, 36)), 7.0)
        digest = digest_file(path)
        clip = {"clip_id": motion, "video_id": digest[:16], "digest": digest, "source": str(path), "keep": keep}
        rows.append(clip | {"start_s": 0.0, "end_s": end, "camera_motion": motion, "motion_score": 0.4})
    write_manifest(root / "clips.parquet", make_table(rows, CLIPS), MADE)
    write_manifest(root / "videos.parquet", make_table(rows, CLIPS), MADE)
    return root


def config(root: Path, out: Path, model: str) -> FinetuneConfig:
    return FinetuneConfig(
        dataset=root, out=out, base=model, encode=LatentsConfig(condition_draws=1), train=TRAIN, workers=2
    )


def flags(root: Path, out: Path, model: str, *more: str) -> list[str]:
    short = ["--steps", "1", "--train.batch", "1", "--train.rank", "2", "--workers", "1"]
    return ["finetune", str(root), "--out", str(out), "--base", model, *short, *more]


@pytest.mark.usefixtures("prefect_server")
def test_a_dataset_becomes_a_lora_that_generates_and_a_run_that_names_the_dataset(tmp_path: Path, model: str):
    root = dataset(tmp_path / "films")
    outcome = run_flow(finetune, config(root, tmp_path / "run", model))
    assert (outcome.failed, outcome.weights) == (0, tmp_path / "run/lora.safetensors")
    assert [row["step"] for row in read_rows(outcome.log)] == [0, 2]
    digest = read_manifest_ref(root / "clips.parquet").digest
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert (described["dataset"], described["dataset_digest"]) == ("films", digest)
    assert described["config"]["train"]["steps"] == 2
    lineage = load_lora(outcome.weights)[1].lineage
    assert (lineage["dataset_digest"], lineage["clips"]) == (digest, ["pan_left", "static"])

    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((36, 48, 3), 90, np.uint8)).save(tmp_path / "pictures/a.png")
    asked = GenerateConfig(jobs=tmp_path / "pictures", out=tmp_path / "out", model=model, steps=1)
    made = run_flow(generate, asked.model_copy(update={"lora": str(outcome.weights)}))
    (row,) = read_rows(made.outputs)
    assert (row["status"], row["lora_sha256"]) == ("ok", digest_file(outcome.weights))

    encoded = {path: path.stat().st_mtime_ns for path in root.rglob("latents/*")}
    again = run_flow(finetune, config(root, tmp_path / "run", model))
    assert again == outcome
    assert {path: path.stat().st_mtime_ns for path in root.rglob("latents/*")} == encoded


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
def test_image_to_video_trains_all_of_a_model_that_generate_and_diffusers_load(
    tmp_path: Path, model: str, prefect_server: str
):
    root = dataset(tmp_path / "films")
    recipe = TrainConfig(**(RECIPES["image-to-video"]()["train"] | {"steps": 2, "batch": 2, "samples": 1}))
    asked = config(root, tmp_path / "run", model).model_copy(update={"train": recipe})
    outcome = run_flow(finetune, asked)
    assert outcome.weights == tmp_path / "run/model"
    report = (tmp_path / "run/report/index.html").read_text()
    assert "All of the network was trained" in report
    assert report.count("data:video/mp4;base64,") == 3
    shown = httpx.post(f"{prefect_server}/artifacts/filter", json={}, timeout=60).json()
    assert any(each["type"] == "progress" and each["data"] == 100 for each in shown)
    assert any(each["type"] == "markdown" and "| step |" in each["data"] for each in shown)
    assert list((tmp_path / "run/events").glob("*/events.out.tfevents.*"))

    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((36, 48, 3), 90, np.uint8)).save(tmp_path / "pictures/a.png")
    made = run_flow(
        generate, GenerateConfig(jobs=tmp_path / "pictures", out=tmp_path / "out", model=str(outcome.weights), steps=1)
    )
    assert [row["status"] for row in read_rows(made.outputs)] == ["ok"]
    pipeline = StableVideoDiffusionPipeline.from_pretrained(outcome.weights, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    drawn: Any = pipeline(
        Image.new("RGB", (32, 32)), 32, 32, num_frames=4, num_inference_steps=1, output_type="np", decode_chunk_size=4
    )
    assert np.isfinite(drawn.frames).all()
    with torch.no_grad():
        before = load_model(model).unet.conv_in.weight
        assert not torch.equal(pipeline.unet.conv_in.weight, before)


def test_a_clip_that_is_too_short_is_counted_and_the_others_train(tmp_path, model, capsys, prefect_server):
    root = dataset(tmp_path / "films", end_s=0.2)
    assert main(flags(root, tmp_path / "run", model)) == 1
    assert "failed: 1" in capsys.readouterr().out
    assert load_lora(tmp_path / "run/lora.safetensors")[1].lineage["clips"] == ["pan_left"]


def test_a_motion_that_no_clip_shows_is_named_in_one_sentence(tmp_path, model, capsys, prefect_server):
    root = dataset(tmp_path / "films")
    assert main(flags(root, tmp_path / "run", model, "--train.motions", '["zoom_in"]')) == 2
    printed = capsys.readouterr().err
    reason = f"{root}: no clip of zoom_in is long enough to train on. Curate more, or ask for other motions."
    assert printed.splitlines()[-1] == f"reelmill: {reason}"
    assert "Traceback" not in printed


def test_a_dataset_that_keeps_nothing_is_refused(tmp_path, model, capsys, prefect_server):
    root = dataset(tmp_path / "films", keep=False)
    assert main(flags(root, tmp_path / "run", model)) == 2
    assert f"reelmill: {root}: none of its 2 clips is kept. Loosen the thresholds" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["videos.parquet", "clips.parquet"])
def test_tables_of_which_a_byte_changed_are_not_trained_on(tmp_path, model, table):
    root = dataset(tmp_path / "films")
    asked = config(root, tmp_path / "run", model)
    mark(root, "curate", "1")
    for name in ("videos.parquet", "clips.parquet"):
        record(root / name, root / name)
    assert check(asked) == []
    content = (root / table).read_bytes()
    place = content.index(b"pan_left")
    (root / table).write_bytes(content[:place] + b"p" + content[place + 1 :])
    assert check(asked) == []
    (root / table).write_bytes(content[:place] + b"q" + content[place + 1 :])
    with pytest.raises(
        BadManifest, match=rf"{table}: has other bytes than were written\. Run the command that made it"
    ):
        check(asked)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path, model, capsys, prefect_server):
    assert main(flags(tmp_path, tmp_path / "run", model)) == 2
    assert f"reelmill: {tmp_path}: not a dataset, it has no clips.parquet." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_asked_to_stop_saves_its_step_and_says_how_it_ended(
    tmp_path: Path, model: str, prefect_server: str, repository: Path, number: int, code: int
):
    root, out = dataset(tmp_path / "films"), tmp_path / "run"
    command = [sys.executable, "-m", "flows.command.main", *flags(root, out, model, "--steps", "100000")]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("train: step 50 of" in line for line in process.stderr)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code
    assert said.endswith("reelmill: stopped. Run the same command to resume.\n")
    (checkpoint,) = out.glob("checkpoints/[!.]*.safetensors")
    assert int(load_file(checkpoint)["step"]) >= 50
    assert not list(out.glob("weights/*"))
    with exclusive(out):
        assert not list(out.rglob(".*-????????"))


@pytest.mark.slow
def test_a_training_that_was_killed_is_resumed_by_prefects_retry(tmp_path, model, prefect_server, repository):
    """Shown in the UI as a task that awaited its retry and then completed."""
    root, out = dataset(tmp_path / "films"), tmp_path / "run"
    asked = flags(root, out, model, "--steps", "40", "--train.checkpoint-every", "5", "--train.judge-every", "40")
    command = [sys.executable, "-m", "flows.command.main", *asked]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 300
        while not list(out.glob("checkpoints/[!.]*.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        (trainer,) = find_children(process.pid, "tasks.finetune.train_process")
        os.kill(trainer, signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "its process died (Killed)" in said
    assert "train: goes on from step" in said
    assert load_lora(out / "lora.safetensors")[1].lineage["clips"] == ["pan_left", "static"]


def find_children(parent: int, word: str) -> list[int]:
    """The processes below another one whose command has a word."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            pid, above = int(stat.parent.name), int(stat.read_text().rsplit(")", 1)[1].split()[1])
            if above == parent:
                named = word in (stat.parent / "cmdline").read_text()
                found += [pid] if named else find_children(pid, word)
    return found


def test_an_unknown_recipe_is_named_with_those_there_are(tmp_path, model, capsys):
    assert main(flags(tmp_path, tmp_path / "run", model, "--recipe", "camera", "--dry-run")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "camera" in said
    assert "motion-lora" in said
    assert "image-to-video" in said


@pytest.mark.parametrize(("recipe", "parameters"), [("motion-lora", "lora"), ("image-to-video", "all")])
def test_a_recipe_is_a_start_that_flags_change(tmp_path, capsys, recipe, parameters):
    root = dataset(tmp_path / "films")
    assert main(flags(root, tmp_path / "run", "tiny", "--recipe", recipe, "--seed", "7", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert f"parameters: {parameters}" in shown
    assert "steps: 1\n" in shown
    assert "seed: 7\n" in shown


@pytest.mark.usefixtures("prefect_server", "hub_cache")
def test_a_base_that_is_not_in_the_cache_is_named_with_the_command_that_brings_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = dataset(tmp_path / "films")
    assert main(flags(root, tmp_path / "run", "org/svd@main")) == 2
    said = (
        "reelmill: org/svd@main: not in Hugging Face's local cache; `hf download org/svd --revision main` downloads it."
    )
    assert said in capsys.readouterr().err


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FinetuneConfig) == {
        "": "frozen=True, extra='forbid'",
        "dataset": "required",
        "out": "required",
        "recipe": "'motion-lora'",
        "base": "'tiny'",
        "sources": "None",
        "encode": "LatentsConfig()",
        "listed": "ListedConfig()",
        "train": "TrainConfig()",
        "hardware": "HardwareConfig()",
        "approve": "False",
    }


def test_the_flow_goes_by_its_name():
    assert finetune.name == "finetune"
