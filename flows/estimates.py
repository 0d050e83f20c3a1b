"""What generating clips is expected to take: time, memory and disk, from the size of a job and of its model.

The figures are those of the embedded model on one core, scaled; they cut work into chunks and fill the plan that
`--dry-run` prints, and no result depends on them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from models.card import FULL_WIDTH, ModelCard, read_card
from tasks.encoding import Format

SECONDS_PER_CELL = 6.5e-5
"""For one latent cell of one frame through one denoising step, with guidance."""

TINY_UNET_BYTES = 4.28e6
"""The embedded model's UNet as it is stored; time grows with the number of weights."""

DECODE_SHARE = 0.09
"""Decoding and measuring a clip, as a share of sampling it."""

ENCODE_SHARE = 0.33
"""Encoding a clip, as a share of decoding and measuring it."""

DRAWING_S = 5.0
"""Seconds of drawing a picture; only how the work is cut into pieces depends on it."""

BYTES_PER_PIXEL = 5_700
"""Memory that decoding a clip as a whole takes for each pixel of each frame: 5.2 GB for 8 frames of 256x448, measured
on the full-size decoder, whose layers at full resolution have FULL_WIDTH channels."""

FILE_BYTES_PER_PIXEL: Mapping[Format, float] = {
    "h264": 0.25, "hevc": 0.25, "av1": 0.25, "webp": 0.5, "gif": 1.2, "png": 3.1,
}  # fmt: skip
"""A clip's size for each pixel of each frame, at most, at the default quality."""


@dataclass(frozen=True)
class Estimate:
    """Seconds on one core, bytes of memory (where it is decoded as a whole), bytes on disk, and bytes that are there
    for a while: frames that wait for their encoding."""

    seconds: float
    memory: float
    disk: float
    parked: float


_card = cache(read_card)


def estimate(job: Mapping[str, Any], written: Format = "h264") -> Estimate:
    """What one resolved job takes, its clip written so; its model is read from disk once."""
    card: ModelCard = _card(job["model"])
    pixels = job["frames"] * job["width"] * job["height"]
    cells = pixels / card.rules.latent_scale**2 / card.rules.latent_frames
    sampling = SECONDS_PER_CELL * cells * job["steps"] * card.denoiser_bytes / TINY_UNET_BYTES
    disk = pixels * FILE_BYTES_PER_PIXEL[written] + cells * 16 + job["width"] * job["height"] * 3
    memory = 2 * card.weight_bytes + pixels * BYTES_PER_PIXEL * card.decoder_width / FULL_WIDTH
    return Estimate(sampling, memory, disk, 3.0 * pixels)


def plan_lines(jobs: Sequence[Mapping[str, Any]], written: Format = "h264") -> list[str]:
    """A line for each size and model among resolved jobs, with what its clips take, one for all of them, one for what
    each model is, and one for each model that draws pictures."""
    names = ("model", "frames", "width", "height", "steps")

    def alike(job: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(job[name] for name in names)

    lines, seconds, disk = [], 0.0, 0.0
    for (model, frames, width, height, steps), group in groupby(sorted(jobs, key=alike), key=alike):
        clips = len(list(group))
        each = estimate(dict(zip(names, (model, frames, width, height, steps), strict=True)), written)
        whole = each.seconds * (1 + DECODE_SHARE * (1 + ENCODE_SHARE))
        seconds, disk = seconds + clips * whole, disk + clips * each.disk
        lines.append(
            f"{clips} of {frames} frames of {width}x{height}, {steps} steps, by {model}:"
            f" about {spoken(each.seconds)} each, at most {each.memory / 1e9:.1f} GB of memory"
        )
    total = f"in all: about {spoken(seconds)} on one core, {disk / 1e6:.1f} MB on disk"
    return [*lines, total, *_models(jobs), *_drawers(jobs)] if lines else []


def _models(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each model: its family, what it is given, and its rules."""
    cards = {name: _card(name) for name in sorted({job["model"] for job in jobs})}
    return [f"{name}: {card.family}; {card.inputs}; {card.rules}" for name, card in cards.items()]


def _drawers(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each model that draws pictures from texts before."""
    drawn = [(job["picture_model"], job["job"]) for job in jobs if job["picture_model"]]
    counts = Counter(model for model, _ in set(drawn))
    return [f"{count} of the pictures are drawn first, by {model}" for model, count in sorted(counts.items())]


def spoken(seconds: float) -> str:
    """A length of time in the largest fitting unit."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
