"""Wan: a transformer trained by flow matching, text to video or picture and text to video.

The folder's class says which. Source: Wan team, arXiv 2503.20314.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, WanImageToVideoPipeline, WanPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.families.family import Input, Inputs, Request, Rules, check_request, unsteered
from models.families.latents import convert_to_frames, denormalise_latents, make_batch, run_pipeline
from models.weights.pipeline_folder import load_pipeline, read_config

NAME: str = "Wan"

RULES = Rules(
    frame_step=4,
    frame_offset=1,
    frames_min=5,
    frames_max=None,
    size_unit=16,
    frames=81,
    latent_frames=4,
    width=832,
    height=480,
    fps=Fraction(16),
    steps=50,
    guidance=5.0,
    licence="Wan 2.1 and 2.2: Apache-2.0",
)

_STEERED: frozenset[Input] = frozenset({"negative text", "guidance"})

PIPELINES: Mapping[str, Inputs] = {
    "WanPipeline": Inputs(needs=frozenset({"text"}), takes=_STEERED),
    "WanImageToVideoPipeline": Inputs(needs=frozenset({"text", "picture"}), takes=_STEERED),
}

KINDS: dict[str, type[DiffusionPipeline]] = {
    "WanPipeline": WanPipeline,
    "WanImageToVideoPipeline": WanImageToVideoPipeline,
}

SHARED_PARTS = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
"""Parts of both classes that encoding a text needs."""

TEXT_TOKENS = 512
"""Tokens of a text that the model reads."""


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, with the size unit that the autoencoder and patches need: 32 in Wan 2.2's 5B."""
    return _make_rules(read_config(folder, "transformer"), read_config(folder, "vae"))


def load(folder: Path, precision: Precision = "float32") -> WanPipeline | WanImageToVideoPipeline:
    """Load the pipeline of a Wan folder, of the class it names; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


steered = unsteered


def sample(pipeline: WanPipeline | WanImageToVideoPipeline, request: Request) -> Tensor:
    """Sample a clip's latents from a text, or picture and text: [latent frames, channels, h, w]. Raises BadInput."""
    check_request(request, PIPELINES[type(pipeline).__name__], _read_rules(pipeline), NAME)
    guidance = RULES.guidance if request.guidance is None else request.guidance
    scale, frames = pipeline.vae_scale_factor_spatial, (request.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    noise = request.noise(1, pipeline.vae.config.z_dim, frames, request.height // scale, request.width // scale)
    texts = _encode_texts(pipeline, request, guided=guidance > 1)
    return run_pipeline(pipeline, request, RULES, noise, **texts).transpose(0, 1)


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [latent frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3]."""
    own = denormalise_latents(make_batch(latents, pipeline), pipeline.vae.config)
    return convert_to_frames(pipeline, pipeline.vae.decode(own).sample)


def _encode_texts(pipeline: Any, request: Request, guided: bool) -> dict[str, Any]:
    """Encode the texts with the text-to-video class, whichever class the pipeline has: the other one needs a library
    that repairs broken characters, and gives the same result for a text without any.
    """
    encoder: Any = WanPipeline(**{part: pipeline.components[part] for part in SHARED_PARTS})
    wanted, unwanted = encoder.encode_prompt(request.prompt, request.negative, guided, max_sequence_length=TEXT_TOKENS)
    texts = {"prompt": None, "negative_prompt": None}
    return {**texts, "prompt_embeds": wanted, "negative_prompt_embeds": unwanted}


def _read_rules(pipeline: Any) -> Rules:
    transformer = pipeline.transformer or pipeline.transformer_2
    return _make_rules(transformer.config, pipeline.vae.config)


def _make_rules(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Rules:
    scale = vae.get("scale_factor_spatial", 8)
    return replace(
        RULES, size_unit=scale * transformer["patch_size"][1], latent_scale=scale, fps=Fraction(24 if scale > 8 else 16)
    )
