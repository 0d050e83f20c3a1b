"""The noise of an item: drawn on the CPU from the run's seed, the item's key and the take, and from nothing else.

Batch size, order, device, neighbours and interruptions never change a bit of it. Each use has its own stream, so that
the noise on a picture, or the noise that draws one, never shifts the noise that becomes the clip.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Stream = Literal["latents", "augmentation", "picture", "decoding"]


@dataclass(frozen=True)
class Noise:
    """Standard normal float32 of one item: latents [frames, channels, h, w] and augmentation [3, height, width]."""

    latents: Tensor
    augmentation: Tensor


def make_item_generator(run_seed: int, item_key: str, take: int, stream: Stream) -> torch.Generator:
    """Make a CPU generator at the start of one stream of one take of one item, seeded from SHA-256 of the four.

    torch uses 32 bits of a seed: with 9,000 streams, about one run in a hundred has two equal ones, which gives two
    items the same noise and does no harm.
    """
    name = json.dumps([run_seed, item_key, take, stream], separators=(",", ":"))
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.Generator("cpu").manual_seed(seed)


def draw_item_noise(
    run_seed: int, item_key: str, take: int, latents: tuple[int, int, int, int], picture: tuple[int, int]
) -> Noise:
    """Draw the noise of one item for latents of shape [frames, channels, h, w] and a picture of (height, width)."""
    return Noise(
        latents=torch.randn(latents, generator=make_item_generator(run_seed, item_key, take, "latents")),
        augmentation=torch.randn(
            (3, *picture), generator=make_item_generator(run_seed, item_key, take, "augmentation")
        ),
    )


def stack_noise(items: Sequence[Noise]) -> Noise:
    """Return the noise of a batch, with the batch as first dimension of both."""
    return Noise(torch.stack([i.latents for i in items]), torch.stack([i.augmentation for i in items]))
