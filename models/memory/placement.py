"""Where a model's weights lie while it works: on the device, or in host memory until they are used.

The hooks are accelerate's and diffusers'. They are on the model for the length of a block, and afterwards it is as it
was, in host memory where anything was offloaded. One thread at a time may place a model on a GPU
(models/generation/model_cache.py sees to it).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import UserCpuOffloadHook
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from models.device import CPU, empty_cache
from models.errors import is_out_of_memory
from models.memory.plan import Offload
from models.svd.model import VideoModel


class WeightsTooLarge(MemoryError):
    """The weights that a plan wants on the device do not fit there."""


@contextmanager
def place_for_sampling(model: VideoModel, device: torch.device, offload: Offload = "none") -> Iterator[VideoModel]:
    """Place the model on `device` for the length of a block; where nothing is offloaded, it stays there.

    Raises WeightsTooLarge, with the model in host memory, when its weights do not fit.
    """
    with placed((model.image_encoder, model.vae), (model.unet,), device, offload):
        yield replace(model, device=device)


@contextmanager
def placed(
    before: Sequence[nn.Module],
    denoisers: Sequence[nn.Module],
    device: torch.device,
    offload: Offload = "none",
    by_layer: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """Place parts on `device` for the length of a block: those that work `before`, in that order, and then the
    `denoisers`, one of which works at a time. Where nothing is offloaded, all stay there.

    `by_layer` are those of `before` that come layer by layer where the denoisers come in groups of blocks. Raises
    WeightsTooLarge, with all parts in host memory, when their weights do not fit.
    """
    parts = (*before, *denoisers)
    if offload == "none":
        move(parts, device)
        yield
        return
    move(parts, CPU)
    with ExitStack() as afterwards:
        afterwards.callback(move, parts, CPU)
        afterwards.callback(_unhook, parts)
        in_groups = offload == "groups"
        layered = [part for part in before if in_groups and part in by_layer]
        for part in layered:
            apply_group_offloading(part, device, CPU, offload_type="leaf_level")
        left = _hook_in_turn([part for part in before if part not in layered], device)
        if in_groups:
            _hook_in_groups(denoisers, device)
        else:
            _hook_in_turn(denoisers, device)
        for part in denoisers:
            # Group offloading knows of no part that was used before and must go, and a chain knows of one alone.
            afterwards.callback(part.register_forward_pre_hook(lambda *_: _offload(left)).remove)
        yield


@contextmanager
def place_for_decoding(model: VideoModel, device: torch.device, offload: Offload = "none") -> Iterator[VideoModel]:
    """Place the model's autoencoder on `device`; with an offload, the other parts make room for it."""
    if offload != "none":
        move((model.image_encoder, model.unet), CPU)
    move((model.vae,), device)
    yield replace(model, device=device)


def move(parts: Sequence[nn.Module], device: torch.device) -> None:
    """Put parts on a device; raises WeightsTooLarge, with all of them in host memory, when they do not fit."""
    try:
        for part in parts:
            if any(weight.device != device for weight in part.parameters()):
                # Not part.to: diffusers' own complains of some devices and precisions.
                nn.Module.to(part, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or device == CPU:
            raise
        move(parts, CPU)
        empty_cache(device)
        raise WeightsTooLarge(str(error)) from None


def count_placed_bytes(parts: Sequence[nn.Module], device: torch.device) -> int:
    """Return how many bytes of the parts' weights are on a device already."""
    return sum(w.numel() * w.itemsize for part in parts for w in part.parameters() if w.device == device)


def _hook_in_turn(parts: Sequence[nn.Module], device: torch.device) -> list[UserCpuOffloadHook]:
    """Bring each part to the device when it is used, and move the one before it away."""
    hooks: list[UserCpuOffloadHook] = []
    for part in parts:
        hooks.append(cpu_offload_with_hook(part, device, hooks[-1] if hooks else None)[1])
    return hooks


def _hook_in_groups(parts: Sequence[nn.Module], device: torch.device) -> None:
    streams = device.type == "cuda"  # the next block comes while one is at work
    for part in parts:
        apply_group_offloading(part, device, CPU, num_blocks_per_group=1, use_stream=streams)


def _offload(hooks: Sequence[UserCpuOffloadHook]) -> None:
    for hook in hooks:
        hook.offload()


def _unhook(parts: Sequence[nn.Module]) -> None:
    """Remove every hook: both libraries put theirs, and a `forward` around the class's own, on the module itself."""
    for module in (each for part in parts for each in part.modules()):
        for name in ("_hf_hook", "_diffusers_hook"):
            if name in vars(module):
                delattr(module, name)
                for left in ("forward", "_old_forward"):
                    vars(module).pop(left, None)


@contextmanager
def feed_forward_in_pieces(unet: nn.Module, tokens: int | None) -> Iterator[None]:
    """Have feed-forward layers take at most this many tokens at a time for the length of a block; None: all of them."""
    layers = [layer for layer in unet.modules() if isinstance(layer, FeedForward)] if tokens else []
    try:
        for layer in layers:
            layer.forward = _split_tokens(layer, tokens or 1)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _split_tokens(layer: FeedForward, tokens: int):
    whole = type(layer).forward

    def forward(hidden_states: Tensor, *arguments: object, **named: object) -> Tensor:
        flat = hidden_states.flatten(0, -2)
        return torch.cat([whole(layer, piece) for piece in flat.split(tokens)]).view(*hidden_states.shape[:-1], -1)

    return forward
