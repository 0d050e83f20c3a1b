"""Stable Video Diffusion: a picture to video, by this project's own sampling (models/svd/sampling.py).

Source: Blattmann et al., arXiv 2311.15127.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision, get_dtype
from models.errors import BadInput
from models.families.family import Input, Inputs, Request, Rules, check_request
from models.noise import draw_item_noise
from models.pictures import from_pixels
from models.svd.lora import lora_applied
from models.svd.model import ModelFacts, VideoModel, load_facts, load_model
from models.svd.sampling import decode_latents, sample_latents
from models.svd.scheduler import check_scheduler
from models.weights.pipeline_folder import read_config

NAME: str = "Stable Video Diffusion"

RULES = Rules(
    frame_step=1,
    frame_offset=0,
    frames_min=2,
    frames_max=None,  # longer clips are sampled in windows
    size_unit=64,
    frames=25,
    width=1024,
    height=576,
    fps=Fraction(7),
    steps=25,
    guidance=3.0,
    gpu_precision="float16",
    licence="Stability AI Community License: free below a revenue of 1 million US dollars a year",
)

PIPELINE = "StableVideoDiffusionPipeline"

_STEERED: frozenset[Input] = frozenset({"guidance", "fps", "motion LoRA", "motion word", "motion bucket", "noise_aug"})

PIPELINES: Mapping[str, Inputs] = {PIPELINE: Inputs(needs=frozenset({"picture"}), takes=_STEERED)}


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, with the folder's native numbers and the size unit that its networks need.

    Raises BadModel when its scheduler belongs to a model that is sampled in another way.
    """
    check_scheduler(folder)
    vae, unet = (2 ** (len(read_config(folder, part)["block_out_channels"]) - 1) for part in ("vae", "unet"))
    return _make_rules(load_facts(folder), vae, vae * unet)


def load(folder: Path, precision: Precision = "float32") -> VideoModel:
    """Load the model of a folder; raises BadInput or BadModel."""
    return load_model(str(folder), get_dtype(precision))


@contextmanager
def steered(pipeline: VideoModel, request: Request) -> Iterator[None]:
    """Put the request's motion LoRAs on the model within a block; raises BadModel when one does not fit."""
    with ExitStack() as stack:
        for lora in request.motion:
            stack.enter_context(lora_applied(pipeline, lora.path, lora.strength))
        yield


def sample(pipeline: VideoModel, request: Request) -> Tensor:
    """Sample the latents of a picture's clip, [frames, channels, h, w]; `guidance` is that of the last frame.

    Raises BadInput when the request does not fit.
    """
    rules = _make_rules(pipeline.facts, pipeline.latent_scale, pipeline.size_unit)
    check_request(request, PIPELINES[PIPELINE], rules, NAME)
    shape = pipeline.latent_shape(request.frames, request.height, request.width)
    noise = draw_item_noise(request.seed, request.item_key, request.take, shape, (request.height, request.width))
    first, last = pipeline.facts.guidance
    return sample_latents(
        pipeline,
        _make_tensor(request)[None],
        noise.latents[None],
        noise.augmentation[None],
        motions=[None],
        steps=request.steps or RULES.steps,
        fps=request.fps,
        guidance=(first, last if request.guidance is None else request.guidance),
    )[0]


def decode(pipeline: VideoModel, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3]."""
    return decode_latents(pipeline, latents)


def _make_rules(facts: ModelFacts, latent_scale: int, size_unit: int) -> Rules:
    return replace(
        RULES,
        latent_scale=latent_scale,
        size_unit=size_unit,
        frames=facts.frames,
        width=facts.width,
        height=facts.height,
        fps=Fraction(facts.fps).limit_denominator(1001),
        guidance=facts.guidance[1],
    )


def _make_tensor(request: Request) -> Tensor:
    """Return the picture, [3, height, width] in -1..1."""
    if request.picture is None:
        raise BadInput(f"Item {request.item_key}: needs a picture. Set image.")
    return from_pixels(torch.from_numpy(request.picture).permute(2, 0, 1))
