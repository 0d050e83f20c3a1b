"""Videos: they play, say where they come from, are measured, and fail one by one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.errors import BadMedia
from models.loaded import loaded_model
from models.sampling import decode_latents
from tasks.asking import JobsConfig
from tasks.footage import Camera, Scene, render_shot
from tasks.generate import decode as step
from tasks.generate.decode import (
    SCHEMA,
    DecodeConfig,
    decode_jobs,
    frames_kept,
    load_latents,
    measure_clip,
    provenance_of,
    psnr,
    sampled,
)
from tasks.generate.jobs import read_jobs
from tasks.generate.sample import SampleConfig, batches_of, sample_jobs
from tasks.manifest import ManifestRef, read_manifest, read_rows

Pictures = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def sampled_jobs(root: Path, jobs: Path, model: str, **settings: Any) -> list[tuple[ManifestRef, ManifestRef]]:
    refs = read_jobs.fn(root, JobsConfig(model=model, steps=2, **settings), jobs)
    config = SampleConfig(batch=4)
    return sampled(refs, sample_jobs.fn(root, config, batches_of(refs, config)))


def test_every_clip_is_a_playable_mp4_of_the_models_size_and_rate(tmp_path, pictures, model):
    root = tmp_path / "out"
    manifests = decode_jobs.fn(root, DecodeConfig(), sampled_jobs(root, pictures("a.png", "b.png"), model))
    assert len(manifests) == 2
    assert read_manifest(manifests[0]).schema == SCHEMA
    for manifest in manifests:
        row = read_rows(manifest)[0]
        with av.open(str(root / row["video"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, float(stream.average_rate or 0)) == (32, 32, 7.0)
            assert sum(1 for _ in container.decode(stream)) == 4
        assert row["motion_measured"]
        assert row["first_frame_psnr"] > 0
        assert (row["error_code"], row["attempt"]) == (None, 1)


def test_a_clip_is_named_by_its_picture_and_says_where_it_comes_from(tmp_path, pictures, model, lora):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("my cat (1).png"), model, lora=str(lora), lora_strength=0.5)
    row = read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]
    assert Path(row["video"]).name.startswith("my-cat-1-")
    with av.open(str(root / row["video"])) as container:
        told = json.loads(container.metadata["reelmill"])
    beside = json.loads((root / row["sidecar"]).read_text())
    assert {name: beside[name] for name in told} == told
    assert beside["measured"]["motion_measured"] == row["motion_measured"]
    job, sample = read_rows(items[0][0])[0], read_rows(items[0][1])[0]
    assert (told["image"], told["image_sha256"]) == ("my cat (1).png", job["image_sha256"])
    assert (told["model"], told["model_revision"]) == ("small", job["model_revision"])
    assert (told["lora"], told["lora_sha256"], told["lora_strength"]) == (lora.name, job["lora_sha256"], 0.5)
    assert (told["seed"], told["take"], told["steps"], told["motion"]) == (0, 0, 2, "tilt_up")
    assert (told["latents_sha256"], told["batch"]) == (sample["latents_sha256"], [job["item_key"]])
    assert told["lineage"]["lora"]["dataset"] == "beach"
    assert str(tmp_path) not in json.dumps(told), "no path of this machine travels with the clip"


def test_the_picture_and_the_clip_are_compared_frame_to_frame():
    picture = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(picture, picture) == 100.0
    assert psnr(picture + 1, picture) == pytest.approx(48.13, abs=0.01)
    assert psnr(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)) == 0.0


def test_a_rendered_pan_is_measured_as_one():
    frames = render_shot(Scene(5, movers=0), Camera.doing("pan_right", 0.5), 8, fps=7, size=(64, 64))
    meters = measure_clip(frames, frames[0], 7.0)
    assert meters["motion_measured"] == "pan_right"
    assert meters["camera_pan"] == pytest.approx(0.5, rel=0.25)
    assert meters["first_frame_psnr"] == 100.0
    assert meters["last_frame_psnr"] < 25


def test_decoding_again_finds_everything(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    first = decode_jobs.fn(root, DecodeConfig(), items)
    monkeypatch.setattr(step, "decode_job", lambda *_: pytest.fail("decoded again"))
    again = decode_jobs.fn(root, DecodeConfig(), items)
    assert again[0].cached
    assert again[0].digest == first[0].digest


@pytest.mark.parametrize("column", ["video", "sidecar"])
def test_a_deleted_file_is_made_again_with_the_same_bytes(tmp_path, pictures, model, column):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    path = root / read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0][column]
    content = path.read_bytes()
    path.unlink()
    decode_jobs.fn(root, DecodeConfig(), items)
    assert path.read_bytes() == content


def test_another_quality_is_another_file_and_both_stay(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    fine, coarse = (read_rows(decode_jobs.fn(root, DecodeConfig(crf=crf), items)[0])[0] for crf in (10, 40))
    assert fine["video"] != coarse["video"]
    assert (root / fine["video"]).stat().st_size > (root / coarse["video"]).stat().st_size


def test_changed_latents_are_a_failure_of_their_own_clip_and_mending_them_mends_it(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png", "b.png"), model)
    path = root / read_rows(items[0][1])[0]["latents"]
    content = path.read_bytes()
    save_file({"latents": load_file(path)["latents"] + 1}, path)
    bad, good = (read_rows(m)[0] for m in decode_jobs.fn(root, DecodeConfig(), items))
    assert bad["error_code"] == "bad_media"
    assert "are not the ones that were sampled" in bad["error_message"]
    assert (bad["video"], good["error_code"]) == (None, None)
    assert read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]["attempt"] == 2
    path.write_bytes(content)
    assert read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]["error_code"] is None


def test_an_unforeseen_fault_is_a_row_too(tmp_path, pictures, model, monkeypatch):
    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(step, "decode_job", failing)
    root = tmp_path / "out"
    row = read_rows(decode_jobs.fn(root, DecodeConfig(), sampled_jobs(root, pictures("a.png"), model))[0])[0]
    assert (row["error_code"], row["error_message"]) == ("decoding_failed", "a: decoding failed (out of memory).")


def test_latents_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(BadMedia, match=r"x\.safetensors: these latents cannot be read"):
        load_latents(tmp_path / "x.safetensors", "")


def test_the_first_frame_of_a_clip_is_compared_with_the_picture_it_was_made_from(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    job, sample = read_rows(items[0][0])[0], read_rows(items[0][1])[0]
    latents = load_latents(root / sample["latents"], sample["latents_sha256"])
    frames = decode_latents(loaded_model(model), latents)
    with Image.open(root / job["picture"]) as picture:
        expected = psnr(frames[0], np.asarray(picture))
    row = read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]
    assert row["first_frame_psnr"] == pytest.approx(expected)
    assert provenance_of(job, sample, 7)["sample_version"] == 7


def test_a_trimmed_clip_ends_where_it_stops_being_good_and_says_so(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    whole, trimmed = (read_rows(decode_jobs.fn(root, DecodeConfig(trim=trim), items)[0])[0] for trim in (False, True))
    assert whole["video"] != trimmed["video"]
    assert whole["frames_kept"] == 4
    assert trimmed["frames_kept"] == max(2, trimmed["good_until"])
    assert trimmed["good_until"] == 4 or trimmed["good_until_reason"], "a random model's clip is no good for long"
    assert len(trimmed["sharpness_curve"]) == 4, "curves are of all that was made"


@pytest.mark.parametrize(("good", "trim", "kept"), [(5, True, 5), (0, True, 2), (8, True, 8), (3, False, 8)])
def test_only_good_frames_are_kept_but_two_at_least(good, trim, kept):
    assert frames_kept(8, good, trim) == kept
