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

from models.device import CPU, format_device, measure_free_memory
from models.families.placement import choose_first_plan, weight_bytes
from models.generation.by_family import is_sampled_in_batches
from models.generation.card import ModelCard, read_card
from models.generation.model_cache import find_svd_folder
from models.memory.measured_costs import Cost, locate_costs, name_place, read_costs
from models.memory.plan import Plan, choose_decoding_plan, choose_sampling_plan
from models.memory.planner import find_folder_needs
from models.svd.regions import list_words
from models.weights.names import find_model_folder
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
    path = locate_costs()
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    costs = _read_costs(path, stamp, card.revision, device, job["dtype"])
    known = [cost for rung, cost in costs.items() if "decoded" not in rung]
    each = min((c.seconds for c in known), default=SECONDS_PER_CELL * card.denoiser_bytes / TINY_UNET_BYTES)
    disk = pixels * FILE_BYTES_PER_PIXEL[written] + cells * 16 + job["width"] * job["height"] * 3
    return Estimate(each * cells * job["steps"] * count_passes(job), bool(known), disk, 3.0 * pixels)


def count_passes(job: Mapping[str, Any]) -> int:
    """Return how often the UNet runs in one step of a resolved job, without guidance: once per region of its motion."""
    return max(1, len(list_words(job.get("word"))))


@cache
def _read_costs(path: Path, stamp: int, revision: str, device: torch.device, precision: str) -> Mapping[str, Cost]:
    return read_costs(name_place(revision, device, precision), path)


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


def plan_memory(job: Mapping[str, Any], device: torch.device = CPU, batch: int = 1, free: int | None = None) -> Memory:
    """Return the plans of models/memory/planner.py for one resolved job, in the free memory of the device or in `free`
    bytes."""
    card = _card(job["model"])
    height, width = (job[side] // card.rules.latent_scale for side in ("height", "width"))
    frames, folder, free = (
        job["frames"],
        find_svd_folder(job["model"]),
        measure_free_memory(device) if free is None else free,
    )
    at_once, whole = (
        find_folder_needs(folder, card.revision, (count, 4, height, width), job["dtype"], device)
        for count in (min(frames, card.rules.frames), frames)
    )
    plan, decoding = choose_sampling_plan(at_once, batch, free), choose_decoding_plan(whole, free)
    return Memory(plan, decoding, at_once.sampling(plan), whole.decoding(decoding))


def describe_plan(
    jobs: Sequence[Mapping[str, Any]], device: torch.device = CPU, batch: int = 1, written: Format = "h264"
) -> list[str]:
    """Return a line for each size and model of resolved jobs, with what its clips take; one for their total; one for
    each model; and one for each model that draws pictures."""
    names = ("model", "frames", "width", "height", "steps", "dtype")

    def alike(job: Mapping[str, Any]) -> tuple[Any, ...]:
        return *(job[name] for name in names), count_passes(job)

    lines, seconds, disk = [], 0.0, 0.0
    where, timed = format_device(device), True
    for _, group in groupby(sorted(jobs, key=alike), key=alike):
        job, *others = group
        clips, each = 1 + len(others), estimate(job, device, written)
        timed &= each.measured or device == CPU
        seconds, disk = (
            seconds + clips * each.seconds * (1 + DECODE_SHARE * (1 + ENCODE_SHARE)),
            disk + clips * each.disk,
        )
        steps = f"{job['steps']} steps" + (f" in {count_passes(job)} regions" if count_passes(job) > 1 else "")
        lines.append(
            f"{clips} of {job['frames']} frames of {job['width']}x{job['height']}, {steps}, by"
            f" {job['model']}: {_format_time(each, device)} each; {_describe_memory(job, device, batch)}"
        )
    total = (
        f"about {format_duration(seconds)} on {'one core' if device == CPU else where}"
        if timed
        else "time not measured yet"
    )
    total = f"total: {total}, {disk / 1e6:.1f} MB on disk"
    return [*lines, total, *_describe_models(jobs), *_describe_drawers(jobs)] if lines else []


def _describe_memory(job: Mapping[str, Any], device: torch.device, batch: int) -> str:
    if is_sampled_in_batches(_card(job["model"]).family):
        return str(plan_memory(job, device, batch))
    weights = weight_bytes(find_model_folder(job["model"]), job["dtype"])
    plan = choose_first_plan(weights, measure_free_memory(device), device)
    return f"{plan}, one at a time, {sum(weights.values()) / 1e9:.1f} GB of weights"


def _describe_models(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model: its family, its inputs, and its rules."""
    cards = {name: _card(name) for name in sorted({job["model"] for job in jobs})}
    return [f"{name}: {card.family}; {card.inputs}; {card.rules}" for name, card in cards.items()]


def _describe_drawers(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model that draws pictures from texts first."""
    drawn = {(job["picture_model"], job["job"]) for job in jobs if job.get("picture_model")}
    counts = Counter(model for model, _ in drawn)
    return [f"{count} of the pictures are drawn first, by {model}" for model, count in sorted(counts.items())]


def _format_time(each: Estimate, device: torch.device) -> str:
    if not each.measured and device != CPU:
        return f"not measured yet on {format_device(device)}"
    return f"about {format_duration(each.seconds)}{' as measured' if each.measured else ''}"


def format_duration(seconds: float) -> str:
    """Format a length of time in the largest fitting unit."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
