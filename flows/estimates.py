"""What generating clips is expected to take: time, memory and disk, from the size of a job and of its model.

The figures are those of the embedded model on one core, scaled; they cut work into chunks and fill the plan that
`--dry-run` prints, and no result depends on them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from models.card import ModelCard, read_card
from models.regions import words_in

SECONDS_PER_CELL = 6.5e-5
"""For one latent cell of one frame through one denoising step, with guidance."""

TINY_UNET_BYTES = 4.28e6
"""The embedded model's UNet as it is stored; time grows with the number of weights."""

DECODE_SHARE = 0.12
"""Decoding, encoding and measuring a clip, as a share of sampling it."""

BYTES_PER_PIXEL = 5_700
"""Memory that decoding a clip as a whole takes for each pixel of each frame: 5.2 GB for 8 frames of 256x448, measured
on the full-size decoder, whose layers at full resolution have FULL_WIDTH channels."""

FULL_WIDTH = 128

VIDEO_BYTES_PER_PIXEL = 0.25
"""An mp4's size for each pixel of each frame, at most, at the default quality."""


@dataclass(frozen=True)
class Estimate:
    """Seconds on one core, bytes of memory (where it is decoded as a whole), and bytes on disk."""

    seconds: float
    memory: float
    disk: float


_card = cache(read_card)


def estimate(job: Mapping[str, Any]) -> Estimate:
    """What one resolved job takes; its model is read from disk once."""
    card: ModelCard = _card(job["model"])
    pixels = job["frames"] * job["width"] * job["height"]
    cells = pixels / card.latent_scale**2
    sampling = SECONDS_PER_CELL * cells * job["steps"] * passes(job) * card.unet_bytes / TINY_UNET_BYTES
    disk = pixels * VIDEO_BYTES_PER_PIXEL + cells * 16 + job["width"] * job["height"] * 3
    memory = 2 * card.weight_bytes + pixels * BYTES_PER_PIXEL * card.decoder_width / FULL_WIDTH
    return Estimate(sampling, memory, disk)


def passes(job: Mapping[str, Any]) -> int:
    """How often the UNet is run for one step of a resolved job, guidance aside: once for each region of its motion."""
    return max(1, len(words_in(job.get("word"))))


def plan_lines(jobs: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each size and model among resolved jobs, with what its clips take, and one for all of them."""

    def alike(job: Mapping[str, Any]) -> tuple[Any, ...]:
        return *(job[name] for name in ("model", "frames", "width", "height", "steps")), passes(job)

    lines, seconds, disk = [], 0.0, 0.0
    for (model, frames, width, height, steps, times), group in groupby(sorted(jobs, key=alike), key=alike):
        own = list(group)
        each = estimate(own[0])
        seconds, disk = seconds + len(own) * each.seconds * (1 + DECODE_SHARE), disk + len(own) * each.disk
        regions = f" in {times} regions" if times > 1 else ""
        lines.append(
            f"{len(own)} of {frames} frames of {width}x{height}, {steps} steps{regions}, by {model}:"
            f" about {spoken(each.seconds)} each, at most {each.memory / 1e9:.1f} GB of memory"
        )
    return [*lines, f"in all: about {spoken(seconds)} on one core, {disk / 1e6:.1f} MB on disk"] if lines else []


def spoken(seconds: float) -> str:
    """A length of time in the largest fitting unit."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
