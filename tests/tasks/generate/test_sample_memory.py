"""What does not fit a device is made in smaller pieces or with fewer weights there, and the rows say so."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.memory.placement import WeightsTooLarge
from models.memory.plan import Plan
from tasks.generate import sample_batch
from tasks.generate.sample import (
    Item,
    SampleConfig,
    plan_all_batches,
    sample_jobs,
)
from tasks.manifest import read_rows
from tests.sampled_jobs import NAMES, latents_of, read, rows_of, run


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small_memory(monkeypatch: pytest.MonkeyPatch, clips: int) -> None:
    """As on a GPU where more than `clips` clips of a batch are too many."""
    real = sample_batch.sample_batch

    def sampled(root: Path, model: Any, items: Sequence[Item], plan: Plan, *noise: Any) -> Tensor:
        if len(items) > clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(root, model, items, plan, *noise)

    monkeypatch.setattr(sample_batch, "sample_batch", sampled)


@pytest.mark.slow
def test_a_batch_too_large_for_memory_is_halved_until_it_fits_and_the_rows_say_so(
    tmp_path, pictures, model, monkeypatch
):
    home = pictures(*NAMES[:4])
    undisturbed = latents_of(tmp_path / "a", run(tmp_path / "a", read(tmp_path / "a", home, model), batch=4))
    small_memory(monkeypatch, clips=1)
    manifests = run(tmp_path / "b", read(tmp_path / "b", home, model), batch=4)
    for row in rows_of(manifests).values():
        assert row["error_code"] is None
        assert row["plan"] == "batch 1"
        assert row["too_large"] == ["batch 4", "batch 2"]
        assert row["batch"] == [row["item_key"]]
    for key, latents in latents_of(tmp_path / "b", manifests).items():
        assert (latents - undisturbed[key]).abs().max() < 1e-4


def test_what_fits_nowhere_is_a_row_after_the_last_rung_and_the_others_are_made(tmp_path, pictures, model, monkeypatch):
    real = sample_batch.sample_batch

    def sampled(root: Path, model: Any, items: Sequence[Item], plan: Plan, *noise: Any) -> Tensor:
        if any(item.name.startswith("b") for item in items):
            raise MemoryError
        return real(root, model, items, plan, *noise)

    monkeypatch.setattr(sample_batch, "sample_batch", sampled)
    manifests = run(tmp_path / "out", read(tmp_path / "out", pictures(*NAMES[:3]), model), batch=3)
    codes = [row["error_code"] for manifest in manifests for row in read_rows(manifest)]
    assert codes == [None, "out_of_memory", None]


def test_the_precision_is_in_the_items_key_and_the_device_is_not(tmp_path, pictures, model):
    home = pictures("a.png")
    keys = {
        dtype: read_rows(read(tmp_path / dtype, home, model, dtype=dtype))[0]["item_key"]
        for dtype in ("auto", "float32", "bfloat16")
    }
    assert keys["auto"] == keys["float32"] != keys["bfloat16"]
    root = tmp_path / "out"
    jobs = read(root, home, model)
    first = sample_jobs.fn(root, SampleConfig(device="cpu"), plan_all_batches(jobs, SampleConfig()))
    assert sample_jobs.fn(root, SampleConfig(device="auto"), plan_all_batches(jobs, SampleConfig()))[0].cached
    assert read_rows(first[0])[0]["device"] == "cpu"


@pytest.mark.slow
def test_half_precision_gives_about_the_same_latents(tmp_path, pictures, model):
    home = pictures("a.png")
    full, half = (
        next(iter(latents_of(root, run(root, read(root, home, model, dtype=dtype), 1)).values()))
        for dtype in ("float32", "bfloat16")
        for root in [tmp_path / dtype]
    )
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().mean() < 0.05 * full.std()


def test_weights_that_do_not_fit_a_device_lead_to_less_of_them_there(tmp_path, pictures, model, monkeypatch):
    ready, seen = sample_batch.place_for_sampling, []

    def small_gpu(model: Any, device: torch.device, offload: str) -> Any:
        seen.append(offload)
        if offload != "groups":
            raise WeightsTooLarge("CUDA out of memory")
        return ready(model, device, offload)

    monkeypatch.setattr(sample_batch, "place_for_sampling", small_gpu)
    row = rows_of(run(tmp_path / "out", read(tmp_path / "out", pictures("a.png"), model), 1)).popitem()[1]
    assert row["error_code"] is None
    assert seen == ["none", "parts", "groups"]
    assert row["plan"] == "batch 1, feed-forward in pieces of 4096 tokens, denoiser moved in groups of blocks"
    assert len(row["too_large"]) == 2


def test_an_attempt_that_failed_holds_nothing_when_the_next_begins(tmp_path, pictures, model, monkeypatch):
    """An error's traceback holds the frames it went through, and they the tensors that were too many."""
    held: list[Any] = []
    real = sample_batch.sample_batch

    def sampled(root: Path, model: Any, items: Sequence[Item], plan: Plan, *noise: Any) -> Tensor:
        if not held:
            large = torch.zeros(1)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert held[0]() is None
        return real(root, model, items, plan, *noise)

    monkeypatch.setattr(sample_batch, "sample_batch", sampled)
    row = rows_of(run(tmp_path / "out", read(tmp_path / "out", pictures("a.png"), model), 1)).popitem()[1]
    assert row["error_code"] is None
