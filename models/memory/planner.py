"""Memory: a model's plans on a device, made from what is free there now and what the model is known to take.

models/memory/plan.py has the plans and their ladder, models/memory/placement.py puts weights where a plan says,
models/memory/measured_costs.py keeps what was measured. No result depends on any of them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import CPU, Precision, Used, empty_cache, get_dtype, measure_free_memory, watch_costs
from models.errors import is_out_of_memory
from models.memory import plan as plans
from models.memory.measured_costs import Cost, Costs, learn_cost, name_place, read_costs
from models.memory.placement import WeightsTooLarge, count_placed_bytes, place_for_decoding
from models.memory.plan import MIB, USABLE, LatentShape, Needs, Networks, Offload, Plan, describe_networks
from models.svd.exact_decode import Room
from models.svd.model import PARTS, VideoModel
from models.svd.sampling import decode_latents
from models.weights.network import read_weight_sizes
from models.weights.pipeline_folder import read_config

FIXED_STRIP_MIB = 64
"""Small enough for any GPU that can sample at all."""

log = logging.getLogger("reelmill")

Made = TypeVar("Made")


def read_networks(model: VideoModel) -> Networks:
    """Return the networks of a loaded model: what its memory depends on."""
    parts = {"image_encoder": model.image_encoder, "vae": model.vae, "unet": model.unet}
    weights = {name: [(n, w.numel()) for n, w in part.named_parameters()] for name, part in parts.items()}
    return describe_networks(model.unet.config, model.vae.config, weights)


def read_folder_networks(folder: Path) -> Networks:
    """Return the networks of a model that is not loaded, from its configurations and the headers of its weight
    files."""
    weights = {part: read_weight_sizes(folder / part).items() for part in PARTS}
    return describe_networks(read_config(folder, "unet"), read_config(folder, "vae"), weights)


def find_folder_needs(
    folder: Path, revision: str, shape: LatentShape, precision: Precision, device: torch.device
) -> Needs:
    """Return what clips of latents `shape` take in a model that is not loaded."""
    known = read_costs(name_place(revision, device, precision))
    return _needs(read_folder_networks(folder), shape, get_dtype(precision).itemsize, device, known)


def find_needs(model: VideoModel, shape: LatentShape, device: torch.device = CPU) -> Needs:
    """Return what clips of latents `shape` take in a loaded model on a device: measured there, or else estimated."""
    known = read_costs(_place(model, device))
    return _needs(read_networks(model), shape, model.unet.dtype.itemsize, device, known)


def _needs(networks: Networks, shape: LatentShape, itemsize: int, device: torch.device, known: Costs) -> Needs:
    seen = {rung: cost.bytes for rung, cost in known.items() if cost.bytes}
    return Needs(networks, shape, itemsize, on_gpu=device != CPU, measured=seen)


def plan_sampling(model: VideoModel, shape: LatentShape, batch: int, device: torch.device = CPU) -> Plan:
    """Return the plan that samples up to `batch` clips of latents `shape` in what is free on the device now.

    Clips of more frames than the model makes at once are sampled in windows, which take no more than one.
    """
    at_once = (min(shape[0], model.facts.frames), *shape[1:])
    return plans.choose_sampling_plan(find_needs(model, at_once, device), batch, _count_free(model, device))


def find_lower_plan(plan: Plan, error: BaseException, device: torch.device = CPU) -> Plan | None:
    """Return the plan to try after an error; None where memory was not the cause, or there is no lower one."""
    if isinstance(error, WeightsTooLarge):
        return plans.find_next_placement(plan)
    return plans.find_next_rung(plan, device != CPU) if is_out_of_memory(error) else None


def run_within_memory(
    work: Callable[[Plan], Made],
    plan: Plan,
    lower: Callable[[Plan, BaseException], Plan | None],
    device: torch.device,
    doing: str,
) -> tuple[Made, Plan, list[Plan]]:
    """Do `work` by the first plan that does not run out of memory; return its result, that plan, and those that were
    too large.

    `lower` gives the plan to try after an error, or None to raise it; `doing` names the work in the log.
    """
    too_large: list[Plan] = []
    while True:
        try:
            return work(plan), plan, too_large
        except (RuntimeError, MemoryError) as error:
            below = lower(plan, error)
            if below is None:
                raise
        log.warning("%s: out of memory; tried again as %s.", doing, below)
        too_large.append(plan)
        plan = below
        # Only here is the error gone, and with it what its frames held.
        empty_cache(device)


def learn_sampling(model: VideoModel, plan: Plan, shape: tuple[int, ...], steps: int, used: Used) -> None:
    """Keep what sampling latents of `shape` [batch, frames, channels, h, w] by a plan took on the model's device."""
    clip = cast(LatentShape, (min(shape[1], model.facts.frames), *shape[2:]))
    needs = find_needs(model, clip, model.device)
    branches = shape[0] * (2 if plan.guidance_together else 1)
    # What was moved to the device meanwhile counts among the weights, which a plan adds by itself.
    moved = needs.weights(plan.offload) if plan.offload != "none" else 0
    own = None if used.peak is None or used.peak <= moved else (used.peak - moved) / (branches * needs.cells)
    seconds = used.seconds / (steps * shape[0] * shape[1] * shape[3] * shape[4])
    learn_cost(_place(model, model.device), plan.rung, Cost(seconds, own))


def decode_within_memory(
    model: VideoModel, latents: Tensor, parking: Path, device: torch.device = CPU
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """Decode a clip as models.svd.sampling.decode_latents does; return its frames, the plan that worked, and those too
    large before.

    Activations that host memory cannot hold go to a file without a name in the folder `parking`.
    """
    needs = find_needs(model, cast(LatentShape, tuple(latents.shape)), device)

    def decode(plan: Plan) -> NDArray[np.uint8]:
        with place_for_decoding(model, device, plan.offload) as ready, watch_costs(device) as used:
            frames = decode_latents(ready, latents, _make_room(plan, needs, parking))
        bytes_each = used.peak / needs.cells if used.peak else None
        learn_cost(_place(model, device), f"decoded {plan.rung}", Cost(used.seconds / needs.cells, bytes_each))
        return frames

    def lower(plan: Plan, error: BaseException) -> Plan | None:
        return plans.find_next_strip(plan, needs.on_gpu) if is_out_of_memory(error) else None

    return run_within_memory(
        decode, plans.choose_decoding_plan(needs, _count_free(model, device)), lower, device, "decoding"
    )


def decode_in_fixed_strips(
    model: VideoModel, latents: Tensor, parking: Path | None, offload: Offload = "none"
) -> NDArray[np.uint8]:
    """Decode a clip on the model's device in strips of one size: the same bits whatever memory is free."""
    with place_for_decoding(model, model.device, offload) as ready:
        return decode_latents(ready, latents, Room(FIXED_STRIP_MIB * MIB, parking))


def _place(model: VideoModel, device: torch.device) -> str:
    return name_place(model.revision, device, str(model.unet.dtype).removeprefix("torch."))


def _count_free(model: VideoModel, device: torch.device) -> int:
    """Return the bytes free on a device, what the model holds there already included."""
    parts = (model.image_encoder, model.vae, model.unet)
    return measure_free_memory(device) + (count_placed_bytes(parts, device) if device != CPU else 0)


def _make_room(plan: Plan, needs: Needs, parking: Path) -> Room | None:
    if plan.strip_mib is None:
        return None
    in_memory = needs.whole_clip() // 2 < USABLE / 2 * measure_free_memory(CPU)
    return Room(plan.strip_mib * MIB, None if in_memory else parking)
