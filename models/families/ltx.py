"""LTX-Video: a transformer over highly compressed latents; the same weights take a text, with or without a picture.

Source: HaCohen et al., arXiv 2501.00103.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, LTXImageToVideoPipeline, LTXPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.families.family import Inputs, Request, Rules, check_request, unsteered
from models.families.latents import convert_to_frames, make_batch, run_pipeline
from models.weights.pipeline_folder import load_pipeline

NAME: str = "LTX-Video"

RULES = Rules(
    frame_step=8,
    frame_offset=1,
    frames_min=9,
    frames_max=257,
    size_unit=32,
    frames=161,
    latent_scale=32,
    latent_frames=8,
    width=704,
    height=512,
    fps=Fraction(25),
    steps=50,
    guidance=3.0,
    licence="the LTX-Video licence of the version (Open RAIL-M with limits on use): read it on the model's page",
)

_INPUTS = Inputs(needs=frozenset({"text"}), takes=frozenset({"picture", "negative text", "guidance", "fps"}))

PIPELINES: Mapping[str, Inputs] = {"LTXPipeline": _INPUTS, "LTXImageToVideoPipeline": _INPUTS}

# Both classes have the same parts; the request decides which of them runs.
KINDS: dict[str, type[DiffusionPipeline]] = dict.fromkeys(PIPELINES, LTXPipeline)

DECODE_TIMESTEP, DECODE_NOISE = 0.05, 0.025
"""What the authors use with a decoder that takes a noise level (version 0.9.1 and later)."""


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, which are the same for every version."""
    return RULES


def load(folder: Path, precision: Precision = "float32") -> LTXPipeline:
    """Load the pipeline of an LTX folder of either class; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


steered = unsteered


def sample(pipeline: LTXPipeline, request: Request) -> Tensor:
    """Sample the latents of a clip of a text, and a picture if given: [latent frames, channels, h, w].

    Raises BadInput when the request does not fit.
    """
    check_request(request, _INPUTS, RULES, NAME)
    noise = request.noise(1, pipeline.transformer.config.in_channels, *_count_cells(pipeline, request))
    packed = pipeline._pack_latents(noise, *_read_patch(pipeline))
    call: Any = pipeline
    if request.picture is not None:
        call = _build_picture_pipeline(pipeline)
        packed = _insert_picture(call, request, packed)
    rate = float(RULES.fps) if request.fps is None else request.fps
    made = run_pipeline(call, request, RULES, packed, frame_rate=rate)
    return pipeline._unpack_latents(made[None], *_count_cells(pipeline, request), *_read_patch(pipeline))[0].transpose(
        0, 1
    )


@torch.no_grad()
def decode(pipeline: LTXPipeline, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [latent frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3].

    A decoder that takes a noise level gets noise from the item's own stream.
    """
    vae = pipeline.vae
    statistics = vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    own, level = pipeline._denormalize_latents(make_batch(latents, pipeline), *statistics), None
    if vae.config.timestep_conditioning:
        noise = torch.randn(own.shape, generator=request.generator("decoding")).to(own)
        own, level = (1 - DECODE_NOISE) * own + DECODE_NOISE * noise, torch.tensor([DECODE_TIMESTEP]).to(own)
    return convert_to_frames(pipeline, vae.decode(own, level, return_dict=False)[0])


def _insert_picture(pipeline: Any, request: Request, packed: Tensor) -> Tensor:
    """Put the picture's latents in the place of the packed noise's first frame: the pipeline ignores the picture when
    it is given noise."""
    size = {"height": request.height, "width": request.width}
    # The device on which the autoencoder runs, which is not where it is kept between uses.
    device = pipeline._execution_device
    picture = pipeline.video_processor.preprocess(request.image(), **size).to(device, pipeline.vae.dtype)
    channels, generator = packed.shape[-1], request.generator("augmentation")
    shape = {"num_channels_latents": channels, "num_frames": request.frames, **size}
    known, mask = pipeline.prepare_latents(picture, **shape, dtype=torch.float32, device=device, generator=generator)
    return known * mask[..., None] + packed.to(known) * (1 - mask[..., None])


def _count_cells(pipeline: LTXPipeline, request: Request) -> tuple[int, int, int]:
    """Return the (latent frames, h, w) of a clip."""
    scale = pipeline.vae_spatial_compression_ratio
    frames = (request.frames - 1) // pipeline.vae_temporal_compression_ratio + 1
    return frames, request.height // scale, request.width // scale


def _read_patch(pipeline: LTXPipeline) -> tuple[int, int]:
    """Return the cells along a side, and the latent frames, that make one token."""
    return pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size


def _build_picture_pipeline(pipeline: LTXPipeline) -> LTXImageToVideoPipeline:
    """Build a pipeline that takes a picture from the same parts."""
    other = LTXImageToVideoPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    return other
