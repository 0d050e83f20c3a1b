"""The UNet's forward passes for sampling alone: nothing is differentiated, so sums are made in place.

diffusers' blocks keep every intermediate for a backward pass, and allow for options that this UNet does not use. Here
the same layers are called in the same order, to the same numbers within float tolerance, with less memory and time:

- a single context token is computed once for a clip, not once for each frame and position (one_token_attention.py);
- feed-forward layers, the widest by far, work in pieces that stay in the processor's cache;
- a convolution over time alone is one matrix product per tap (on the CPU, where the library's own convolution first
  copies every input once per tap);
- where one of two blended results is the other plus something, only that something is added, by its share.

It lasts as long as a run and reads the weights when the run begins, so a LoRA that was put on or taken off counts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn import functional as F

from models.svd.one_token_attention import compute_token_value

PIECE_BYTES = 4 * 2**20
"""What the hidden layer of a feed-forward layer takes at a time, on the CPU; from 1 to 6 MiB took the same time."""


@contextmanager
def work_in_place(unet: UNetSpatioTemporalConditionModel) -> Iterator[None]:
    """Have `unet` work in place, without gradients, for the length of a block; afterwards it is what it was before,
    also where that is in chunks (chunked_training.py)."""
    makers: dict[type[nn.Module], Callable[[Any], Callable[..., Any]]] = {
        TransformerSpatioTemporalModel: _make_transformer,
        SpatioTemporalResBlock: _make_residual,
        GEGLU: _make_gate,
    }
    changed = [(module, makers[type(module)](module)) for module in unet.modules() if type(module) in makers]
    before = [vars(module).get("forward") for module, _ in changed]
    try:
        for module, forward in changed:
            module.forward = forward
        yield
    finally:
        for (module, _), own in zip(changed, before, strict=True):
            vars(module).pop("forward", None)
            if own is not None:
                module.forward = own


def _make_transformer(whole: TransformerSpatioTemporalModel) -> Callable[..., tuple[Tensor]]:
    share = _read_temporal_share(whole.time_mixer)
    spatials = cast(Iterable[BasicTransformerBlock], whole.transformer_blocks)
    temporals = cast(Iterable[TemporalBasicTransformerBlock], whole.temporal_transformer_blocks)
    blocks = list(zip(spatials, temporals, strict=True))

    @cache
    def places(frames: int, like: torch.dtype) -> Tensor:
        """Return an embedding [frames, 1, width] of each frame's place."""
        numbers = torch.arange(frames, device=whole.proj_in.weight.device)
        return whole.time_pos_embed(whole.time_proj(numbers).to(like))[:, None]

    def forward(
        hidden_states: Tensor, encoder_hidden_states: Tensor, image_only_indicator: Tensor, **_: object
    ) -> tuple[Tensor]:
        clips, frames = image_only_indicator.shape
        context = encoder_hidden_states[::frames]
        height, width = hidden_states.shape[-2:]
        tokens = whole.proj_in(whole.norm(hidden_states).flatten(2).transpose(1, 2))
        for spatial, temporal in blocks:
            _attend(tokens, context, spatial)
            clip = tokens.unflatten(0, (clips, frames))
            moving = (clip + places(frames, tokens.dtype)).transpose(1, 2).contiguous().flatten(0, 1)
            _add_feed_forward(moving, temporal.norm_in, temporal.ff_in)
            _attend(moving, context, temporal)
            clip.lerp_(moving.unflatten(0, (clips, -1)).transpose(1, 2), share)
        return (hidden_states + whole.proj_out(tokens).transpose(1, 2).unflatten(2, (height, width)),)

    return forward


def _attend(tokens: Tensor, context: Tensor, block: BasicTransformerBlock | TemporalBasicTransformerBlock) -> None:
    """Add a block's attention and feed-forward to `tokens` [clips * n, length, width] in place."""
    tokens += _attend_to_self(block.attn1, block.norm1(tokens))
    crossing = cast(Attention, block.attn2)
    if context.shape[1] == 1:
        tokens.unflatten(0, (len(context), -1)).add_(compute_token_value(crossing, context)[:, None])
    else:
        seen = context.repeat_interleave(len(tokens) // len(context), dim=0)
        tokens += crossing(cast(nn.Module, block.norm2)(tokens), encoder_hidden_states=seen)
    _add_feed_forward(tokens, cast(nn.Module, block.norm3), block.ff)


def _attend_to_self(attention: Attention, tokens: Tensor) -> Tensor:
    query, key, value = (
        cast(nn.Module, layer)(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    attended = F.scaled_dot_product_attention(query, key, value)
    return cast(nn.ModuleList, attention.to_out)[0](attended.transpose(1, 2).flatten(2))


def _add_feed_forward(tokens: Tensor, norm: nn.Module, layer: FeedForward) -> None:
    pieces = [tokens]
    if tokens.device.type == "cpu":
        hidden = 8 * tokens.shape[-1] * tokens.itemsize
        pieces = tokens.view(-1, tokens.shape[-1]).split(max(1, PIECE_BYTES // hidden))
    for piece in pieces:
        piece.add_(layer(norm(piece)))


def _make_gate(gate: GEGLU) -> Callable[..., Tensor]:
    """Compute the two halves of the projection one after the other: each is contiguous, where the activation is
    faster."""

    def forward(hidden_states: Tensor) -> Tensor:
        # Halved here and not before: weights that wait in host memory are elsewhere by now
        # (models/memory/placement.py).
        (value_weight, gate_weight), (value_bias, gate_bias) = gate.proj.weight.chunk(2), gate.proj.bias.chunk(2)
        opened = F.gelu(F.linear(hidden_states, gate_weight, gate_bias))
        return opened.mul_(F.linear(hidden_states, value_weight, value_bias))

    return forward


def _make_residual(block: SpatioTemporalResBlock) -> Callable[..., Tensor]:
    spatial, temporal = block.spatial_res_block, block.temporal_res_block
    share = _read_temporal_share(block.time_mixer)

    def forward(hidden_states: Tensor, temb: Tensor, image_only_indicator: Tensor) -> Tensor:
        level = F.silu(temb)
        still = _run_branch(spatial, hidden_states, _project(spatial, level)[:, :, None, None])
        still += spatial.conv_shortcut(hidden_states) if spatial.conv_shortcut else hidden_states
        clip = still.unflatten(0, image_only_indicator.shape).transpose(1, 2)
        time_shift = _project(temporal, level).unflatten(0, image_only_indicator.shape).transpose(1, 2)
        clip.add_(_run_branch(temporal, clip, time_shift[..., None, None]), alpha=share)
        return still

    return forward


def _run_branch(block: ResnetBlock2D | TemporalResnetBlock, seen: Tensor, time_shift: Tensor) -> Tensor:
    hidden = _convolve(block.conv1, F.silu(block.norm1(seen), inplace=True)).add_(time_shift)
    return _convolve(block.conv2, F.silu(block.norm2(hidden), inplace=True))


def _project(block: ResnetBlock2D | TemporalResnetBlock, level: Tensor) -> Tensor:
    return cast(nn.Linear, block.time_emb_proj)(level)


def _convolve(layer: nn.Conv2d | nn.Conv3d, seen: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d) or seen.device.type != "cpu":
        return layer(seen)
    before, here, after = layer.weight.flatten(2).unbind(2)
    step = seen.shape[3] * seen.shape[4]
    clips = []
    for clip in seen.flatten(2):
        made = torch.addmm(cast(Tensor, layer.bias)[:, None], here, clip)
        made[:, step:].addmm_(before, clip[:, :-step])
        made[:, :-step].addmm_(after, clip[:, step:])
        clips.append(made)
    return torch.stack(clips).view_as(seen)


def _read_temporal_share(mixer: nn.Module) -> float:
    """Return how much of the temporal result counts when the input is video only."""
    return 1 - cast(Tensor, mixer.mix_factor).sigmoid().item()
