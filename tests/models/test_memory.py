"""Plans fit the memory there is, get smaller rung by rung, and change no result."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from models import memory
from models.exact_decode import Room
from models.memory import (
    MIB,
    Plan,
    decode_within_memory,
    decoding_bytes,
    decoding_plan,
    feed_forward_in_pieces,
    free_bytes,
    is_out_of_memory,
    next_rung,
    next_strip,
    sampling_bytes,
    sampling_plan,
)
from models.sampling import decode_latents, sample_latents
from models.svd import VideoModel, load_model

SHAPE = (8, 4, 16, 16)


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load_model("tiny")


def test_with_plenty_of_memory_the_asked_batch_is_sampled_together(model):
    assert sampling_plan(model.unet, SHAPE, 6, free=10 * 2**30) == Plan(batch=6)
    assert decoding_plan(model.vae, SHAPE, free=10 * 2**30) == Plan()


def test_the_batch_is_what_fits(model):
    each = sampling_bytes(model.unet, SHAPE)
    assert sampling_plan(model.unet, SHAPE, 6, free=4 * each).batch == 3


def test_where_not_even_one_clip_fits_its_layers_are_cut(model):
    plan = sampling_plan(model.unet, SHAPE, 6, free=sampling_bytes(model.unet, SHAPE) // 2)
    assert plan.batch == 1
    assert plan.feed_forward
    assert decoding_plan(model.vae, SHAPE, free=decoding_bytes(model.vae, SHAPE) // 2).strip_mib


def test_cost_grows_with_frames_and_area(model):
    frames, channels, height, width = SHAPE
    for cost, part in ((sampling_bytes, model.unet), (decoding_bytes, model.vae)):
        assert cost(part, (2 * frames, channels, height, width)) == 2 * cost(part, SHAPE)
        assert cost(part, (frames, channels, height, 2 * width)) == 2 * cost(part, SHAPE)


def test_the_full_size_decoder_is_estimated_as_it_was_measured():
    """8 frames of 448x256 peaked at 4.9 GB, weights and interpreter included (benchmarks/decode.md)."""

    vae = cast(Any, SimpleNamespace(config={"block_out_channels": (128, 256, 512, 512)}, dtype=torch.float32))
    assert 3.5e9 < decoding_bytes(vae, (8, 4, 32, 56)) < 5.2e9


def test_rungs_lead_from_large_batches_to_small_pieces_and_end():
    rungs, plan = [], Plan(batch=5)
    while plan:
        rungs.append((plan.batch, plan.feed_forward))
        plan = next_rung(plan)
    assert rungs == [(5, None), (2, None), (1, None), (1, 16384), (1, 4096), (1, 1024), (1, 256)]


def test_decoding_goes_from_whole_to_ever_narrower_strips():
    sizes, plan = [], Plan()
    while plan:
        sizes.append(plan.strip_mib)
        plan = next_strip(plan)
    assert sizes == [None, 512, 128, 32, 16]


@pytest.mark.parametrize("tokens", [1000, 333, 64])
def test_feed_forward_in_pieces_gives_the_same_latents_and_leaves_no_trace(model, tokens):
    torch.manual_seed(0)
    inputs = (torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, *SHAPE), torch.randn(1, 3, 64, 64))
    whole = sample_latents(model, *inputs, [None], steps=2)
    with feed_forward_in_pieces(model.unet, tokens):
        cut = sample_latents(model, *inputs, [None], steps=2)
    assert (cut - whole).abs().max() < 1e-5
    assert torch.equal(sample_latents(model, *inputs, [None], steps=2), whole)
    assert not any("forward" in vars(layer) for layer in model.unet.modules())


def test_pixels_are_the_same_whatever_the_strips(model):
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(model, latents).astype(int)
    strips = decode_latents(model, latents, Room(MIB)).astype(int)
    assert abs(whole - strips).max() <= 1  # a rounding to 8 bits may fall to the other side
    assert (whole != strips).mean() < 1e-3


def test_errors_of_memory_are_told_from_others():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape '[2]' is invalid"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value)


def test_free_memory_is_between_a_byte_and_a_petabyte():
    assert 1 < free_bytes(torch.device("cpu")) < 2**50


def test_a_clip_too_large_to_decode_whole_is_decoded_in_ever_narrower_strips(model, tmp_path, monkeypatch):
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    whole, plan, too_large = decode_within_memory(model, latents, tmp_path)
    assert (plan, too_large) == (Plan(), [])

    def small_card(model: VideoModel, latents: torch.Tensor, room: Room | None) -> Any:
        if room is None or room.budget > 100 * MIB:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return decode_latents(model, latents, room)

    monkeypatch.setattr(memory, "decode_latents", small_card)
    strips, plan, too_large = decode_within_memory(model, latents, tmp_path)
    assert plan.strip_mib == 32
    assert [each.strip_mib for each in too_large] == [None, 512, 128]
    assert abs(strips.astype(int) - whole.astype(int)).max() <= 1


def test_what_no_strip_can_hold_is_an_error(model, tmp_path, monkeypatch):
    def no_card(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(memory, "decode_latents", no_card)
    with pytest.raises(MemoryError):
        decode_within_memory(model, torch.randn(SHAPE), tmp_path)
