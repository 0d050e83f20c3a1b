"""A clip by whatever family its model's folder belongs to, through diffusers' own pipeline, one at a time.

Stable Video Diffusion has a sampler of this project's own, in batches: models/sampling.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import CPU
from models.errors import BadModel
from models.families import svd
from models.families.latents import denoisers
from models.families.rules import MotionLora, Request
from models.loaded import lent_pipeline, waited_for_model
from models.memory import decode_within_memory
from models.placement import feed_forward_in_pieces
from models.plan import Plan


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


def sample_by_family(model: str, revision: str, request: Request, plan: Plan) -> Tensor:
    """The request's latents, float32 [latent frames, channels, h, w], by the model that was planned.

    Raises BadModel when its files are no longer of `revision`, and BadInput when the request does not fit.
    """
    with lent_pipeline(model) as lent:
        if lent.revision != revision:
            raise BadModel(f"{model}: the model's files changed while it was in use. Start the run again.")
        if "fps" not in lent.family.PIPELINES[type(lent.pipeline).__name__]:
            # How fast a clip is played is no matter of the model, then.
            request = replace(request, fps=None)
        with feed_forward_in_pieces(denoisers(lent.pipeline), plan.feed_forward):
            return lent.family.sample(lent.pipeline, request)


def decode_job(
    job: Mapping[str, Any], latents: Tensor, parking: Path, device: torch.device = CPU
) -> tuple[NDArray[np.uint8], Plan, list[Plan]]:
    """A job's frames, uint8 RGB [frames, height, width, 3], from its latents as its family decodes them; the plan that
    did it, and those that were too large before.

    What host memory cannot hold of Stable Video Diffusion's is parked in the folder `parking`; other families' decoders
    work on the whole clip, on the CPU.
    """
    if sampled_in_batches(job["family"]):
        with waited_for_model(job["model"], job["dtype"], device) as model:
            return decode_within_memory(model, latents, parking, device)
    with lent_pipeline(job["model"]) as lent:
        return lent.family.decode(lent.pipeline, latents, request_of(job)), Plan(), []
