"""Decoding a clip's latents in bounded memory, with the result of decoding it whole (to float tolerance).

Stable Video Diffusion's decoder cannot be cut into chunks of frames: its temporal group normalisations see every frame,
its temporal convolutions the neighbours, its spatial ones the whole picture's statistics. So it runs layer by layer.
Each layer goes over the clip in strips of rows that fit the budget, with the rows of the neighbouring strips that its
kernel reaches. Statistics come from sums over the whole layer before. Between layers the activations are stored off the
device (models/svd/strip_store.py). Device memory is the budget and the weights, however long the clip is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import BadModel
from models.svd.strip_store import Parked, Rows

COPIES_IN, COPIES_OUT = 3, 2
"""Strips of its input and of its output that a convolution holds at once: as read, as activated, as laid out for it."""


@dataclass(frozen=True)
class Room:
    """Where a decode may work: `budget` bytes on the device for strips, and `folder` for stored activations (None: host
    memory)."""

    budget: int
    folder: Path | None = None


@torch.no_grad()
def decode_exactly(vae: AutoencoderKLTemporalDecoder, latents: Tensor, room: Room) -> Tensor:
    """Decode one clip's unscaled latents [frames, channels, h, w]; return frames [frames, 3, H, W] on the CPU."""
    decoder = vae.decoder
    x = _convolve(decoder.conv_in, _park(latents, room), room)
    for layer in _list_layers(decoder):
        match layer:
            case SpatioTemporalResBlock():
                x = _apply_residual(layer, x, room)
            case Attention():
                _attend(layer, x, room)
            case Upsample2D():
                x = _upsample(layer, x, room)
            case _:
                raise BadModel(f"The decoder has a {type(layer).__name__}, which cannot be run in strips.")
    x = _convolve(decoder.conv_out, x, room, _make_activation(x, decoder.conv_norm_out))
    frames = torch.empty(x.frames, x.channels, x.height, x.width, dtype=x.dtype)
    for start, end in _cut_strips(x.height, x.frames * _count_row_bytes(x, x.channels), room):
        frames[:, :, start:end] = decoder.time_conv_out(x.read_clip((start, end)))[0].transpose(0, 1).cpu()
    x.close()
    return frames


def _list_layers(decoder: TemporalDecoder) -> Iterator[nn.Module]:
    """Yield the decoder's layers between its first and its last convolution, in order."""
    mid = cast(Any, decoder.mid_block)
    yield mid.resnets[0]
    for attention, block in zip(mid.attentions, mid.resnets[1:], strict=False):
        yield from (attention, block)
    for up in cast(Any, decoder.up_blocks):
        yield from up.resnets
        yield from up.upsamplers or ()


def _park(latents: Tensor, room: Room) -> Parked:
    frames, channels, height, width = latents.shape
    x = Parked((frames, channels, height, width), latents.dtype, latents.device, room.folder)
    for frame in range(frames):
        x.write(frame, (0, height), latents[frame : frame + 1])
    return x


Activate = Callable[[Tensor, int | None], Tensor]
"""Normalise and activate a strip of a frame, or of the clip where the frame is None."""


def _make_activation(x: Parked, norm: nn.GroupNorm, whole_clip: bool = False) -> Activate:
    """Return group normalisation, with the statistics that `x` has now, followed by SiLU."""
    scale, shift = x.normalisation(norm, whole_clip)

    def activate(strip: Tensor, frame: int | None) -> Tensor:
        shape = (1, -1, *(1,) * (strip.ndim - 2))
        row = frame or 0
        return F.silu((strip * scale[row].view(shape)).add_(shift[row].view(shape)), inplace=True)

    return activate


def _convolve(conv: nn.Conv2d, x: Parked, room: Room, activate: Activate | None = None) -> Parked:
    """Apply a 3x3 convolution to every frame; free `x`."""
    out = x.like(conv.out_channels, x.height, x.width, room.folder)
    for frame in range(x.frames):
        for rows in _cut_strips(x.height, _count_row_bytes(x, conv.out_channels), room):
            out.write(frame, rows, _convolve_strip(conv, x, frame, rows, activate))
    x.close()
    return out


def _convolve_strip(conv: nn.Conv2d, x: Parked, frame: int, rows: Rows, activate: Activate | None) -> Tensor:
    """Compute some rows of a 3x3 convolution's output: one more row is read on each side, where the picture has one."""
    above, below = min(1, rows[0]), min(1, x.height - rows[1])
    strip = x.read(frame, (rows[0] - above, rows[1] + below))
    seen = activate(strip, frame) if activate else strip
    return conv(seen)[:, :, above : above + rows[1] - rows[0]]


def _apply_residual(block: SpatioTemporalResBlock, x: Parked, room: Room) -> Parked:
    """Apply a spatial residual block to every frame, then a temporal one, mixed as the block has learned."""
    mixer = block.time_mixer
    factor = cast(Tensor, mixer.mix_factor)
    alpha = torch.sigmoid(factor) if mixer.merge_strategy == "learned" else factor
    spatial_share = 1 - alpha if mixer.switch_spatial_to_temporal_mix else alpha
    y, hidden = _apply_spatial(block.spatial_res_block, x, room)
    _apply_temporal(block.temporal_res_block, y, hidden, spatial_share, room)
    hidden.close()
    return y


def _apply_spatial(block: ResnetBlock2D, x: Parked, room: Room) -> tuple[Parked, Parked]:
    """Return the block's output, written over `x` where it fits there, and a store of the output's size."""
    channels = block.out_channels
    hidden = x.like(channels, x.height, x.width, room.folder)
    activate = _make_activation(x, block.norm1)
    strips = list(_cut_strips(x.height, _count_row_bytes(x, channels), room))
    for frame in range(x.frames):
        for rows in strips:
            hidden.write(frame, rows, _convolve_strip(block.conv1, x, frame, rows, activate))
    activate = _make_activation(hidden, block.norm2)
    y = x if block.conv_shortcut is None else x.like(channels, x.height, x.width, room.folder)
    y.start()
    for frame in range(x.frames):
        for rows in strips:
            skipped = x.read(frame, rows)
            kept = skipped if block.conv_shortcut is None else block.conv_shortcut(skipped)
            y.write(frame, rows, kept + _convolve_strip(block.conv2, hidden, frame, rows, activate))
    if y is not x:
        x.close()
    return y, hidden


def _apply_temporal(block: TemporalResnetBlock, y: Parked, hidden: Parked, spatial_share: Tensor, room: Room) -> None:
    """Apply the block over time, in place: its kernels reach no neighbouring pixel, so a strip has every frame."""
    strips = list(_cut_strips(y.height, y.frames * _count_row_bytes(y, y.channels), room))
    activate = _make_activation(y, block.norm1, whole_clip=True)
    hidden.start()
    for rows in strips:
        hidden.write_clip(rows, block.conv1(activate(y.read_clip(rows), None)))
    activate = _make_activation(hidden, block.norm2, whole_clip=True)
    y.start()
    for rows in strips:
        spatial = y.read_clip(rows)
        temporal = spatial + block.conv2(activate(hidden.read_clip(rows), None))
        y.write_clip(rows, spatial_share * spatial + (1 - spatial_share) * temporal)


def _attend(attention: Attention, x: Parked, room: Room) -> None:
    """Apply self-attention within each frame, in place; queries go in chunks, keys and values are whole."""
    scale, shift = x.normalisation(cast(nn.GroupNorm, attention.group_norm), whole_clip=False)
    projections = cast(list[nn.Linear], [attention.to_q, attention.to_k, attention.to_v])
    project_out = cast(nn.ModuleList, attention.to_out)[0]
    x.start()
    pixels = x.height * x.width
    size = max(1, room.budget // (2 * pixels * attention.heads * x.dtype.itemsize))
    for frame in range(x.frames):
        before = x.read(frame, (0, x.height)).flatten(2).transpose(1, 2)
        seen = before * scale[frame] + shift[frame]
        query, key, value = (_split_heads(project(seen), attention.heads) for project in projections)
        parts = [F.scaled_dot_product_attention(part, key, value) for part in query.split(size, dim=2)]
        together = torch.cat(parts, dim=2).transpose(1, 2).flatten(2)
        after = (before + project_out(together)) / attention.rescale_output_factor
        x.write(frame, (0, x.height), after.transpose(1, 2).unflatten(2, (x.height, x.width)))


def _split_heads(values: Tensor, heads: int) -> Tensor:
    return values.unflatten(2, (heads, -1)).transpose(1, 2)


def _upsample(upsampler: Upsample2D, x: Parked, room: Room) -> Parked:
    """Double the size of every frame, by repeated pixels and a 3x3 convolution; free `x`."""
    conv = upsampler.conv
    assert isinstance(conv, nn.Conv2d)
    out = x.like(conv.out_channels, 2 * x.height, 2 * x.width, room.folder)
    for frame in range(x.frames):
        for start, end in _cut_strips(x.height, 4 * _count_row_bytes(x, conv.out_channels), room):
            above, below = min(1, start), min(1, x.height - end)
            large = F.interpolate(x.read(frame, (start - above, end + below)), scale_factor=2.0, mode="nearest")
            out.write(frame, (2 * start, 2 * end), conv(large)[:, :, 2 * above : 2 * (above + end - start)])
    x.close()
    return out


def _count_row_bytes(x: Parked, out_channels: int) -> int:
    """Return the bytes that one row of one frame takes on the device in a convolution of `x`."""
    return (COPIES_IN * x.channels + COPIES_OUT * out_channels) * x.width * x.dtype.itemsize


def _cut_strips(height: int, row_bytes: int, room: Room) -> Iterator[Rows]:
    """Yield strips of rows that fit the budget, the two rows beyond their ends included; at least one row each."""
    size = max(1, room.budget // row_bytes - 2)
    return ((start, min(height, start + size)) for start in range(0, height, size))
