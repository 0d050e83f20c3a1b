"""Models of several families in one run: texts and pictures in, videos and one table out; what cannot be is a row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXPipeline, WanImageToVideoPipeline
from PIL import Image

from flows.command.main import main
from flows.generate import GenerateConfig, generate, plan
from flows.provenance import read_provenance
from flows.reproduce import ReproduceConfig, reproduce
from flows.running.run import run_flow
from models.families.text_to_picture import find_drawer_revision
from tasks.manifest import read_rows
from tests.small_families import drawing_pipeline, ltx_parts, save, wan_parts


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: a text-to-video one, one that needs a picture and a text, and one that draws pictures."""
    folder = tmp_path_factory.mktemp("models")
    save(lambda: LTXPipeline(**ltx_parts()), folder / "ltx")
    save(lambda: WanImageToVideoPipeline(**wan_parts(in_channels=36)), folder / "wan")
    save(drawing_pipeline, folder / "drawer")
    return folder


@pytest.fixture
def home(models: Path, tmp_path: Path) -> Path:
    """A folder for jobs, with a picture and the models in it."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    for path in models.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def table(home: Path, *rows: dict[str, Any]) -> Path:
    (home / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home / "jobs.jsonl"


def config(jobs: Path, out: Path, model: str, **settings: Any) -> GenerateConfig:
    small = {"steps": 2, "width": 32, "height": 32, "workers": 2, "batch": 2, "draw": {"steps": 2}}
    return GenerateConfig(**{"jobs": jobs, "out": out, "model": model} | small | settings)


TEXT = {"prompt": "a red ball", "model": "ltx", "frames": 9, "fps": 8}
BOTH = {"image": "a.png", "prompt": "a red ball", "negative_prompt": "cube", "model": "wan", "frames": 5}
DRAWN = {"prompt": "a red ball", "picture_model": "drawer", "frames": 3}


@pytest.mark.usefixtures("prefect_server")
def test_texts_and_pictures_become_videos_of_three_families_and_bad_jobs_are_rows(home, tmp_path, model):
    rows = (
        TEXT,
        BOTH,
        {"image": "a.png", "frames": 3},
        DRAWN,
        {"image": "a.png", "model": "ltx"},
        {"prompt": "a ball", "model": "wan"},
        {"prompt": "a ball"},
        TEXT | {"frames": 400},
        BOTH | {"lora": "any.safetensors"},
        TEXT | {"motion": "pan_left"},
        TEXT | {"prompt": "sky", "frames": 12, "width": 40, "noise_aug": 0.1},
    )
    out = tmp_path / "out"
    assert main(["generate", str(table(home, *rows)), *flags(out, model)]) == 1
    made = read_rows(out / "outputs.parquet")
    assert [row["status"] for row in made] == ["ok"] * 4 + ["failed"] * 6 + ["ok"]
    assert [row["family"] for row in made[:4]] == [
        "LTX-Video", "Wan", "Stable Video Diffusion", "Stable Video Diffusion"
    ]  # fmt: skip
    assert [row["frames"] for row in made[:4]] == [9, 5, 3, 3]
    assert [row["first_frame_psnr"] is None for row in made[:4]] == [True, False, False, False]
    reasons = [row["error_message"] for row in made[4:10]]
    for reason, said in zip(reasons, (
        "LTX-Video needs a text",
        "Wan needs a picture: give one in the column image, or a model that draws it",
        "Stable Video Diffusion needs a picture",
        "frames 400: clips of LTX-Video have 8k+1 frames, at least 9, at most 257; ask for 257.",
        "LoRA any.safetensors: Wan takes none",
        "motion 'pan_left': the model does not know it by name (it knows: none); leave it out.",
    ), strict=True):  # fmt: skip
        assert said in reason
    assert made[10]["ignored"] == [
        "size 40x32: made as 32x32, because sides must be multiples of 32.",
        "frames 12: made as 9, because clips have 8k+1 frames, at least 9, at most 257.",
        "noise_aug: LTX-Video does not take it.",
    ]
    told = read_provenance(out / made[0]["video"])
    assert (told["prompt"], told["family"], "image" in told) == ("a red ball", "LTX-Video", False)
    page = (out / "report" / "index.html").read_text()
    assert page.count("<video") == 5
    assert "a red ball" in page


def flags(out: Path, model: str) -> list[str]:
    sizes = ["--width", "32", "--height", "32", "--draw.steps", "2"]
    return ["--out", str(out), "--model", model, "--steps", "2", "--workers", "2", *sizes]


@pytest.mark.usefixtures("prefect_server")
def test_a_familys_latents_are_the_same_alone_in_any_order_and_after_a_resume(home, tmp_path, model):
    every = [TEXT, TEXT | {"prompt": "cube"}, BOTH]
    together = run_flow(generate, config(table(home, *every), tmp_path / "one", model))
    first = latents_of(tmp_path / "one")
    assert (together.clips, len(set(first.values()))) == (3, 3)
    run_flow(generate, config(table(home, *reversed(every)), tmp_path / "two", model))
    assert latents_of(tmp_path / "two") == first
    run_flow(generate, config(table(home, TEXT), tmp_path / "three", model))
    assert latents_of(tmp_path / "three").items() <= first.items()
    for path in list((tmp_path / "one" / "latents").glob("*.safetensors"))[:2]:
        path.unlink()
    run_flow(generate, config(table(home, *every), tmp_path / "one", model))
    assert latents_of(tmp_path / "one") == first


def latents_of(out: Path) -> dict[str, str]:
    """Digests of the latents by item key."""
    return {row["item_key"]: row["latents_sha256"] for row in read_rows(out / "outputs.parquet")}


@pytest.mark.usefixtures("prefect_server")
def test_a_text_draws_the_picture_once_and_its_takes_share_it(home, models, tmp_path, model):
    out = tmp_path / "out"
    (home / "texts.txt").write_text("a red ball\n\na cube\n")
    settings = {"picture_model": str(models / "drawer"), "frames": 3, "takes": 2}
    outcome = run_flow(generate, config(home / "texts.txt", out, model, **settings))
    assert (outcome.clips, outcome.failed) == (4, 0)
    rows = read_rows(outcome.outputs)
    assert [row["name"] for row in rows] == ["a-red-ball", "a-red-ball", "a-cube", "a-cube"]
    assert rows[0]["picture"] == rows[1]["picture"] != rows[2]["picture"]
    assert len(list((out / "pictures").glob("drawn-*.png"))) == 2
    assert rows[0]["picture_model_revision"] == find_drawer_revision(str(models / "drawer"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    run_flow(generate, config(home / "texts.txt", out, model, **settings))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert reproduce(ReproduceConfig(clip=out / rows[0]["video"])).differs == ()


@pytest.mark.usefixtures("prefect_server")
def test_a_clip_of_a_text_is_made_again_from_what_it_says_of_itself(home, tmp_path, model):
    run_flow(generate, config(table(home, TEXT, BOTH), tmp_path / "out", model))
    rows = read_rows(tmp_path / "out" / "outputs.parquet")
    assert [row["status"] for row in rows] == ["ok", "ok"]
    for row in rows:
        assert reproduce(ReproduceConfig(clip=tmp_path / "out" / row["video"])).differs == ()


def test_a_plan_says_the_families_their_rules_and_what_is_drawn(home, tmp_path, model):
    lines = plan(config(table(home, TEXT, DRAWN, DRAWN | {"seed": 2}), tmp_path / "out", model)).takes
    svd = (
        "Stable Video Diffusion; needs picture, takes fps, guidance, motion LoRA, motion bucket, motion word, "
        "noise_aug; any number of frames, at least 2; sides are multiples of 8; 7 a second"
    )
    ltx = (
        "LTX-Video; needs text, takes fps, guidance, negative text, picture; 8k+1 frames, at least 9, at most 257; "
        "sides are multiples of 32; 25 a second"
    )
    assert {line.partition(": ")[2] for line in lines[-3:-1]} == {svd, ltx}
    assert lines[-1] == f"2 of the pictures are drawn first, by {(home / 'drawer').resolve()}"
    assert not (tmp_path / "out").exists()
