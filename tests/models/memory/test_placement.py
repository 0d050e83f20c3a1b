"""Wherever a model's weights wait, its latents are the same, and afterwards it is as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.device import CPU
from models.memory import placement
from models.memory.placement import (
    WeightsTooLarge,
    count_placed_bytes,
    feed_forward_in_pieces,
    move,
    place_for_decoding,
    place_for_sampling,
)
from models.memory.plan import Offload
from models.svd.model import VideoModel
from models.svd.sampling import decode_latents, sample_latents

GPU = torch.device("cuda", 0)


def latents_of(
    model: VideoModel, offload: Offload = "none", tokens: int | None = None, together: bool = False
) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    picture, noise = (torch.randn(shape, generator=generator) for shape in ((1, 3, 32, 32), (1, 4, 4, 8, 8)))
    with place_for_sampling(model, CPU, offload) as ready, feed_forward_in_pieces(ready.unet, tokens):
        return sample_latents(ready, picture.clamp(-1, 1), noise, picture, [None], steps=2, guidance_together=together)


def traces(model: VideoModel) -> set[str]:
    """Attributes that hooks leave on modules."""
    own = {"forward", "_old_forward", "_hf_hook", "_diffusers_hook"}
    modules = (m for part in (model.unet, model.vae, model.image_encoder) for m in part.modules())
    return {name for module in modules for name in (own & set(vars(module)))} | {
        str(hook) for hook in model.unet._forward_pre_hooks
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("offload", "tokens", "together"),
    [("none", None, True), ("none", 100, False), ("parts", None, False), ("groups", None, True), ("groups", 33, False)],
)
def test_every_rung_gives_the_same_latents_and_leaves_no_trace(model, offload, tokens, together):
    whole = latents_of(model)
    assert (latents_of(model, offload, tokens, together) - whole).abs().max() < 1e-4 * whole.abs().max()
    assert traces(model) == set()
    assert torch.equal(latents_of(model), whole)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["parts", "groups"])
def test_parts_come_when_they_are_used_and_go_when_the_next_is(model, offload, monkeypatch):
    """Followed by what is told to move: on the CPU nothing moves."""
    moved: list[tuple[str, str]] = []
    names = {id(model.image_encoder): "encoder", id(model.vae): "vae", id(model.unet): "unet"}
    to = nn.Module.to

    def telling(module: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
        if id(module) in names:
            moved.append((names[id(module)], str(arguments[0])))
        return to(module, CPU)

    with place_for_sampling(model, CPU, offload) as ready:
        monkeypatch.setattr(nn.Module, "to", telling)
        hooks: list[Any] = [part._hf_hook for part in (ready.image_encoder, ready.vae)]
        for hook in hooks:
            hook.execution_device = GPU
        hooks[0].pre_forward(ready.image_encoder)
        hooks[1].pre_forward(ready.vae)
        before_unet = next(iter(ready.unet._forward_pre_hooks.values()))
        before_unet(ready.unet, ())
        assert moved == [("encoder", "cuda:0"), ("vae", "cuda:0"), ("encoder", "cpu"), ("vae", "cpu")]
        monkeypatch.undo()


def test_a_fault_in_the_block_leaves_no_hooks(model):
    for offload in ("parts", "groups"):
        with pytest.raises(RuntimeError, match="fault"), place_for_sampling(model, CPU, offload):
            raise RuntimeError("fault")
        assert traces(model) == set()


def test_weights_too_large_for_a_device_are_taken_back_and_said(model, monkeypatch):
    emptied: list[torch.device] = []
    to = nn.Module.to

    def small_gpu(module: nn.Module, device: torch.device) -> nn.Module:
        if device == GPU and module is model.unet:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(module, CPU)

    monkeypatch.setattr(nn.Module, "to", small_gpu)
    monkeypatch.setattr(placement, "empty_cache", emptied.append)
    with pytest.raises(WeightsTooLarge, match="CUDA out of memory"), place_for_sampling(model, GPU):
        pass
    assert emptied == [GPU]
    assert all(weight.device == CPU for weight in model.unet.parameters())


def test_other_faults_of_moving_stay_what_they_are(model):
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="no such device"):
        patch.setattr(nn.Module, "to", broken)
        move((model.unet,), GPU)


@pytest.mark.slow
def test_frozen_weights_stay_frozen(model):
    model.unet.requires_grad_(False)
    for offload in ("none", "parts", "groups"):
        latents_of(model, offload)
    assert not any(weight.requires_grad for weight in model.unet.parameters())


def test_a_clip_is_decoded_where_the_model_says(model):
    latents = torch.zeros(3, 4, 8, 8)
    frames = decode_latents(model, latents)
    for offload in ("none", "parts"):
        with place_for_decoding(model, CPU, offload) as ready:
            assert (decode_latents(ready, latents) == frames).all()


def test_what_lies_on_a_device_is_counted(model):
    parts = (model.unet, model.vae, model.image_encoder)
    weights = [w for part in parts for w in part.parameters()]
    assert count_placed_bytes(parts, CPU) == sum(4 * w.numel() for w in weights)
    assert count_placed_bytes(parts, GPU) == 0
