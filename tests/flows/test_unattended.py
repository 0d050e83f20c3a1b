"""A night's run: bad jobs among good ones, a deadline, a fault that repeats, a watched folder, a ComfyUI workflow."""

import csv
import json
import logging
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flows.command.folders import ResultsConfig, retry, status
from flows.command.main import main
from flows.generate import GenerateConfig, generate, plan
from flows.running import stages
from flows.running.claim import claim
from flows.running.run import run_flow
from models.errors import BadInput, EncoderOutOfMemory
from models.memory import planner
from tasks.generate import encode_formats, sample_batch
from tasks.generate.clip_tags import read_clip
from tasks.generate.comfyui_jobs import make_workflow
from tasks.manifest import read_rows

SMALL: dict[str, Any] = {"steps": 1, "frames": 2, "width": 32, "height": 32, "guidance": (1.0, 1.0), "workers": 2}

REASONS = (
    "no such file",
    "cannot be read as a picture",
    "not in a known picture format",
    "column width",
    "there is no folder of that model",
    "is outside",
    "asks for the same clip as job",
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    logging.getLogger("reelmill").handlers.clear()


def noise(path: Path, seed: int) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def pictures(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(number):
        noise(folder / f"{n:03}.png", n)
    return folder


def config(jobs: Path, out: Path, **settings: Any) -> GenerateConfig:
    return GenerateConfig.model_validate({"jobs": jobs, "out": out} | SMALL | settings)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "outputs.parquet")


def videos(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("videos/[!.]*.mp4")}


def list_of_100(folder: Path) -> Path:
    """A table of 80 jobs that can be made and 20 that cannot, among them every kind of fault."""
    pictures(folder, 80)
    noise(folder.parent / "outside.png", 999)
    for n in range(4):
        (folder / f"broken-{n}.png").write_bytes((folder / "000.png").read_bytes()[: 300 + n])
    for n in range(2):
        (folder / f"letter-{n}.png").write_text("Dear Sir or Madam")
    bad: list[dict[str, Any]] = [
        *({"image": f"missing-{n}.png"} for n in range(4)),
        *({"image": f"broken-{n}.png"} for n in range(4)),
        *({"image": f"letter-{n}.png"} for n in range(2)),
        *({"image": f"{n:03}.png", "width": size} for n, size in enumerate((-5, 0, 100_000))),
        *({"image": f"{n:03}.png", "model": "gone"} for n in range(2)),
        *({"image": "../outside.png", "seed": n} for n in range(2)),
        *({"image": f"{n:03}.png"} for n in range(3)),
    ]
    rows = [{"image": f"{n:03}.png"} for n in range(80)]
    for n, row in enumerate(bad):
        rows.insert(80 if row in rows else 4 * n, row)
    with (folder / "jobs.csv").open("w", newline="") as file:
        columns: list[str] = ["image", "width", "model", "seed"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "jobs.csv"


@pytest.mark.usefixtures("prefect_server")
def test_of_100_jobs_20_bad_ones_are_rows_and_after_mending_10_retry_makes_exactly_those(tmp_path, capsys):
    jobs, out = list_of_100(tmp_path / "in"), tmp_path / "out"
    flags = [
        "--steps",
        "1",
        "--frames",
        "2",
        "--width",
        "32",
        "--height",
        "32",
        "--guidance",
        "[1, 1]",
        "--batch",
        "32",
    ]
    assert main(["generate", str(jobs), "--out", str(out), *flags]) == 1
    assert "clips: 80\nduplicates: 3\n" in capsys.readouterr().out
    rows = rows_of(out)
    bad = [row for row in rows if row["status"] != "ok"]
    assert (len(rows), len(bad)) == (100, 20)
    assert all(row["error_message"] for row in bad)
    reasons = " ".join(row["error_message"] for row in bad)
    assert all(reason in reasons for reason in REASONS)
    before = videos(out)
    assert len(before) == 80
    for n in range(4):
        noise(tmp_path / "in" / f"missing-{n}.png", 300 + n)
        noise(tmp_path / "in" / f"broken-{n}.png", 400 + n)
    for n in range(2):
        noise(tmp_path / "in" / f"letter-{n}.png", 500 + n)
    again = retry(ResultsConfig(path=out))
    assert again.failed == 7
    after = videos(out)
    assert len(after) == 90
    assert {name: after[name] for name in before} == before, "what was made stays as it is"


def too_large_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception) -> None:
    """The function runs out of memory the first time it is called."""
    work, errors = getattr(module, name), [error]

    def called(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return work(*arguments, **options)

    monkeypatch.setattr(module, name, called)


@pytest.mark.usefixtures("prefect_server")
def test_memory_that_runs_out_at_every_step_changes_no_clip_and_is_told_in_the_table(tmp_path, monkeypatch):
    home, calm, out = pictures(tmp_path / "in", 3), tmp_path / "calm", tmp_path / "out"
    assert run_flow(generate, config(home, calm, batch=4, workers=1)).failed == 0
    of_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    too_large_once(monkeypatch, sample_batch, "sample_latents", of_gpu)
    too_large_once(monkeypatch, planner, "decode_latents", of_gpu)
    too_large_once(monkeypatch, encode_formats, "run_ffmpeg", EncoderOutOfMemory("ffmpeg ran out of memory"))
    assert run_flow(generate, config(home, out, batch=4, workers=1)).failed == 0
    rows, expected = rows_of(out), rows_of(calm)
    for row, own in zip(rows, expected, strict=True):
        latents, known = (load_file(root / row["latents"])["latents"] for root in (out, calm))
        assert (latents - known).abs().max() < 1e-4
        made, known = (read_clip(root / each["video"]).astype(int) for root, each in ((out, row), (calm, own)))
        assert abs(made - known).max() <= 1
    assert [row["too_large"] for row in rows] == [["batch 3"]] * 3
    assert [[bool(row[f"{step}_too_large"]) for row in rows].count(True) for step in ("decode", "encode")] == [1, 1]


@pytest.mark.usefixtures("prefect_server")
def test_after_the_deadline_the_rest_waits_and_the_same_command_goes_on(tmp_path):
    home, out = pictures(tmp_path / "in", 4), tmp_path / "out"
    over = run_flow(generate, config(home, out, budget=timedelta(0)))
    assert (over.clips, over.waiting, over.failed) == (0, 4, 4)
    assert over.stopped
    row = rows_of(out)[0]
    assert (row["status"], row["error_code"]) == ("waiting", "not_started")
    assert row["error_message"].startswith("000: not made, the time limit was reached at ")
    assert row["error_message"].endswith(". Run the same command to resume.")
    done = run_flow(generate, config(home, out))
    assert (done.clips, done.waiting, done.failed, done.stopped) == (4, 0, 0, None)
    assert "waiting" not in str(done)
    assert status(ResultsConfig(path=out)).failed == 0


@pytest.mark.usefixtures("prefect_server")
def test_retry_makes_what_waits(tmp_path):
    home, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    run_flow(generate, config(home, out, budget=timedelta(0)))
    settings = out / "generate.yaml"
    settings.write_text(settings.read_text().replace("budget: PT0S", "budget: PT1H"))
    assert retry(ResultsConfig(path=out)).failed == 0
    assert len(videos(out)) == 2


@pytest.mark.usefixtures("prefect_server")
def test_the_most_urgent_are_made_first(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "PIECE_S", 1e-9)
    home, out = pictures(tmp_path / "in", 4), tmp_path / "out"
    table = home / "jobs.jsonl"
    lines = [
        {"image": f"{n:03}.png", "priority": p, "steps": s}
        for n, (p, s) in enumerate(((0, 1), (5, 2), (-1, 1), (9, 1)))
    ]
    table.write_text("\n".join(map(json.dumps, lines)))
    assert run_flow(generate, config(table, out, workers=1)).failed == 0
    made = sorted(out.glob("latents/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    numbers = {row["latents"]: row["job"] for row in rows_of(out)}
    assert [numbers[f"latents/{path.name}"] for path in made] == [3, 1, 0, 2]


@pytest.mark.usefixtures("prefect_server")
def test_the_same_fault_three_times_stops_the_run_and_each_row_keeps_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "PIECE_S", 1e-9)
    home, out = pictures(tmp_path / "in", 6), tmp_path / "out"
    out.mkdir()
    claim(out, "generate")
    (out / "videos").write_text("in the way")
    stopped = run_flow(generate, config(home, out, same_fault=3, workers=1))
    assert stopped.stopped
    assert "3 clips in a row failed with encoding_failed" in stopped.stopped
    states = [row["status"] for row in rows_of(out)]
    assert (states.count("failed"), states.count("waiting")) == (3, 3)
    (out / "videos").unlink()
    assert run_flow(generate, config(home, out)).clips == 6


def test_a_full_disk_is_said_before_anything_is_sampled(tmp_path, capsys, prefect_server):
    home, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    assert main(["generate", str(home), "--out", str(out), "--keep-free-mb", str(10**9)]) == 2
    assert "MB will be written and 1000000000 MB stay free" in capsys.readouterr().err
    assert not list(out.glob("latents/*"))


@pytest.mark.usefixtures("prefect_server")
def test_a_watched_folder_makes_new_pictures_when_they_are_whole(tmp_path):
    home, out = pictures(tmp_path / "in", 1), tmp_path / "out"
    late = (noise(tmp_path / "late.png", 50)).read_bytes()

    def arrive() -> None:
        """Write a picture so slowly that the folder is looked at in between."""
        time.sleep(2)
        with (home / "late.png").open("wb") as file:
            for n in range(8):
                file.write(late[n * len(late) // 8 : (n + 1) * len(late) // 8])
                file.flush()
                time.sleep(0.25)

    writer = threading.Thread(target=arrive)
    writer.start()
    outcome = run_flow(generate, config(home, out, watch=True, poll_s=0.4, budget=timedelta(seconds=14)))
    writer.join()
    assert (outcome.clips, outcome.failed) == (2, 0)
    seen = [
        row["name"] for path in out.glob("manifests/jobs/*.parquet") for row in read_rows(path) if row["error_code"]
    ]
    assert seen == [], "no half of a picture was ever read"
    assert "watch: false" in (out / "generate.yaml").read_text()


def test_a_table_cannot_be_watched_and_pictures_go_with_a_workflow_only(tmp_path):
    home = pictures(tmp_path / "in", 1)
    (home / "jobs.csv").write_text("image\n000.png\n")
    with pytest.raises(BadInput, match="--watch needs a folder"):
        generate.fn(config(home / "jobs.csv", tmp_path / "out", watch=True))
    with pytest.raises(BadInput, match="--images goes with a ComfyUI workflow"):
        plan(config(home / "jobs.csv", tmp_path / "out", images=home))


WORKFLOW = {
    "model": "svd.safetensors", "image": "/somewhere/gone.png", "width": 48, "height": 40, "frames": 3, "fps": 9.0,
    "motion_bucket": 90, "noise_aug": 0.25, "guidance_min": 1.0, "guidance_max": 2.5, "seed": 77, "steps": 2,
    "playback_fps": 9.0, "lora": None, "lora_strength": None, "name": "night",
}  # fmt: skip


@pytest.mark.usefixtures("prefect_server")
def test_a_workflow_runs_over_a_folder_and_written_back_gives_the_same_latents(tmp_path):
    home, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    (tmp_path / "w.json").write_text(json.dumps(make_workflow(WORKFLOW)))
    asked = GenerateConfig(
        jobs=tmp_path / "w.json", images=home, out=out, model="tiny", workers=1, workflow_out=tmp_path / "back"
    )
    assert run_flow(generate, asked).clips == 2
    rows = rows_of(out)
    names = [name for name in WORKFLOW if name not in ("model", "image", "name", "lora", "lora_strength")]
    assert all({name: row[name] for name in names} == {name: WORKFLOW[name] for name in names} for row in rows)
    written = sorted((tmp_path / "back").glob("*.json"))
    assert len(written) == 2
    again = GenerateConfig(jobs=written[0], out=tmp_path / "again", workers=1)
    assert run_flow(generate, again).clips == 1
    (row,) = rows_of(tmp_path / "again")
    assert (row["name"], row["latents_sha256"]) == (rows[0]["name"], rows[0]["latents_sha256"])


@pytest.mark.usefixtures("prefect_server")
def test_workflows_of_pictures_with_one_name_have_each_its_own(tmp_path):
    for n, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        noise(tmp_path / folder / "x.png", n)
    (tmp_path / "jobs.csv").write_text("image\na/x.png\nb/x.png\n")
    back = tmp_path / "back"
    run_flow(generate, config(tmp_path / "jobs.csv", tmp_path / "out", workflow_out=back))
    made = {row["latents_sha256"] for row in rows_of(tmp_path / "out")}
    for written in sorted(back.glob("*.json")):
        run_flow(generate, GenerateConfig(jobs=written, out=tmp_path / written.stem, workers=1))
        made.remove(rows_of(tmp_path / written.stem)[0]["latents_sha256"])
    assert not made


def test_a_plan_of_a_workflow_says_what_is_ignored_and_what_its_model_lacks(tmp_path):
    home = pictures(tmp_path / "in", 1)
    content = make_workflow(WORKFLOW | {"width": 50})
    content["6"]["inputs"]["sampler_name"] = "dpmpp_2m"
    (tmp_path / "w.json").write_text(json.dumps(content))
    said = str(plan(GenerateConfig(jobs=tmp_path / "w.json", images=home, out=tmp_path / "out", model="tiny")))
    assert "job 0: ignored: KSampler (node 6): sampler_name 'dpmpp_2m'; euler is used." in said
    assert "job 0: ignored: size 50x40: made as 48x40, because sides must be multiples of 8." in said
    said = str(plan(GenerateConfig(jobs=tmp_path / "w.json", images=home, out=tmp_path / "out")))
    assert "model svd.safetensors: there is no folder of that model in" in said
