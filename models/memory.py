"""Memory: what sampling a clip takes, how much of it is free, and what to try next when it was too much after all.

A plan changes where and in what pieces the same numbers are computed, never which: pixels agree to float tolerance.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.attention import FeedForward
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.exact_decode import Room
from models.sampling import decode_latents
from models.svd import VideoModel

log = logging.getLogger("reelmill")

MIB = 2**20

LatentShape = tuple[int, int, int, int]
"""[frames, channels, h, w] of a clip's latents."""

LARGEST_PIECE, SMALLEST_PIECE = 16384, 256
"""Tokens that a feed-forward layer takes at a time, on the first and on the last rung that cuts it."""

LARGEST_STRIP_MIB, SMALLEST_STRIP_MIB = 512, 16

USABLE = 0.8
"""Share of the free memory that a plan counts on; the rest is for what it cannot see."""


class Plan(BaseModel):
    """How a batch of clips is sampled and how a clip is decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1, description="Clips sampled together")
    feed_forward: int | None = Field(default=None, ge=1, description="Tokens of a feed-forward layer at a time; or all")
    strip_mib: int | None = Field(default=None, ge=1, description="MiB for strips of a clip to decode; or it whole")

    def __str__(self) -> str:
        pieces = f", feed-forward in pieces of {self.feed_forward} tokens" if self.feed_forward else ""
        strips = f", decoded in strips of {self.strip_mib} MiB" if self.strip_mib else ""
        return f"batch {self.batch}{pieces}{strips}"


def sampling_plan(unet: UNetSpatioTemporalConditionModel, shape: LatentShape, batch: int, free: int) -> Plan:
    """The plan that samples up to `batch` clips of latents `shape` together in `free` bytes."""
    usable = int(USABLE * free)
    each = sampling_bytes(unet, shape)
    fits = max(1, min(batch, usable // each))
    return Plan(batch=fits, feed_forward=None if each <= usable else LARGEST_PIECE)


def decoding_plan(vae: AutoencoderKLTemporalDecoder, shape: LatentShape, free: int) -> Plan:
    """The plan that decodes one clip of latents `shape` in `free` bytes."""
    usable = int(USABLE * free)
    if decoding_bytes(vae, shape) <= usable:
        return Plan()
    return Plan(strip_mib=max(SMALLEST_STRIP_MIB, min(LARGEST_STRIP_MIB, usable // (4 * MIB))))


def sampling_bytes(unet: UNetSpatioTemporalConditionModel, shape: LatentShape) -> int:
    """About what one clip takes in one denoising step, beside the weights: estimated from the network's widths.

    The widest moment is the feed-forward of the first level (its gated hidden layer is eight widths wide), on top of
    what the levels above keep for their skip connections.
    """
    frames, _, height, width = shape
    widths = unet.config["block_out_channels"]
    layers = unet.config["layers_per_block"]
    layers = layers if isinstance(layers, int) else max(layers)
    cells = frames * height * width
    kept = sum((layers + 1) * channels * cells // 4**level for level, channels in enumerate(widths))
    return (kept + 16 * widths[0] * cells) * (unet.dtype or torch.float32).itemsize


def decoding_bytes(vae: AutoencoderKLTemporalDecoder, shape: LatentShape) -> int:
    """About what one clip takes when it is decoded whole: its last blocks, at full size, of every frame."""
    frames, _, height, width = shape
    widths = (*vae.config["block_out_channels"], vae.config["block_out_channels"][-1])
    pixels = frames * height * width * 4 ** (len(widths) - 2)
    return (4 * widths[0] + 3 * widths[1]) * pixels * (vae.dtype or torch.float32).itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()


def next_rung(plan: Plan) -> Plan | None:
    """The next plan for sampling, that needs less memory; None when there is none."""
    if plan.batch > 1:
        return plan.model_copy(update={"batch": plan.batch // 2})
    if plan.feed_forward is None:
        return plan.model_copy(update={"feed_forward": LARGEST_PIECE})
    if plan.feed_forward > SMALLEST_PIECE:
        return plan.model_copy(update={"feed_forward": max(SMALLEST_PIECE, plan.feed_forward // 4)})
    return None


def next_strip(plan: Plan) -> Plan | None:
    """The next plan for decoding, in strips, then in strips a quarter as large; None when there is none."""
    if plan.strip_mib is None:
        return plan.model_copy(update={"strip_mib": LARGEST_STRIP_MIB})
    if plan.strip_mib <= SMALLEST_STRIP_MIB:
        return None
    return plan.model_copy(update={"strip_mib": max(SMALLEST_STRIP_MIB, plan.strip_mib // 4)})


def decode_within_memory(
    model: VideoModel, latents: Tensor, parking: Path
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """A clip's frames as models.sampling.decode_latents gives them, the plan that did it, and those too large before.

    Activations that host memory cannot hold are parked in a file without a name in the folder `parking`.
    """
    shape = cast(LatentShape, tuple(latents.shape))
    plan, too_large = decoding_plan(model.vae, shape, free_bytes(model.vae.device)), []
    while True:
        try:
            return decode_latents(model, latents, _room(plan, model.vae, shape, parking)), plan, too_large
        except (RuntimeError, MemoryError) as error:
            lower = next_strip(plan) if is_out_of_memory(error) else None
            if lower is None:
                raise
            log.warning("decoding: out of memory; tried again as %s.", lower)
            too_large.append(plan)
            plan = lower


def _room(plan: Plan, vae: AutoencoderKLTemporalDecoder, shape: LatentShape, parking: Path) -> Room | None:
    if plan.strip_mib is None:
        return None
    parked = decoding_bytes(vae, shape) // 2
    in_memory = parked < USABLE / 2 * free_bytes(torch.device("cpu"))
    return Room(plan.strip_mib * MIB, None if in_memory else parking)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def feed_forward_in_pieces(unet: nn.Module, tokens: int | None) -> Iterator[None]:
    """For the length of a block, feed-forward layers take so many tokens at a time; None: all of them."""
    layers = [layer for layer in unet.modules() if isinstance(layer, FeedForward)] if tokens else []
    try:
        for layer in layers:
            layer.forward = _in_pieces(layer, tokens or 1)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _in_pieces(layer: FeedForward, tokens: int):
    whole = type(layer).forward

    def forward(hidden_states: Tensor, *arguments: object, **named: object) -> Tensor:
        flat = hidden_states.flatten(0, -2)
        return torch.cat([whole(layer, piece) for piece in flat.split(tokens)]).view(*hidden_states.shape[:-1], -1)

    return forward


def _reclaimable() -> int:
    """Memory of the page cache, which the system gives up when asked, in bytes; 0 where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    facts = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return max(0, facts.get("MemAvailable", 0) - facts.get("MemFree", 0))
