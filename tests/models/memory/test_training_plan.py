"""Plans for training: what they say is kept is what is kept, and the first that fits is taken."""

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from models.memory import training_plan
from models.memory.plan import USABLE
from models.memory.training_plan import (
    LADDER,
    TrainingNeeds,
    choose_training_plan,
    find_training_needs,
    plan_training,
)
from models.svd.chunked_training import train_in_chunks
from models.svd.lora import add_lora
from models.svd.one_token_attention import attend_to_one_token

GIB = 2**30

XT = TrainingNeeds((320, 640, 1280, 1280), 2, cells=25 * 72 * 128, itemsize=2, trained=2_000_000)
"""Stable Video Diffusion XT at its own size, in bfloat16, with a LoRA."""


@pytest.fixture
def unet() -> UNetSpatioTemporalConditionModel:
    """Stable Video Diffusion's shape, a tenth as wide, with a LoRA."""
    torch.manual_seed(0)
    made = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64, 128, 128), num_attention_heads=(1, 2, 4, 4), cross_attention_dim=32,
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, num_frames=4,
    )  # fmt: skip
    attend_to_one_token(made)
    add_lora(made, rank=2)
    return made


def count_kept(unet: UNetSpatioTemporalConditionModel, plan: str) -> int:
    """Count the bytes that a forward pass on two frames of 16x16 cells leaves for the backward pass, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    seen, context = torch.randn(1, 2, 8, 16, 16), torch.randn(1, 1, 32)
    with train_in_chunks(unet, LADDER[plan]), saved_tensors_hooks(pack, lambda tensor: tensor):
        made = unet(seen, torch.tensor([0.5]), context, torch.tensor([[6.0, 127.0, 0.02]]), return_dict=False)[0]
        assert made.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [name for name, chunks in LADDER.items() if not (chunks and chunks.parked)])
def test_what_is_kept_is_what_a_plan_says(unet, plan: str):
    said = find_training_needs(unet, 1, (2, 4, 16, 16)).kept(LADDER[plan])
    assert said / 1.5 < count_kept(unet, plan) < said


def test_the_full_size_fits_16_gib_in_chunks_and_80_not_as_a_whole():
    assert choose_training_plan(XT, 80 * GIB, on_gpu=True) != "whole"
    for on_gpu in (False, True):
        plan = choose_training_plan(XT, 16 * GIB, on_gpu)
        assert XT.step(LADDER[plan]) < 13 * GIB


def test_each_plan_takes_less_than_the_one_before():
    takes = [XT.step(chunks) for chunks in LADDER.values()]
    assert takes == sorted(takes, reverse=True)


@given(st.integers(0, 200), st.booleans())
def test_the_first_plan_that_fits_is_taken_or_else_the_last(gib: int, on_gpu: bool):
    chosen = choose_training_plan(XT, gib * GIB, on_gpu)
    names = [name for name, chunks in LADDER.items() if on_gpu or not (chunks and chunks.parked)]
    fitting = [name for name in names if XT.step(LADDER[name]) <= USABLE * gib * GIB]
    assert chosen == (fitting or names[-1:])[0]


def test_a_small_model_trains_whole(unet):
    assert plan_training(unet, 2, (4, 4, 8, 8)) == "whole"
    assert find_training_needs(unet, 2, (4, 4, 8, 8)).cells == 512
    assert find_training_needs(unet, 1, (4, 4, 8, 8)).trained == sum(
        weight.numel() for name, weight in unet.named_parameters() if "lora_" in name
    )


def test_a_resumed_training_keeps_its_plan_while_that_fits(unet, monkeypatch):
    names, shape = list(LADDER), (4, 4, 8, 8)
    assert plan_training(unet, 2, shape, before=names[2]) == names[2]
    assert plan_training(unet, 2, shape, before="a plan of another version") == "whole"
    monkeypatch.setattr(training_plan, "measure_free_memory", lambda device: 0)
    assert plan_training(unet, 2, shape, before="whole") == names[2]
