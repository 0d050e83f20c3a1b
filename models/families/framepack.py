"""FramePack: HunyuanVideo's transformer for long clips, picture and text to video, section by section.

Sections of 9 latent frames are made from the end of the clip to its beginning. Each starts from the picture and from
what was already made, which is packed more closely the farther away it is. Source: Zhang and Agrawala, arXiv 2504.12626
(inverted anti-drifting sampling).
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, HunyuanVideoFramepackPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.families.family import Inputs, Request, Rules, check_request, unsteered
from models.families.latents import convert_to_frames, make_batch, run_pipeline
from models.weights.pipeline_folder import load_pipeline, read_config

NAME: str = "FramePack"

WINDOW = 9
"""Latent frames of a section."""

OVERLAP = (WINDOW - 1) * 4 + 1
"""Frames of one section decoded by itself, and the frames that two decoded sections share."""

RULES = Rules(
    frame_step=4 * WINDOW,
    frame_offset=1,
    frames_min=4 * WINDOW + 1,
    frames_max=None,
    size_unit=16,
    frames=145,
    width=832,
    height=480,
    fps=Fraction(30),
    steps=25,
    guidance=10.0,
    licence="as HunyuanVideo, its base model: Tencent Hunyuan Community License; the code: Apache-2.0",
    latent_frames=4,
)

PIPELINES: Mapping[str, Inputs] = {
    "HunyuanVideoFramepackPipeline": Inputs(needs=frozenset({"picture", "text"}), takes=frozenset({"guidance"}))
}

KINDS: dict[str, type[DiffusionPipeline]] = {"HunyuanVideoFramepackPipeline": HunyuanVideoFramepackPipeline}


def read_rules(folder: Path) -> Rules:
    """Return the family's rules, with the size unit that the folder's autoencoder and patches need."""
    return _make_rules(read_config(folder, "transformer"), read_config(folder, "vae"))


def load(folder: Path, precision: Precision = "float32") -> HunyuanVideoFramepackPipeline:
    """Load the pipeline of a FramePack folder; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


steered = unsteered


def sample(pipeline: HunyuanVideoFramepackPipeline, request: Request) -> Tensor:
    """Sample the latents of a picture's and a text's clip, [latent frames, channels, h, w], the picture's own first.

    Raises BadInput when the request does not fit. The pipeline draws each section's noise from the item's stream when
    it reaches the section.
    """
    rules = _make_rules(pipeline.transformer.config, pipeline.vae.config)
    check_request(request, PIPELINES[type(pipeline).__name__], rules, NAME)
    # The pipeline counts sections by the frames of one alone, but makes 36 frames of each, and one more.
    frames = (request.frames - 1) // rules.frame_step * OVERLAP
    made = run_pipeline(
        pipeline, request, rules, None, num_frames=frames, latent_window_size=WINDOW, generator=request.generator()
    )
    return made.transpose(0, 1)


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [latent frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3].

    As in the pipeline, each section is decoded with the next one, from the end, and blended over their shared frames.
    """
    own = make_batch(latents, pipeline) / pipeline.vae.config.scaling_factor
    sections = (own.shape[2] - 1) // WINDOW
    clip = _decode_section(pipeline, own[:, :, -WINDOW:] if sections > 1 else own)
    for made in range(2, sections + 1):
        # The clip's first section includes the picture's latent frame.
        size, picture = 2 * WINDOW, int(made == sections)
        start = own.shape[2] - made * WINDOW - picture
        section = _decode_section(pipeline, own[:, :, start : start + size + picture])
        clip = pipeline._soft_append(section, clip, OVERLAP)
    return convert_to_frames(pipeline, clip)


def _decode_section(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline.vae.decode(latents, return_dict=False)[0]


def _make_rules(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Rules:
    scale = vae["spatial_compression_ratio"]
    return replace(RULES, latent_scale=scale, size_unit=max(RULES.size_unit, scale * transformer["patch_size"]))
