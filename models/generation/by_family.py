"""A clip by the family of its model's folder, or a picture from a text, through diffusers' own pipelines, one at a
time.

Stable Video Diffusion has this project's own sampler, in batches: models/svd/sampling.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import CPU, Precision, measure_free_memory, watch_costs
from models.errors import BadModel, is_out_of_memory
from models.families import svd, text_to_picture
from models.families.family import MotionLora, Request
from models.families.placement import (
    choose_first_plan,
    count_held_bytes,
    list_decoding_plans,
    prepare_decoding,
    prepare_sampling,
    weight_bytes,
)
from models.generation.model_cache import lent_drawer, lent_pipeline, waited_for_model
from models.memory.measured_costs import Cost, learn_cost, name_place
from models.memory.plan import Plan
from models.memory.planner import decode_within_memory, find_lower_plan, run_within_memory
from models.weights.names import find_model_folder


class Decoder(Protocol):
    """A decoder of latents to frames: a family, or models/families/text_to_picture.py."""

    def decode(self, pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
        """Decode latents to frames or a picture, uint8 RGB."""
        ...


def is_sampled_in_batches(family: str) -> bool:
    """Say whether a family is sampled by models/svd/sampling.py; the others are sampled here."""
    return family == svd.NAME


def make_request(job: Mapping[str, Any], picture: NDArray[np.uint8] | None = None, lora: str | None = None) -> Request:
    """Make the request of a job's columns; guidance is that of the last frame. `picture` and `lora` if it has them."""
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
    """Choose the first plan, by what is free on the device now, including what the model already holds there."""
    if device == CPU:
        return Plan()
    with lent_pipeline(model, precision) as lent:
        return _plan_for(lent.pipeline, model, precision, device)


def sample_by_family(
    model: str,
    revision: str,
    request: Request,
    plan: Plan,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> Tensor:
    """Sample the request's latents, float32 [latent frames, channels, h, w], by the given model and plan.

    Raises BadModel when the model's files no longer match `revision`, BadInput when the request does not fit, and
    WeightsTooLarge when the weights that the plan places on the device do not fit.
    """
    with lent_pipeline(model, precision) as lent:
        if lent.revision != revision:
            raise BadModel(f"{model}: the model's files changed while it was in use. Start the run again.")
        if "fps" not in lent.family.PIPELINES[type(lent.pipeline).__name__]:
            # The model then does not depend on the clip's frame rate.
            request = replace(request, fps=None)
        with (
            lent.family.steered(lent.pipeline, request),
            prepare_sampling(lent.pipeline, device, plan),
            watch_costs(device) as used,
        ):
            latents = lent.family.sample(lent.pipeline, request)
        cells = request.frames * request.width * request.height / lent.family.read_rules(find_model_folder(model)).cell
        seconds = used.seconds / ((request.steps or lent.family.RULES.steps) * cells)
        learn_cost(name_place(revision, device, precision), plan.rung, Cost(seconds))
        return latents


def decode_job(
    job: Mapping[str, Any], latents: Tensor, parking: Path, device: torch.device = CPU
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """Decode a job's latents by its family to frames, uint8 RGB [frames, height, width, 3]; return them, the plan that
    worked, and the plans tried before that were too large.

    For Stable Video Diffusion, what host memory cannot hold is parked in the folder `parking`. Other families' decoders
    work on the whole clip, and on the CPU when it does not fit on the device.
    """
    if is_sampled_in_batches(job["family"]):
        with waited_for_model(job["model"], job["dtype"], device) as model:
            return decode_within_memory(model, latents, parking, device)
    with lent_pipeline(job["model"], job["dtype"]) as lent:
        return _decode_by_plans(lent.family, lent.pipeline, latents, make_request(job), device)


def draw_picture(
    model: str, revision: str, request: Request, precision: Precision = "float32", device: torch.device = CPU
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """Draw a picture from the request's text by a text-to-image model; return it, uint8 RGB [height, width, 3], the
    plan that sampled it, and the plans tried before that were too large.

    Raises BadModel when the model's files no longer match `revision`, and BadInput when the request does not fit.
    """
    with lent_drawer(model, revision, precision) as pipeline:

        def sample(plan: Plan) -> Tensor:
            with prepare_sampling(pipeline, device, plan):
                return text_to_picture.sample(pipeline, request)

        plan, lower = _plan_for(pipeline, model, precision, device), partial(find_lower_plan, device=device)
        latents, plan, too_large = run_within_memory(sample, plan, lower, device, f"{request.item_key}: drawing")
        pixels, *_ = _decode_by_plans(text_to_picture, pipeline, latents, request, device)
    return pixels, plan, too_large


def _plan_for(pipeline: Any, model: str, precision: Precision, device: torch.device) -> Plan:
    if device == CPU:
        return Plan()
    free = measure_free_memory(device) + count_held_bytes(pipeline, device)
    return choose_first_plan(weight_bytes(find_model_folder(model), precision), free, device)


def _decode_by_plans(
    decoder: Decoder, pipeline: Any, latents: Tensor, request: Request, device: torch.device
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    rungs = list_decoding_plans(pipeline, device)

    def decode(plan: Plan) -> NDArray[np.uint8]:
        prepare_decoding(pipeline, device, plan)
        return decoder.decode(pipeline, latents, request)

    def lower(plan: Plan, error: BaseException) -> Plan | None:
        below = rungs[rungs.index(plan) + 1 :]
        return below[0] if below and is_out_of_memory(error) else None

    return run_within_memory(decode, rungs[0], lower, device, f"{request.item_key}: decoding")
