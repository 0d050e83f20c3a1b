"""A clip of a family that diffusers' pipelines sample is the same on a device too small for it, and its row says why.

The CPU by its number, cpu:0, stands for a GPU.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from models.generation import by_family
from tasks.generate.clip_frames import open_parked
from tasks.generate.decode import DecodeConfig, decode_jobs, pair_samples
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.manifest import ManifestRef, read_rows
from tests.small_families import save, wan_parts


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(lambda: WanPipeline(**wan_parts(in_channels=16)), tmp_path_factory.mktemp("models") / "wan")


def made(root: Path, model: Path, **settings: Any) -> tuple[ManifestRef, list[ManifestRef]]:
    """The jobs' manifest, and that of the latents of one text."""
    (root.parent / "texts.txt").write_text("a red ball\n")
    asked = JobsConfig(model=str(model), steps=2, frames=5, width=32, height=32, **settings)
    jobs = read_jobs.fn(root, asked, root.parent / "texts.txt")
    return jobs, sample_jobs.fn(root, SampleConfig(), plan_all_batches(jobs, SampleConfig()))


def latents(root: Path, samples: list[ManifestRef]) -> torch.Tensor:
    return load_file(root / read_rows(samples[0])[0]["latents"])["latents"]


def frames(root: Path) -> np.ndarray:
    (path,) = (root / "frames").glob("*.npy")
    found = open_parked(path)
    assert found is not None
    return np.asarray(found).astype(int)


def test_with_room_a_clip_is_made_whole_on_the_device(tmp_path: Path, wan: Path, gpu: None) -> None:
    jobs, samples = made(tmp_path / "out", wan)
    row = read_rows(samples[0])[0]
    assert (row["error_code"], row["plan"], row["too_large"]) == (None, "batch 1", [])
    (clip,) = (
        read_rows(ref)[0] for ref in decode_jobs.fn(tmp_path / "out", DecodeConfig(), pair_samples(jobs, samples))
    )
    assert (clip["error_code"], clip["decode_plan"], clip["decode_too_large"]) == (None, "batch 1", [])


@pytest.mark.slow
def test_out_of_memory_a_clip_is_made_a_rung_lower_and_is_the_same(
    tmp_path: Path, wan: Path, request: pytest.FixtureRequest
) -> None:
    jobs, samples = made(tmp_path / "a", wan)
    decode_jobs.fn(tmp_path / "a", DecodeConfig(), pair_samples(jobs, samples))
    request.getfixturevalue("small_gpu")
    jobs, lower = made(tmp_path / "b", wan)
    row = read_rows(lower[0])[0]
    assert row["plan"] == "batch 1, feed-forward in pieces of 4096 tokens, denoiser moved in groups of blocks"
    assert row["too_large"] == [
        "batch 1",
        "batch 1, feed-forward in pieces of 16384 tokens",
        "batch 1, feed-forward in pieces of 16384 tokens, parts moved in turn",
        "batch 1, feed-forward in pieces of 4096 tokens, parts moved in turn",
    ]
    assert (latents(tmp_path / "b", lower) - latents(tmp_path / "a", samples)).abs().max() < 1e-4
    (clip,) = (read_rows(ref)[0] for ref in decode_jobs.fn(tmp_path / "b", DecodeConfig(), pair_samples(jobs, lower)))
    assert (clip["decode_plan"], clip["decode_too_large"]) == ("decoded on the CPU", ["batch 1"])
    assert np.abs(frames(tmp_path / "b") - frames(tmp_path / "a")).max() <= 1


def test_what_fits_nowhere_is_a_row(tmp_path: Path, wan: Path, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    jobs, samples = made(tmp_path / "out", wan)
    monkeypatch.setattr(by_family, "prepare_decoding", full)
    (clip,) = (
        read_rows(ref)[0] for ref in decode_jobs.fn(tmp_path / "out", DecodeConfig(), pair_samples(jobs, samples))
    )
    assert clip["error_code"] == "out_of_memory"
    assert clip["error_message"].startswith("a-red-ball: decoding ran out of memory, however little it took at a time")
    monkeypatch.setattr(by_family, "prepare_sampling", full)
    row = read_rows(made(tmp_path / "again", wan)[1][0])[0]
    assert row["error_code"] == "out_of_memory"


def test_the_precision_asked_for_is_the_jobs_own_and_reaches_the_model(tmp_path: Path, wan: Path) -> None:
    made_in = {dtype: made(tmp_path / dtype, wan, dtype=dtype) for dtype in ("auto", "float32", "bfloat16")}
    keys = {dtype: read_rows(jobs)[0]["item_key"] for dtype, (jobs, _) in made_in.items()}
    assert keys["auto"] == keys["float32"] != keys["bfloat16"]
    full, half = (latents(tmp_path / dtype, made_in[dtype][1]) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().mean() < 0.1 * full.std()
