"""A model's plans come from what it is and what was measured, go down the ladder, and change no result."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.device import CPU, Used
from models.generation.card import read_card
from models.memory import planner
from models.memory.measured_costs import Cost, learn_cost, name_place, read_costs
from models.memory.placement import WeightsTooLarge
from models.memory.plan import MIB, USABLE, Plan
from models.memory.planner import (
    decode_within_memory,
    find_folder_needs,
    find_lower_plan,
    find_needs,
    learn_sampling,
    plan_sampling,
    read_folder_networks,
    read_networks,
)
from models.svd.exact_decode import Room
from models.svd.model import VideoModel, load_model
from models.svd.sampling import decode_latents
from models.weights.names import TINY

SHAPE = (8, 4, 16, 16)

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load_model("tiny")


@pytest.fixture(autouse=True)
def own_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU to plan for."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Pretended")


@pytest.mark.slow
def test_a_folder_tells_what_the_loaded_model_does(model):
    assert read_folder_networks(TINY) == read_networks(model)
    assert find_folder_needs(TINY, model.revision, SHAPE, "float32", CPU) == find_needs(model, SHAPE)


def test_weights_that_lie_there_twice_are_counted_once(model, tmp_path: Path):
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    card = read_card(str(folder))
    for path in list(folder.glob("*/*.safetensors")):
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    shutil.copy(folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "svd_xt.safetensors")
    assert read_folder_networks(folder) == read_networks(model)
    assert read_card(str(folder)) == card
    for path in folder.glob("*/*model.safetensors"):
        path.unlink()
    assert read_folder_networks(folder) == read_networks(model), "of half precision alone"


def test_plans_follow_what_is_free(model, monkeypatch):
    each = find_needs(model, SHAPE).one_clip()
    for free, batch, cut in ((100 * each, 6, False), (4 * each, 3, False), (each // 2, 1, True)):
        monkeypatch.setattr(planner, "measure_free_memory", lambda _, free=free: free)
        plan = plan_sampling(model, SHAPE, 6)
        assert (plan.batch, bool(plan.feed_forward)) == (batch, cut)


def test_a_clip_in_windows_takes_no_more_than_one_window(model, monkeypatch):
    monkeypatch.setattr(planner, "measure_free_memory", lambda _: 2 * find_needs(model, SHAPE).one_clip())
    assert plan_sampling(model, (80, *SHAPE[1:]), 1) == plan_sampling(model, SHAPE, 1) == Plan()


def test_on_a_gpu_the_weights_count_and_what_lies_there_already_counts_as_free(model, monkeypatch, gpu):
    needs = find_needs(model, SHAPE, GPU)
    enough = needs.sampling(Plan(guidance_together=True)) * 1.3
    monkeypatch.setattr(planner, "measure_free_memory", lambda _: int(enough - needs.weights("none")))
    assert plan_sampling(model, SHAPE, 1, GPU) != Plan(guidance_together=True)
    monkeypatch.setattr(planner, "count_placed_bytes", lambda *_: needs.weights("none"))
    assert plan_sampling(model, SHAPE, 1, GPU) == Plan(guidance_together=True)


def test_an_error_of_memory_leads_to_the_next_plan_and_others_to_none(gpu):
    assert find_lower_plan(Plan(batch=4), MemoryError()) == Plan(batch=2)
    assert find_lower_plan(Plan(batch=4), RuntimeError("shape '[2]' is invalid")) is None
    assert find_lower_plan(Plan(feed_forward=256), MemoryError()) is None
    assert find_lower_plan(Plan(feed_forward=16384), torch.OutOfMemoryError(), GPU) == Plan(1, False, 16384, "parts")
    assert find_lower_plan(Plan(batch=4), WeightsTooLarge(), GPU) == Plan(4, False, 16384, "parts")


def test_both_branches_of_guidance_at_once_count_as_two_clips(model):
    together = Plan(batch=3, guidance_together=True)
    cells = 8 * 16 * 16
    learn_sampling(model, together, (3, *SHAPE), 1, Used(seconds=1.0, peak=6 * cells * 10**6))
    assert read_costs(name_place(model.revision, CPU, "float32"))[together.rung].bytes == pytest.approx(10**6)


def test_activations_are_parked_in_a_file_where_half_of_a_clips_do_not_fit_into_half_of_what_is_usable(
    model, tmp_path, monkeypatch
):
    needs = find_needs(model, SHAPE)
    for share, parking in ((1.01, None), (0.99, tmp_path)):
        free = int(share * needs.whole_clip() / USABLE)
        monkeypatch.setattr(planner, "measure_free_memory", lambda _, free=free: free)
        assert planner._make_room(Plan(strip_mib=32), needs, tmp_path) == Room(32 * MIB, parking)
    assert planner._make_room(Plan(), needs, tmp_path) is None


def test_what_a_batch_took_is_kept_by_cell_and_used_by_the_next_plan(model, monkeypatch):
    cells = 8 * 16 * 16
    learn_sampling(model, Plan(batch=2), (2, *SHAPE), 5, Used(seconds=20.0 * cells, peak=2 * cells * 10**6))
    found = read_costs(name_place(model.revision, CPU, "float32"))
    assert found["whole"].bytes == pytest.approx(10**6)
    assert found["whole"].seconds == pytest.approx(2.0)
    monkeypatch.setattr(planner, "measure_free_memory", lambda _: 3 * cells * 10**6)
    assert plan_sampling(model, SHAPE, 6).batch == 1


def test_weights_that_were_moved_meanwhile_are_no_part_of_a_clips_cost(model, gpu):
    cells, moving = 8 * 16 * 16, Plan(offload="parts", feed_forward=16384)
    on_gpu = replace(model, device=GPU)
    weights = find_needs(model, SHAPE, GPU).weights("parts")
    learn_sampling(on_gpu, moving, (1, *SHAPE), 1, Used(seconds=1.0, peak=weights + 7 * cells))
    assert read_costs(name_place(model.revision, GPU, "float32"))[moving.rung].bytes == pytest.approx(7)
    learn_sampling(on_gpu, Plan(offload="parts"), (1, *SHAPE), 1, Used(seconds=1.0, peak=weights // 2))
    assert read_costs(name_place(model.revision, GPU, "float32"))[Plan(offload="parts").rung].bytes is None


@pytest.mark.slow
def test_results_do_not_depend_on_what_was_measured(model, tmp_path):
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    before, _, _ = decode_within_memory(model, latents, tmp_path)
    learn_cost(name_place(model.revision, CPU, "float32"), "decoded whole", Cost(1.0, 1e12))
    after, plan, _ = decode_within_memory(model, latents, tmp_path)
    assert plan.strip_mib
    assert abs(before.astype(int) - after.astype(int)).max() <= 1


@pytest.mark.slow
def test_pixels_are_the_same_whatever_the_strips(model):
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(model, latents).astype(int)
    strips = decode_latents(model, latents, Room(MIB)).astype(int)
    assert abs(whole - strips).max() <= 1  # a rounding to 8 bits may fall to the other side
    assert (whole != strips).mean() < 1e-3


@pytest.mark.slow
def test_a_clip_too_large_to_decode_whole_is_decoded_in_ever_narrower_strips(model, tmp_path, monkeypatch):
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    whole, plan, too_large = decode_within_memory(model, latents, tmp_path)
    assert (plan, too_large) == (Plan(), [])
    emptied: list[torch.device] = []
    monkeypatch.setattr(planner, "empty_cache", emptied.append)

    def small_gpu(model: VideoModel, latents: torch.Tensor, room: Room | None) -> Any:
        if room is None or room.budget > 100 * MIB:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return decode_latents(model, latents, room)

    monkeypatch.setattr(planner, "decode_latents", small_gpu)
    strips, plan, too_large = decode_within_memory(model, latents, tmp_path)
    assert plan.strip_mib == 32
    assert [each.strip_mib for each in too_large] == [None, 512, 128]
    assert np.abs(strips.astype(int) - whole.astype(int)).max() <= 1
    assert emptied == [CPU] * 3, "what each attempt left is given back before the next"


def test_what_no_strip_can_hold_is_an_error(model, tmp_path, monkeypatch):
    def no_gpu(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(planner, "decode_latents", no_gpu)
    with pytest.raises(MemoryError):
        decode_within_memory(model, torch.randn(SHAPE), tmp_path)
