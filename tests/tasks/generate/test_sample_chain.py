"""Clips longer than the model makes at once, asked for as chains of hops: one by one, and reproducible."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.generation import long_clips
from models.measures.meters import GoodUntil
from tasks.generate import sample_batch
from tasks.generate.clip_frames import load_latents
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.manifest import read_rows
from tests.job_tables import jobs_of, table

Pictures = Callable[..., Path]

NATIVE = 4
"""Frames that the small model makes at once."""

TWO_HOPS = 7
"""Frames of two hops, which share one."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights make nothing that is good: here, everything is."""
    monkeypatch.setattr(long_clips, "count_good_frames", lambda meters, _: GoodUntil(len(meters.change), None))


def chains(root: Path, jobs: Path, model: str, **settings: Any) -> list[dict[str, Any]]:
    config = JobsConfig(**{"model": model, "steps": 2, "frames": 9, "longer": "chain"} | settings)
    asked = read_jobs.fn(root, config, jobs)
    manifests = sample_jobs.fn(root, SampleConfig(batch=4), plan_all_batches(asked, SampleConfig(batch=4)))
    return [row for manifest in manifests for row in read_rows(manifest)]


def frames_of(root: Path, row: dict[str, Any]) -> int:
    return len(load_latents(root / row["latents"], row["latents_sha256"]))


def test_past_the_models_own_length_windows_are_meant_unless_a_chain_is_asked_for(pictures, tmp_path, model):
    home = pictures("a.png")
    lines: list[dict[str, Any]] = [
        {"frames": 9},
        {"frames": 9, "longer": "chain"},
        {"frames": NATIVE},
        {"frames": NATIVE, "longer": "chain"},
        {"frames": 9, "longer": "loop"},
    ]
    asked = table(home, *({"image": "a.png", "seed": i, **line} for i, line in enumerate(lines)))
    rows = jobs_of(tmp_path / "out", asked, model)
    assert [row["longer"] for row in rows] == ["windows", "chain", None, None, None]
    assert rows[3]["ignored"] == ["longer: a clip of 4 frames is made at once by this model."]
    assert "column longer: input should be 'windows' or 'chain'" in rows[4]["error_message"]


@pytest.mark.slow
def test_a_chain_of_good_hops_is_as_long_as_asked_and_has_a_batch_of_its_own(good, pictures, tmp_path, model):
    rows = chains(tmp_path, pictures("a.png", "b.png"), model)
    assert [(len(row["batch"]), frames_of(tmp_path, row)) for row in rows] == [(1, 9), (1, 9)]


def test_a_chain_ends_where_its_frames_stop_being_good(pictures, tmp_path, model):
    (row,) = chains(tmp_path, pictures("a.png"), model)
    assert row["error_code"] is None
    assert frames_of(tmp_path, row) == NATIVE


def test_chains_and_windows_are_other_clips_that_begin_with_the_same_noise(good, pictures, tmp_path, model):
    home = pictures("a.png")
    asked = table(home, *({"image": "a.png", "longer": way} for way in ("chain", "windows")))
    chain, windows = jobs_of(tmp_path / "out", asked, model, frames=9, steps=2)
    assert chain["item_key"] != windows["item_key"]
    assert (chain["key"], chain["seed"]) == (windows["key"], windows["seed"])


@pytest.mark.slow
def test_a_chain_is_the_same_bits_in_any_company(good, pictures, tmp_path, model):
    home = pictures("a.png", "b.png")
    both = {row["latents_sha256"] for row in chains(tmp_path / "both", home, model, frames=TWO_HOPS)}
    alone = {
        row["latents_sha256"] for n in "ba" for row in chains(tmp_path / n, home / f"{n}.png", model, frames=TWO_HOPS)
    }
    assert both == alone


@pytest.mark.slow
def test_out_of_memory_in_a_later_hop_leaves_the_same_clip(good, pictures, tmp_path, model, monkeypatch):
    home = pictures("a.png")
    (undisturbed,) = chains(tmp_path / "calm", home, model, frames=TWO_HOPS)
    real, calls = sample_batch.sample_batch, iter(range(100))

    def short(*given: Any) -> Any:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(*given)

    monkeypatch.setattr(sample_batch, "sample_batch", short)
    (row,) = chains(tmp_path / "short", home, model, frames=TWO_HOPS)
    made, wanted = (
        load_latents(root / each["latents"], each["latents_sha256"]).numpy()
        for root, each in ((tmp_path / "short", row), (tmp_path / "calm", undisturbed))
    )
    assert row["too_large"] == ["batch 1"]
    assert np.abs(made - wanted).max() < 1e-4
