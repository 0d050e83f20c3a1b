"""A clip by whatever family its model's folder belongs to, through diffusers' own pipeline, one at a time.

Stable Video Diffusion has a sampler of this project's own, in batches: models/sampling.py.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.costs import Cost, learn_cost, place_of
from models.device import CPU, Precision, empty_cache, free_bytes, is_out_of_memory, measured
from models.errors import BadModel
from models.families import svd
from models.families.placing import (
    decoding_plans,
    first_plan,
    held_bytes,
    ready_to_decode,
    ready_to_sample,
    weight_bytes,
)
from models.families.rules import MotionLora, Request
from models.loaded import Lent, lent_pipeline, waited_for_model
from models.memory import decode_within_memory
from models.named import any_model_folder
from models.plan import Plan

log = logging.getLogger("reelmill")


def sampled_in_batches(family: str) -> bool:
    """Whether a family is sampled by models/sampling.py; the others are sampled here."""
    return family == svd.NAME


def request_of(job: Mapping[str, Any], picture: NDArray[np.uint8] | None = None, lora: str | None = None) -> Request:
    """What a job's columns ask of its family; guidance is that of the last frame. `picture` and `lora`: if it has."""
    strength = 1.0 if job.get("lora_strength") is None else job["lora_strength"]
    return Request(
        seed=job["seed"],
        item_key=job["key"],
        take=job["take"],
        frames=job["frames"],
        width=job["width"],
        height=job["height"],
        prompt=job["prompt"],
        negative=job["negative_prompt"],
        picture=picture,
        motion=(MotionLora(Path(lora), strength),) if lora else (),
        steps=job["steps"],
        guidance=job["guidance_max"],
        fps=job["fps"],
    )


def plan_by_family(model: str, precision: Precision, device: torch.device) -> Plan:
    """The plan to begin with, in what is free on the device now, what the model holds there included."""
    if device == CPU:
        return Plan()
    with lent_pipeline(model, precision) as lent:
        free = free_bytes(device) + held_bytes(lent.pipeline, device)
        return first_plan(weight_bytes(any_model_folder(model), precision), free, device)


def sample_by_family(
    model: str,
    revision: str,
    request: Request,
    plan: Plan,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> Tensor:
    """The request's latents, float32 [latent frames, channels, h, w], by the model and the plan that were chosen.

    Raises BadModel when its files are no longer of `revision`, BadInput when the request does not fit, and
    WeightsTooLarge when the weights that the plan wants on the device do not.
    """
    with lent_pipeline(model, precision) as lent:
        if lent.revision != revision:
            raise BadModel(f"{model}: the model's files changed while it was in use. Start the run again.")
        if "fps" not in lent.family.PIPELINES[type(lent.pipeline).__name__]:
            # How fast a clip is played is no matter of the model, then.
            request = replace(request, fps=None)
        with (
            lent.family.steered(lent.pipeline, request),
            ready_to_sample(lent.pipeline, device, plan),
            measured(device) as used,
        ):
            latents = lent.family.sample(lent.pipeline, request)
        cells = request.frames * request.width * request.height / lent.family.rules_of(any_model_folder(model)).cell
        seconds = used.seconds / ((request.steps or lent.family.RULES.steps) * cells)
        learn_cost(place_of(revision, device, precision), plan.rung, Cost(seconds))
        return latents


def decode_job(
    job: Mapping[str, Any], latents: Tensor, parking: Path, device: torch.device = CPU
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """A job's frames, uint8 RGB [frames, height, width, 3], from its latents as its family decodes them; the plan that
    did it, and those that were too large before.

    What host memory cannot hold of Stable Video Diffusion's is parked in the folder `parking`; other families' decoders
    work on the whole clip, on the CPU where it does not fit on the device.
    """
    if sampled_in_batches(job["family"]):
        with waited_for_model(job["model"], job["dtype"], device) as model:
            return decode_within_memory(model, latents, parking, device)
    with lent_pipeline(job["model"], job["dtype"]) as lent:
        return _decoded(lent, latents, request_of(job), device)


def _decoded(
    lent: Lent, latents: Tensor, request: Request, device: torch.device
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    plan, *lower = decoding_plans(lent.pipeline, device)
    too_large: list[Plan] = []
    while True:
        try:
            ready_to_decode(lent.pipeline, device, plan)
            return lent.family.decode(lent.pipeline, latents, request), plan, too_large
        except (RuntimeError, MemoryError) as error:
            if not lower or not is_out_of_memory(error):
                raise
        too_large.append(plan)
        plan = lower.pop(0)
        log.warning("%s: decoding: out of memory; tried again as %s.", request.item_key, plan)
        # Only here is the error gone, and with it what its frames held.
        empty_cache(device)
