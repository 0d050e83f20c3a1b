"""Clips are decoded and measured, their frames wait for whoever encodes them, and they fail one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.generation.model_cache import get_model
from models.measures.psnr import mean_squared_error, psnr
from models.memory import planner
from models.svd.sampling import decode_latents
from tasks.footage import Camera, Scene, render_shot
from tasks.generate import clip_frames
from tasks.generate.clip_frames import load_latents, locate_parked, open_parked
from tasks.generate.decode import SCHEMA, DecodeConfig, decode_jobs, measure_clip, pair_samples
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.manifest import ManifestRef, read_manifest, read_rows
from tests.declared import declared

Pictures = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def sampled_jobs(root: Path, jobs: Path, model: str, **settings: Any) -> list[tuple[ManifestRef, ManifestRef]]:
    refs = read_jobs.fn(root, JobsConfig(model=model, steps=2, **settings), jobs)
    config = SampleConfig(batch=4)
    return pair_samples(refs, sample_jobs.fn(root, config, plan_all_batches(refs, config)))


@pytest.mark.slow
def test_every_clip_is_measured_and_its_frames_are_parked_as_they_were_decoded(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png", "b.png"), model)
    manifests = decode_jobs.fn(root, DecodeConfig(), items)
    assert len(manifests) == 2
    assert read_manifest(manifests[0]).schema == SCHEMA
    for manifest, (_, sample) in zip(manifests, items, strict=True):
        row, made = read_rows(manifest)[0], read_rows(sample)[0]
        assert row["motion_measured"]
        assert row["first_frame_psnr"] > 0
        assert (row["item_key"], row["error_code"], row["attempt"]) == (made["item_key"], None, 1)
        frames = open_parked(locate_parked(root, manifest.path.stem))
        assert frames is not None
        assert (frames.shape, frames.dtype) == ((4, 32, 32, 3), np.uint8)
        latents = load_latents(root / made["latents"], made["latents_sha256"])
        assert np.array_equal(frames, decode_latents(get_model(model), latents))


def test_the_picture_and_the_clip_are_compared_frame_to_frame():
    picture = render_shot(Scene(5), Camera(), 1, 7, size=(96, 96))[0]
    found = measure_clip(np.stack([picture, picture ^ 1]), picture, 7)
    assert found["first_frame_psnr"] == 100.0
    assert found["last_frame_psnr"] == pytest.approx(48.13, abs=0.01)


def test_a_rendered_pan_is_measured_as_one():
    frames = render_shot(Scene(5, movers=0), Camera.doing("pan_right", 0.5), 8, fps=7, size=(64, 64))
    meters = measure_clip(frames, frames[0], 7.0)
    assert meters["motion_measured"] == "pan_right"
    assert meters["camera_pan"] == pytest.approx(0.5, rel=0.25)
    assert meters["first_frame_psnr"] == 100.0
    assert meters["last_frame_psnr"] < 25


def test_decoding_again_finds_everything_whether_or_not_the_frames_were_taken(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    (first,) = decode_jobs.fn(root, DecodeConfig(), items)
    locate_parked(root, first.path.stem).unlink()
    monkeypatch.setattr(clip_frames, "decode_job", lambda *_: pytest.fail("decoded again"))
    (again,) = decode_jobs.fn(root, DecodeConfig(), items)
    assert again.cached
    assert again.digest == first.digest


@pytest.mark.slow
def test_takes_that_differ_in_what_is_asked_alone_are_clips_of_their_own(tmp_path, pictures, model):
    root, home = tmp_path / "out", pictures("a.png")
    (home / "jobs.csv").write_text("image,motion,motion_strength,motion_bucket\na.png,static,0,9\na.png,static,1,9\n")
    items = sampled_jobs(root, home / "jobs.csv", model)
    assert len({read_rows(sample)[0]["latents_sha256"] for _, sample in items}) == 1
    rows = [read_rows(manifest)[0]["item_key"] for manifest in decode_jobs.fn(root, DecodeConfig(), items)]
    assert len(set(rows)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("changed", [lambda latents: latents + 1, lambda latents: latents.bfloat16()])
def test_changed_latents_are_a_failure_of_their_own_clip_and_mending_them_mends_it(tmp_path, pictures, model, changed):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png", "b.png"), model)
    path = root / read_rows(items[0][1])[0]["latents"]
    content = path.read_bytes()
    save_file({"latents": changed(load_file(path)["latents"])}, path)
    bad, good = (read_rows(m)[0] for m in decode_jobs.fn(root, DecodeConfig(), items))
    assert bad["error_code"] == "bad_media"
    assert "are not the ones that were sampled" in bad["error_message"]
    assert (bad["motion_measured"], good["error_code"]) == (None, None)
    assert len(list(root.glob("frames/*"))) == 1
    assert read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]["attempt"] == 2
    path.write_bytes(content)
    assert read_rows(decode_jobs.fn(root, DecodeConfig(), items)[0])[0]["error_code"] is None


def test_an_unforeseen_fault_is_a_row_too(tmp_path, pictures, model, monkeypatch):
    def failing(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(clip_frames, "decode_job", failing)
    root = tmp_path / "out"
    row = read_rows(decode_jobs.fn(root, DecodeConfig(), sampled_jobs(root, pictures("a.png"), model))[0])[0]
    assert (row["error_code"], row["error_message"]) == ("decoding_failed", "a: decoding failed (no kernel).")


def test_a_clip_that_no_plan_can_decode_says_what_to_do_and_its_neighbour_is_made(
    tmp_path, pictures, model, monkeypatch
):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png", "b.png"), model)
    too_large = load_latents(root / (row := read_rows(items[0][1])[0])["latents"], row["latents_sha256"])
    decode_latents = planner.decode_latents

    def small(model: Any, latents: torch.Tensor, *room: Any) -> Any:
        if torch.equal(latents, too_large):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return decode_latents(model, latents, *room)

    monkeypatch.setattr(planner, "decode_latents", small)
    bad, good = (read_rows(m)[0] for m in decode_jobs.fn(root, DecodeConfig(), items))
    assert bad["error_code"] == "out_of_memory"
    assert bad["error_message"].startswith("a: decoding ran out of memory")
    assert "ask for a smaller size or fewer frames, or choose another --device." in bad["error_message"]
    assert good["error_code"] is None


def test_the_first_frame_of_a_clip_is_compared_with_the_picture_it_was_made_from(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = sampled_jobs(root, pictures("a.png"), model)
    job = read_rows(items[0][0])[0]
    (manifest,) = decode_jobs.fn(root, DecodeConfig(), items)
    frames = open_parked(locate_parked(root, manifest.path.stem))
    assert frames is not None
    with Image.open(root / job["picture"]) as picture:
        expected = psnr(mean_squared_error(frames[0], np.asarray(picture)))
    row = read_rows(manifest)[0]
    assert row["first_frame_psnr"] == pytest.approx(expected)
    assert len(row["sharpness_curve"]) == 4, "curves are of all that was made"


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(DecodeConfig) == {"": "frozen=True, extra='forbid'", "device": "'auto'"}


def test_the_step_goes_by_its_name():
    assert decode_jobs.name == "decode"
