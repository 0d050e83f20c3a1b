"""LTX-Video: a transformer over strongly packed latents; the same weights take a text, with or without a picture.

Source: HaCohen et al., arXiv 2501.00103.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline, LTXImageToVideoPipeline, LTXPipeline
from numpy.typing import NDArray

from models.families.loading import load_pipeline
from models.families.rules import Inputs, Request, Rules, as_frames, check_request

NAME: str = "LTX-Video"

RULES = Rules(
    frame_step=8,
    frame_offset=1,
    frames_min=9,
    frames_max=257,
    size_unit=32,
    frames=161,
    width=704,
    height=512,
    fps=Fraction(25),
    steps=50,
    guidance=3.0,
    licence="the LTX-Video licence of the version (Open RAIL-M with limits on use): read it on the model's page",
)

_INPUTS = Inputs(needs=frozenset({"text"}), takes=frozenset({"picture", "negative text", "guidance", "fps"}))

PIPELINES: Mapping[str, Inputs] = {"LTXPipeline": _INPUTS, "LTXImageToVideoPipeline": _INPUTS}

# Both classes have the same parts: which of them runs is the request's choice.
KINDS: dict[str, type[DiffusionPipeline]] = dict.fromkeys(PIPELINES, LTXPipeline)

DECODE_TIMESTEP, DECODE_NOISE = 0.05, 0.025
"""What the authors use with a decoder that is told a noise level (version 0.9.1 and later)."""


def rules_of(folder: Path) -> Rules:
    """The family's rules: every version has them."""
    return RULES


def load(folder: Path) -> LTXPipeline:
    """The pipeline of an LTX folder of either class; raises BadModel."""
    return load_pipeline(KINDS, folder)


def generate(pipeline: LTXPipeline, request: Request) -> NDArray[np.uint8]:
    """The clip of a text, and of a picture where one is given, uint8 RGB [frames, height, width, 3].

    Raises BadInput when the request does not fit.
    """
    check_request(request, _INPUTS, RULES, NAME)
    call: Any = pipeline if request.picture is None else _from_picture(pipeline)
    made = call(
        prompt=request.prompt,
        negative_prompt=request.negative,
        num_frames=request.frames,
        height=request.height,
        width=request.width,
        frame_rate=float(RULES.fps) if request.fps is None else request.fps,
        num_inference_steps=request.steps or RULES.steps,
        guidance_scale=RULES.guidance if request.guidance is None else request.guidance,
        generator=request.generator(),
        output_type="np",
        **({} if request.picture is None else {"image": request.image()}),
        **_decoding(pipeline),
    )
    return as_frames(made.frames[0])


def _from_picture(pipeline: LTXPipeline) -> LTXImageToVideoPipeline:
    """The same parts as a pipeline that takes a picture."""
    other = LTXImageToVideoPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    return other


def _decoding(pipeline: LTXPipeline) -> dict[str, float]:
    told = pipeline.vae.config.timestep_conditioning
    return {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE} if told else {}
