"""HunyuanVideo: a large transformer trained by flow matching and distilled for guidance, text to video.

Guidance is an input of the model, not a second pass, so it takes no negative text. Source: Kong et
al., arXiv 2412.03603.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, HunyuanVideoPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.families.family import Inputs, Request, Rules, check_request, unsteered
from models.families.latents import convert_to_frames, make_batch, run_pipeline
from models.weights.pipeline_folder import load_pipeline, read_config

NAME: str = "HunyuanVideo"

RULES = Rules(
    frame_step=4,
    frame_offset=1,
    frames_min=5,
    frames_max=None,
    size_unit=16,
    frames=129,
    width=1280,
    height=720,
    fps=Fraction(24),
    steps=50,
    guidance=6.0,
    licence="Tencent Hunyuan Community License: not for the EU, the United Kingdom and South Korea; free below a limit",
    latent_frames=4,
)

PIPELINES: Mapping[str, Inputs] = {
    "HunyuanVideoPipeline": Inputs(needs=frozenset({"text"}), takes=frozenset({"guidance"}))
}

KINDS: dict[str, type[DiffusionPipeline]] = {"HunyuanVideoPipeline": HunyuanVideoPipeline}


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, with the size unit that the folder's autoencoder and patches need."""
    return _make_rules(read_config(folder, "transformer"), read_config(folder, "vae"))


def load(folder: Path, precision: Precision = "float32") -> HunyuanVideoPipeline:
    """Load the pipeline of a HunyuanVideo folder; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


steered = unsteered


def sample(pipeline: HunyuanVideoPipeline, request: Request) -> Tensor:
    """Sample the latents of a text's clip, [latent frames, channels, h, w]. Raises BadInput when it does not fit."""
    rules = _make_rules(pipeline.transformer.config, pipeline.vae.config)
    check_request(request, PIPELINES[type(pipeline).__name__], rules, NAME)
    frames = (request.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    size = request.height // rules.latent_scale, request.width // rules.latent_scale
    noise = request.noise(1, pipeline.transformer.config.in_channels, frames, *size)
    return run_pipeline(pipeline, request, rules, noise).transpose(0, 1)


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [latent frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3]."""
    own = make_batch(latents, pipeline) / pipeline.vae.config.scaling_factor
    return convert_to_frames(pipeline, pipeline.vae.decode(own).sample)


def _make_rules(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Rules:
    scale = vae["spatial_compression_ratio"]
    return replace(RULES, latent_scale=scale, size_unit=max(RULES.size_unit, scale * transformer["patch_size"]))
