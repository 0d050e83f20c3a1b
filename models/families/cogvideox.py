"""CogVideoX: a transformer over patches of space and time, text to video or picture and text to video.

The folder's class says which. Source: Yang et al., arXiv 2408.06072.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline, DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.families.family import Input, Inputs, Request, Rules, check_request, unsteered
from models.families.latents import convert_to_frames, make_batch, run_pipeline
from models.weights.pipeline_folder import load_pipeline, read_config

NAME: str = "CogVideoX"

RULES = Rules(
    # The autoencoder packs 4 frames into a latent frame. It decodes the first latent frame to a single frame only when
    # the number of latent frames is odd: where k is odd, 4k+1 frames come out as 4k+4.
    frame_step=8,
    frame_offset=1,
    frames_min=9,
    frames_max=161,
    size_unit=16,
    frames=49,
    latent_frames=4,
    width=720,
    height=480,
    fps=Fraction(8),
    steps=50,
    guidance=6.0,
    licence="CogVideoX-2b: Apache-2.0; the 5b models: CogVideoX License, commercial use after registration",
)

_STEERED: frozenset[Input] = frozenset({"negative text", "guidance"})

PIPELINES: Mapping[str, Inputs] = {
    "CogVideoXPipeline": Inputs(needs=frozenset({"text"}), takes=_STEERED),
    "CogVideoXImageToVideoPipeline": Inputs(needs=frozenset({"text", "picture"}), takes=_STEERED),
}

KINDS: dict[str, type[DiffusionPipeline]] = {
    "CogVideoXPipeline": CogVideoXPipeline,
    "CogVideoXImageToVideoPipeline": CogVideoXImageToVideoPipeline,
}


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, with the folder's native frames and size.

    Version 1.5 has patches over time too, and 16 frames a second; the first image-to-video model makes only its own
    size.
    """
    return _make_rules(read_config(folder, "transformer"), read_config(folder, "vae"))


def load(folder: Path, precision: Precision = "float32") -> CogVideoXPipeline | CogVideoXImageToVideoPipeline:
    """Load the pipeline of a CogVideoX folder, of the class it names; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


steered = unsteered


def sample(pipeline: CogVideoXPipeline | CogVideoXImageToVideoPipeline, request: Request) -> Tensor:
    """Sample a clip's latents from a text, or picture and text: [latent frames, channels, h, w]. Raises BadInput."""
    rules = _make_rules(dict(pipeline.transformer.config), dict(pipeline.vae.config))
    check_request(request, PIPELINES[type(pipeline).__name__], rules, NAME)
    padding = _count_padding(pipeline, request.frames)
    scale = pipeline.vae_scale_factor_spatial
    cells = padding + _count_latent_frames(pipeline, request.frames), pipeline.vae.config.latent_channels
    noise = request.noise(1, *cells, request.height // scale, request.width // scale)
    most = pipeline.transformer.config.max_text_seq_length
    noise = noise.to(pipeline.transformer.dtype)
    with _encoding(pipeline.vae):
        return run_pipeline(pipeline, request, rules, noise, max_sequence_length=most)[padding:]


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [latent frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3]."""
    return convert_to_frames(pipeline, pipeline.decode_latents(make_batch(latents, pipeline).transpose(1, 2)))


@contextmanager
def _encoding(vae: Any) -> Iterator[None]:
    """Make the autoencoder convert pictures to its own precision within a block: the pipeline passes them in the
    transformer's."""
    own = vae.encode
    vae.encode = lambda pictures: own(pictures.to(vae.dtype))
    try:
        yield
    finally:
        del vae.encode


def _count_latent_frames(pipeline: Any, frames: int) -> int:
    return (frames - 1) // pipeline.vae_scale_factor_temporal + 1


def _count_padding(pipeline: Any, frames: int) -> int:
    """Count the latent frames that the pipeline puts before a clip's own, where a patch spans several of them."""
    patch = pipeline.transformer.config.patch_size_t
    return -_count_latent_frames(pipeline, frames) % patch if patch else 0


def _make_rules(transformer: dict[str, Any], vae: dict[str, Any]) -> Rules:
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return replace(
        RULES,
        latent_scale=scale,
        frames=transformer["sample_frames"],
        width=transformer["sample_width"] * scale,
        height=transformer["sample_height"] * scale,
        fps=Fraction(8) if transformer.get("patch_size_t") is None else Fraction(16),
        only_native_size=bool(transformer.get("use_learned_positional_embeddings")),
    )
