"""Curate with networks: nothing begins while a model is missing, and with all of them every column is filled."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from huggingface_hub import constants

from flows.command.main import main
from flows.curate import PRESETS, CurateConfig, curate, find_cost, locate_models
from flows.running.run import run_flow
from models.errors import BadModel
from models.weights.conversions import make_download_command
from tasks.curate.caption_writers import CaptionConfig
from tasks.curate.similarity import OFF
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import write_video
from tests import small_models


@pytest.fixture
def film(tmp_path: Path) -> Path:
    cv2.setNumThreads(1)
    write_video(tmp_path / "pan.mp4", render_shot(Scene(2), Camera(pan=0.5), 16, 12.0, (96, 64)), 12.0)
    return tmp_path / "pan.mp4"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which nothing is brought to."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model for each setting of the preset svd."""
    folder = tmp_path_factory.mktemp("weights")
    small_models.save_image_captioner(folder / "image")
    small_models.save_video_captioner(folder / "video")
    small_models.save_writer(folder / "writer")
    small_models.save_clip(folder / "clip")
    small_models.save_craft(folder / "craft.safetensors")
    small_models.save_raft(folder / "raft_large.safetensors")
    small_models.save_head(folder / "aesthetic.safetensors")
    return folder


def with_weights(weights: Path, film: Path, dataset: Path) -> CurateConfig:
    """The preset svd, with small models in the places of those of the hub."""
    settings: dict[str, Any] = dict(PRESETS["svd"]())
    settings["caption"] |= {"image_model": "image", "video_model": "video", "model": "writer"}
    settings["similarity"] |= {"clip_model": "clip"}
    settings["motion"] |= {"raft_short_side": 128}
    settings["text"] |= {"canvas_side": 64}
    return CurateConfig(sources=(str(film),), out=dataset, weights=weights, **settings)


def test_without_the_weights_the_preset_svd_stops_before_any_work_and_names_what_brings_them(
    film: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    dataset, weights = tmp_path / "dataset", tmp_path / "weights"
    command = ["curate", str(film), "--out", str(dataset), "--preset", "svd", "--weights", str(weights)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert not dataset.exists()
    assert "Traceback" not in error
    for model in (
        "Salesforce/blip-image-captioning-large",
        "openai/clip-vit-large-patch14",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "microsoft/git-base-vatex",
    ):
        (line,) = (line for line in error.splitlines() if model in line)
        revision = line.split("@")[1].split(":")[0]
        assert len(revision) == 40
        assert f"`hf download {model} --revision {revision}` downloads it" in line
    for setting, file in (
        ("text.craft_weights", "craft"),
        ("motion.raft_weights", "raft_large"),
        ("similarity.aesthetic_head", "aesthetic"),
    ):
        (line,) = (line for line in error.splitlines() if f"{setting}: {weights}/{file}.safetensors" in line)
        assert (
            f"no such file or folder; `{make_download_command(weights / f'{file}.safetensors')}` downloads it." in line
        )


@pytest.mark.slow
def test_one_missing_model_is_named_alone(weights: Path, film: Path, hub: Path, tmp_path: Path):
    config = with_weights(weights, film, tmp_path / "dataset")
    caption = config.caption.model_copy(update={"video_model": "org/seer@main"})
    with pytest.raises(BadModel, match=r"^1 thing asked for cannot be found:\n  caption\.video_model: org/seer@main: "):
        locate_models(config.model_copy(update={"caption": caption}))


def test_a_missing_key_is_told_before_any_work(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPTION_KEY", raising=False)
    caption: Any = {"image_engine": "endpoint", "image_model": "m", "endpoint": {"key_env": "CAPTION_KEY"}}
    config = CurateConfig(sources=(str(film),), out=tmp_path, caption=caption)
    with pytest.raises(BadModel, match="the environment has no CAPTION_KEY"):
        locate_models(config)
    monkeypatch.setenv("CAPTION_KEY", "secret")
    assert locate_models(config) == config


def test_weights_named_without_a_folder_lie_in_the_folder_of_weights(weights: Path, film: Path, tmp_path: Path):
    config = locate_models(with_weights(weights, film, tmp_path / "dataset"))
    assert config.text.craft_weights == str(weights / "craft.safetensors")
    assert config.caption.model == str(weights / "writer")


def test_with_its_models_every_column_is_filled(weights: Path, film: Path, tmp_path: Path, prefect_server: str):
    dataset = tmp_path / "dataset"
    made = run_flow(curate, with_weights(weights, film, dataset))
    (row,) = read_rows(dataset / "clips.parquet")
    assert row["error"] is None
    assert made.failed == 0
    empty = {name for name, value in row.items() if value is None}
    lost = {"camera_strength", "camera_pan", "camera_tilt", "camera_zoom", "camera_roll", "object_motion"}
    notes = {"crop", "dedup_group", "drop_reason", "similarity_note", "caption_note", "error", "note"}
    assert empty <= notes | lost, "the small RAFT's flow is of another film, so the camera is lost"
    assert row["camera_motion"] == "unknown"
    assert (row["caption"], row["caption_image"].split()[0]) == ("the camera pans left", "dog")
    flow = np.hypot(9.6, 4.8) / 128  # Of any two frames: half a second apart, or those stored soon after one.
    assert 0.9 * flow / 0.5 < row["motion_score"] < 1.1 * flow / 0.1
    assert -1 <= row["clip_similarity"] <= 1
    assert "weights" not in str({name: row[name] for name in row if name.endswith("_model")})
    assert read_rows(dataset / "videos.parquet", ("decodes",)) == [{"decodes": 1}]
    again = run_flow(curate, with_weights(weights, film, dataset))
    assert again.clips == made.clips


def test_without_models_the_columns_that_need_them_are_null_with_a_note(
    film: Path, tmp_path: Path, prefect_server: str
):
    run_flow(curate, CurateConfig(sources=(str(film),), out=tmp_path / "dataset", **PRESETS["paper-offline"]()))
    (row,) = read_rows(tmp_path / "dataset/clips.parquet")
    assert (row["clip_similarity"], row["aesthetic"], row["similarity_note"]) == (None, None, OFF)
    assert (row["caption_image"], row["caption_video"]) == (None, None)
    assert "No caption_image: no captioner is named (caption.image_engine)." in row["caption_note"]
    assert "No caption_video: no captioner is named (caption.video_engine)." in row["caption_note"]
    assert "They need weights that this run did not have" in (tmp_path / "dataset/report/index.html").read_text()


def test_the_cost_of_a_step_follows_its_engine():
    assert find_cost(CaptionConfig(), 0.001) == 0.001
    assert find_cost(CaptionConfig(image_engine="endpoint", image_model="m"), 0.001) > 0.1
