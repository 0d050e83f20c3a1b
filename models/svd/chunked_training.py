"""The UNet's layers in chunks, forwards and backwards: training in bounded memory, with the gradients of the whole.

Layers over the picture (spatial convolutions and attention) work on some frames at a time, layers over time on some
positions. Two things see both: the group normalisations of the temporal residual blocks. Their statistics are measured
first, over all of the clip, and are differentiated through as such. What is kept between the forward and the backward
pass are the inputs of each part of a block (or of each block alone, at the price of computing it once more), and these
may wait in host memory. Weights, their names and their gradients are what they were: a LoRA and a whole training work
alike, and so do diffusers' and our own ways of loading and saving.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from models.errors import BadInput
from models.svd.in_chunks import Work, apply_in_chunks, measure_moments, recompute_inputs

MIB = 2**20

IN_TRANSFORMER, IN_RESIDUAL = 64, 24
"""Numbers per channel and position that a chunk of each kind of block holds at its peak, backwards, gradients
included."""

PARKED_FROM = MIB
"""Bytes from which on a tensor is worth a way to host memory and back."""


@dataclass(frozen=True)
class Chunks:
    """How a UNet trains in chunks.

    mib: MiB that a chunk may take; a chunk is one frame, or one position, at least. blocks: keep the inputs of whole
    blocks alone. parked: keep them in host memory, where the UNet works on another device.
    """

    mib: float
    blocks: bool = False
    parked: bool = False


@contextmanager
def train_in_chunks(unet: UNetSpatioTemporalConditionModel, chunks: Chunks | None) -> Iterator[None]:
    """Have `unet` work in chunks for the length of a block, trained or not; None: as it is. Afterwards it is what it
    was before.

    Raises BadInput for a network with dropout, which would draw by chunk.
    """
    if chunks is None:
        yield
        return
    _refuse_dropout(unet)
    makers: dict[type[nn.Module], Callable[[Any, Chunks], Callable[..., Any]]] = {
        SpatioTemporalResBlock: _make_residual,
        TransformerSpatioTemporalModel: _make_transformer,
        Upsample2D: _make_by_frames,
        Downsample2D: _make_by_frames,
    }
    changed: list[tuple[nn.Module, Callable[..., Any]]] = [
        (module, makers[type(module)](module, chunks)) for module in unet.modules() if type(module) in makers
    ]
    try:
        for module, forward in changed:
            module.forward = forward
        with _parking(unet, chunks.parked):
            yield
    finally:
        for module, _ in changed:
            vars(module).pop("forward", None)


def _refuse_dropout(unet: nn.Module) -> None:
    for name, module in unet.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise BadInput(f"{name}: dropout of {module.p:g} cannot be trained in chunks. Train without dropout.")


def _make_residual(block: SpatioTemporalResBlock, chunks: Chunks) -> Callable[..., Tensor]:
    spatial, temporal, mixer = block.spatial_res_block, block.temporal_res_block, block.time_mixer

    def forward(hidden_states: Tensor, temb: Tensor, image_only_indicator: Tensor) -> Tensor:
        still = _over_frames(spatial, (hidden_states, temb), (spatial,), IN_RESIDUAL, chunks)
        clips, frames = image_only_indicator.shape
        flat = still.flatten(2)
        first = measure_moments(flat, frames, temporal.norm1.num_groups)

        def begin(seen: Tensor, level: Tensor, *moments: Tensor) -> Tensor:
            hidden = _convolve(temporal.conv1, _activate(temporal.norm1, _stack(seen, clips), moments))
            shift = cast(nn.Linear, temporal.time_emb_proj)(F.silu(level)).unflatten(0, (clips, frames))
            return _unstack(hidden + shift.transpose(1, 2)[..., None])

        begun = [temporal.norm1, temporal.conv1, cast(nn.Module, temporal.time_emb_proj)]
        hidden = _over_positions(begin, ((flat, 2), (temb, None), *_whole(first)), 2, begun, IN_RESIDUAL, chunks)
        second = measure_moments(hidden, frames, temporal.norm2.num_groups)

        def end(seen: Tensor, hidden: Tensor, *moments: Tensor) -> Tensor:
            clip = _stack(seen, clips)
            moved = clip + _convolve(temporal.conv2, _activate(temporal.norm2, _stack(hidden, clips), moments))
            return _unstack(mixer(clip[..., None], moved[..., None], image_only_indicator)[..., 0])

        ended = [temporal.norm2, temporal.conv2, mixer]
        made = _over_positions(end, ((flat, 2), (hidden, 2), *_whole(second)), 2, ended, IN_RESIDUAL, chunks, flat)
        return made.view_as(still)

    _check_temporal(temporal)
    return partial(recompute_inputs, forward) if chunks.blocks else forward


def _check_temporal(temporal: TemporalResnetBlock) -> None:
    """Raise BadInput for a temporal block of another shape than the UNet's are."""
    if temporal.conv_shortcut is not None or temporal.time_emb_proj is None:
        raise BadInput("A temporal residual block changes its width or sees no noise level: it cannot train in chunks.")


def _make_transformer(whole: TransformerSpatioTemporalModel, chunks: Chunks) -> Callable[..., tuple[Tensor]]:
    spatials, temporals = (cast(Iterable[nn.Module], each) for each in _list_blocks(whole))
    blocks = list(zip(spatials, temporals, strict=True))

    def forward(hidden_states: Tensor, encoder_hidden_states: Tensor, image_only_indicator: Tensor) -> Tensor:
        clips, frames = image_only_indicator.shape
        height, width = hidden_states.shape[-2:]
        # Like diffusers: layers over time see the context of their clip's first frame.
        context = encoder_hidden_states.unflatten(0, (clips, frames))[:, 0]
        places = _embed_places(whole, clips, frames, hidden_states)
        tokens, before = hidden_states, hidden_states.flatten(2)

        for number, (spatial, temporal) in enumerate(blocks):
            first, last = number == 0, number == len(blocks) - 1

            def look(seen: Tensor, told: Tensor, spatial: nn.Module = spatial, first: bool = first) -> Tensor:
                if first:
                    seen = whole.proj_in(whole.norm(seen).flatten(2).transpose(1, 2))
                return spatial(seen, encoder_hidden_states=told)

            def move(
                seen: Tensor,
                before: Tensor,
                places: Tensor,
                told: Tensor,
                temporal: nn.Module = temporal,
                last: bool = last,
            ) -> Tensor:
                around = told[:, None].expand(-1, seen.shape[1], -1, -1).flatten(0, 1)
                moved = temporal(seen + places, num_frames=frames, encoder_hidden_states=around)
                mixed = whole.time_mixer(seen, moved, image_only_indicator)
                return before + whole.proj_out(mixed).transpose(1, 2) if last else mixed

            looking = [spatial, *([whole.norm, whole.proj_in] if first else [])]
            tokens = _over_frames(look, (tokens, encoder_hidden_states), looking, IN_TRANSFORMER, chunks)
            moving = [temporal, whole.time_mixer, *([whole.proj_out] if last else [])]
            inputs = ((tokens, 1), (before, 2), (places, None), (context, None))
            tokens = _over_positions(
                move, inputs, 2 if last else 1, moving, IN_TRANSFORMER, chunks, before if last else None
            )
        return tokens.unflatten(2, (height, width))

    inner = partial(recompute_inputs, forward) if chunks.blocks else forward

    def answer(
        hidden_states: Tensor, encoder_hidden_states: Tensor, image_only_indicator: Tensor, **_: object
    ) -> tuple[Tensor]:
        return (inner(hidden_states, encoder_hidden_states, image_only_indicator),)

    return answer


def _list_blocks(whole: TransformerSpatioTemporalModel) -> tuple[nn.Module, nn.Module]:
    return whole.transformer_blocks, whole.temporal_transformer_blocks


def _embed_places(whole: TransformerSpatioTemporalModel, clips: int, frames: int, like: Tensor) -> Tensor:
    """Return an embedding [clips * frames, 1, width] of each frame's place in its clip."""
    numbers = torch.arange(frames, device=like.device)
    return whole.time_pos_embed(whole.time_proj(numbers).to(like.dtype)).repeat(clips, 1)[:, None]


def _make_by_frames(layer: Upsample2D | Downsample2D, chunks: Chunks) -> Callable[..., Tensor]:
    whole = type(layer).forward

    def forward(hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return _over_frames(
            lambda seen: whole(cast(Any, layer), seen, *arguments, **named), (hidden_states,), (layer,), IN_RESIDUAL,
            chunks,
        )  # fmt: skip

    return forward


def _over_frames(
    run: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
    numbers: int,
    chunks: Chunks,
) -> Tensor:
    """Apply a layer over the picture: inputs and result have frames first."""
    frame = inputs[0][0]
    work = Work(run, (0,) * len(inputs), 0, _fit(frame.numel() * frame.itemsize * numbers, chunks))
    return apply_in_chunks(work, inputs, modules)


def _over_positions(
    run: Callable[..., Tensor],
    inputs: Sequence[tuple[Tensor, int | None]],
    out_axis: int,
    modules: Sequence[nn.Module],
    numbers: int,
    chunks: Chunks,
    ends_like: Tensor | None = None,
) -> Tensor:
    """Apply a layer over time: each input with its axis of positions, or None where it has none. `ends_like`: the
    result's shape, where the layer ends a block."""
    clip, axis = inputs[0]
    position = clip.numel() // clip.shape[cast(int, axis)]
    work = Work(
        run, tuple(axis for _, axis in inputs), out_axis, _fit(position * clip.itemsize * numbers, chunks)
    )  # fmt: skip
    return apply_in_chunks(work, [x for x, _ in inputs], modules, ends_like)


def _fit(each: int, chunks: Chunks) -> int:
    return max(1, int(chunks.mib * MIB) // each)


def _whole(tensors: Iterable[Tensor]) -> list[tuple[Tensor, None]]:
    return [(each, None) for each in tensors]


def _stack(seen: Tensor, clips: int) -> Tensor:
    """Put time beside the positions: [clips * frames, channels, positions] as [clips, channels, frames, positions]."""
    return seen.unflatten(0, (clips, -1)).transpose(1, 2)


def _unstack(clip: Tensor) -> Tensor:
    return clip.transpose(1, 2).flatten(0, 1)


def _activate(norm: nn.GroupNorm, clip: Tensor, moments: Sequence[Tensor]) -> Tensor:
    """Normalise `clip` [clips, channels, frames, positions] by moments [clips, groups], followed by SiLU."""
    mean, variance = (each.repeat_interleave(norm.num_channels // norm.num_groups, dim=1) for each in moments)
    gain = (variance + norm.eps).rsqrt() * norm.weight
    alike = torch.addcmul(norm.bias[:, None, None].to(gain.dtype), clip - mean[..., None, None], gain[..., None, None])
    return F.silu(alike.to(clip.dtype))


def _convolve(layer: nn.Conv3d, clip: Tensor) -> Tensor:
    return layer(clip[..., None])[..., 0]


@contextmanager
def _parking(unet: nn.Module, parked: bool) -> Iterator[None]:
    """Have what the backward pass needs wait in host memory while `unet` runs forwards."""
    if not parked:
        yield
        return
    whole = unet.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        with _on_host(unet):
            return whole(*arguments, **named)

    unet.forward = forward
    try:
        yield
    finally:
        vars(unet).pop("forward", None)


def _on_host(unet: nn.Module) -> saved_tensors_hooks:
    weights = {weight.data_ptr() for weight in unet.parameters()}

    def pack(kept: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        if kept.nbytes < PARKED_FROM or kept.data_ptr() in weights:
            return kept
        waiting = torch.empty(kept.shape, dtype=kept.dtype, pin_memory=kept.is_cuda)
        waiting.copy_(kept)
        return kept.device, waiting

    def unpack(kept: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[1].to(kept[0], non_blocking=True)

    return saved_tensors_hooks(pack, unpack)
