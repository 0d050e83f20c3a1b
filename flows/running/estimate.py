"""Estimates of the time, memory and disk that clips take, from the size of a job, its model and the device.

Memory, and the plan for the free memory, come from models/memory/planner.py. Times are those measured on the device
where the model has run there before, else those of the embedded model on one core, scaled. They divide work into chunks
and appear in the plan that `--dry-run` prints; no result depends on them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from models.device import CPU, device_label, free_bytes
from models.families.placement import first_plan, weight_bytes
from models.generation.by_family import sampled_in_batches
from models.generation.card import ModelCard, read_card
from models.generation.model_cache import model_folder
from models.memory.measured_costs import Cost, costs_file, costs_of, place_of
from models.memory.plan import Plan, decoding_plan, sampling_plan
from models.memory.planner import needs_of_folder
from models.svd.regions import words_in
from models.weights.names import any_model_folder
from tasks.generate.encode_formats import Format

SECONDS_PER_CELL = 6.5e-5
"""Seconds for one latent cell of one frame in one denoising step, with guidance."""

TINY_UNET_BYTES = 4.28e6
"""The stored size of the embedded model's UNet; time grows with the number of weights."""

DECODE_SHARE = 0.09
"""The time of decoding and measuring a clip, as a share of sampling it."""

ENCODE_SHARE = 0.33
"""The time of encoding a clip, as a share of decoding and measuring it."""

DRAWING_S = 5.0
"""Seconds for drawing a picture; only the division of work into pieces depends on it."""

FILE_BYTES_PER_PIXEL: Mapping[Format, float] = {
    "h264": 0.25, "hevc": 0.25, "av1": 0.25, "webp": 0.5, "gif": 1.2, "png": 3.1,
}  # fmt: skip
"""The most bytes of a clip for each pixel of each frame, at the default quality."""


@dataclass(frozen=True)
class Estimate:
    """What a clip takes: seconds, `measured` on this device or scaled from one core; bytes on disk; and the bytes of
    frames that wait for their encoding (`parked`)."""

    seconds: float
    measured: bool
    disk: float
    parked: float


_card = cache(read_card)


def estimate(job: Mapping[str, Any], device: torch.device = CPU, written: Format = "h264") -> Estimate:
    """Estimate one resolved job whose clip is written in the format `written`; its model is read from disk once."""
    card: ModelCard = _card(job["model"])
    pixels = job["frames"] * job["width"] * job["height"]
    cells = pixels / card.rules.cell
    path = costs_file()
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    costs = _costs(path, stamp, card.revision, device, job["dtype"])
    known = [cost for rung, cost in costs.items() if "decoded" not in rung]
    each = min((c.seconds for c in known), default=SECONDS_PER_CELL * card.denoiser_bytes / TINY_UNET_BYTES)
    disk = pixels * FILE_BYTES_PER_PIXEL[written] + cells * 16 + job["width"] * job["height"] * 3
    return Estimate(each * cells * job["steps"] * passes(job), bool(known), disk, 3.0 * pixels)


def passes(job: Mapping[str, Any]) -> int:
    """Return how often the UNet runs in one step of a resolved job, without guidance: once per region of its motion."""
    return max(1, len(words_in(job.get("word"))))


@cache
def _costs(path: Path, stamp: int, revision: str, device: torch.device, precision: str) -> Mapping[str, Cost]:
    return costs_of(place_of(revision, device, precision), path)


@dataclass(frozen=True)
class Memory:
    """The plans for sampling and decoding clips in the memory that is free now, and the bytes that each takes."""

    sampling: Plan
    decoding: Plan
    sampling_bytes: int
    decoding_bytes: int

    def __str__(self) -> str:
        at_most = max(self.sampling_bytes, self.decoding_bytes) / 1e9
        strips = self.decoding.strip_mib
        decoded = f"decoded in strips of {strips} MiB" if strips else "decoded whole"
        return f"{self.sampling}, {decoded}, about {at_most:.1f} GB of memory"


def memory_of(job: Mapping[str, Any], device: torch.device = CPU, batch: int = 1, free: int | None = None) -> Memory:
    """Return the plans of models/memory/planner.py for one resolved job, in the free memory of the device or in `free`
    bytes."""
    card = _card(job["model"])
    height, width = (job[side] // card.rules.latent_scale for side in ("height", "width"))
    frames, folder, free = job["frames"], model_folder(job["model"]), free_bytes(device) if free is None else free
    at_once, whole = (
        needs_of_folder(folder, card.revision, (count, 4, height, width), job["dtype"], device)
        for count in (min(frames, card.rules.frames), frames)
    )
    plan, decoding = sampling_plan(at_once, batch, free), decoding_plan(whole, free)
    return Memory(plan, decoding, at_once.sampling(plan), whole.decoding(decoding))


def plan_lines(
    jobs: Sequence[Mapping[str, Any]], device: torch.device = CPU, batch: int = 1, written: Format = "h264"
) -> list[str]:
    """Return a line for each size and model of resolved jobs, with what its clips take; one for their total; one for
    each model; and one for each model that draws pictures."""
    names = ("model", "frames", "width", "height", "steps", "dtype")

    def alike(job: Mapping[str, Any]) -> tuple[Any, ...]:
        return *(job[name] for name in names), passes(job)

    lines, seconds, disk = [], 0.0, 0.0
    where, timed = device_label(device), True
    for _, group in groupby(sorted(jobs, key=alike), key=alike):
        job, *others = group
        clips, each = 1 + len(others), estimate(job, device, written)
        timed &= each.measured or device == CPU
        seconds, disk = (
            seconds + clips * each.seconds * (1 + DECODE_SHARE * (1 + ENCODE_SHARE)),
            disk + clips * each.disk,
        )
        steps = f"{job['steps']} steps" + (f" in {passes(job)} regions" if passes(job) > 1 else "")
        lines.append(
            f"{clips} of {job['frames']} frames of {job['width']}x{job['height']}, {steps}, by"
            f" {job['model']}: {_time(each, device)} each; {_memory(job, device, batch)}"
        )
    total = f"about {spoken(seconds)} on {'one core' if device == CPU else where}" if timed else "time not measured yet"
    total = f"total: {total}, {disk / 1e6:.1f} MB on disk"
    return [*lines, total, *_models(jobs), *_drawers(jobs)] if lines else []


def _memory(job: Mapping[str, Any], device: torch.device, batch: int) -> str:
    if sampled_in_batches(_card(job["model"]).family):
        return str(memory_of(job, device, batch))
    weights = weight_bytes(any_model_folder(job["model"]), job["dtype"])
    plan = first_plan(weights, free_bytes(device), device)
    return f"{plan}, one at a time, {sum(weights.values()) / 1e9:.1f} GB of weights"


def _models(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model: its family, its inputs, and its rules."""
    cards = {name: _card(name) for name in sorted({job["model"] for job in jobs})}
    return [f"{name}: {card.family}; {card.inputs}; {card.rules}" for name, card in cards.items()]


def _drawers(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model that draws pictures from texts first."""
    drawn = {(job["picture_model"], job["job"]) for job in jobs if job.get("picture_model")}
    counts = Counter(model for model, _ in drawn)
    return [f"{count} of the pictures are drawn first, by {model}" for model, count in sorted(counts.items())]


def _time(each: Estimate, device: torch.device) -> str:
    if not each.measured and device != CPU:
        return f"not measured yet on {device_label(device)}"
    return f"about {spoken(each.seconds)}{' as measured' if each.measured else ''}"


def spoken(seconds: float) -> str:
    """Format a length of time in the largest fitting unit."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
