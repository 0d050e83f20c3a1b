"""A job of any family is sampled and decoded by the pipeline of its model's folder, one at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXPipeline, WanPipeline

from models.errors import BadModel
from models.families import wan
from models.families.family import MotionLora
from models.generation.by_family import decode_job, is_sampled_in_batches, make_request, sample_by_family
from models.memory.plan import Plan
from models.weights.names import compute_weights_digest
from tests.small_families import ltx_parts, wan_parts

JOB: dict[str, Any] = {
    "family": "Wan", "key": "ball", "seed": 3, "take": 1, "frames": 5, "width": 32, "height": 32, "prompt": "a ball",
    "negative_prompt": "cube", "steps": 1, "fps": 12.0, "guidance_max": 2.0, "lora_strength": None,
    "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: WanPipeline(**wan_parts(in_channels=16)), "wan")


def test_a_jobs_columns_are_its_request() -> None:
    request = make_request(JOB, lora="a.safetensors")
    assert (request.item_key, request.seed, request.take) == ("ball", 3, 1)
    assert (request.prompt, request.negative, request.guidance, request.fps) == ("a ball", "cube", 2.0, 12.0)
    assert request.motion == (MotionLora(Path("a.safetensors"), 1.0),)
    assert make_request(JOB | {"lora_strength": 0.0}, lora="a").motion[0].strength == 0.0
    assert make_request(JOB).motion == ()


def test_only_stable_video_diffusion_has_batches() -> None:
    assert is_sampled_in_batches("Stable Video Diffusion")
    assert not is_sampled_in_batches("Wan")


@pytest.mark.slow
def test_a_rate_that_the_model_is_not_told_changes_no_latents_and_they_decode_to_the_clip(
    folder: Path, tmp_path: Path
) -> None:
    revision = compute_weights_digest(folder)
    latents = sample_by_family(str(folder), revision, make_request(JOB), Plan())
    assert latents.shape == (2, 16, 4, 4)
    slower = make_request(JOB | {"fps": 4.0})
    again = sample_by_family(str(folder), revision, slower, Plan(feed_forward=4))
    assert torch.allclose(again, latents, atol=1e-5)
    frames, plan, too_large = decode_job(JOB | {"model": str(folder)}, latents, tmp_path)
    assert frames.shape == (5, 32, 32, 3)
    assert (str(plan), too_large) == ("batch 1", [])
    assert np.array_equal(frames, wan.decode(wan.load(folder), latents, make_request(JOB)))


def test_a_rate_that_the_model_is_told_changes_the_latents(save: Any) -> None:
    folder = save(lambda: LTXPipeline(**ltx_parts()), "ltx")
    job = JOB | {"frames": 9}
    made = [
        sample_by_family(str(folder), compute_weights_digest(folder), make_request(job | {"fps": fps}), Plan())
        for fps in (8, 25)
    ]
    assert not torch.equal(*made)


def test_a_model_that_is_not_the_one_that_was_planned_is_refused(folder: Path) -> None:
    with pytest.raises(BadModel, match="files changed while it was in use"):
        sample_by_family(str(folder), "other", make_request(JOB), Plan())
