"""AnimateDiff: a text-to-image model of Stable Diffusion 1.5's shape, with a motion adapter between its layers.

Text to video; motion LoRAs steer the camera. Source: Guo et al., arXiv 2307.04725.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline, MotionAdapter, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from models.device import Precision
from models.errors import BadModel
from models.families.family import Inputs, MotionLora, Request, Rules, check_request
from models.families.latents import convert_to_frames, make_batch, run_pipeline
from models.svd.model import read_setting
from models.weights.hub_cache import read_weights
from models.weights.network import extract_first_sentence, load_part
from models.weights.pipeline_folder import FAILURES, load_pipeline, read_config

NAME: str = "AnimateDiff"

RULES = Rules(
    frame_step=1,
    frame_offset=0,
    frames_min=2,
    frames_max=32,  # the length of the adapter's position table
    size_unit=8,
    frames=16,
    width=512,
    height=512,
    fps=Fraction(8),
    steps=25,
    guidance=7.5,
    gpu_precision="float16",
    licence="motion adapters: Apache-2.0; the text-to-image model: its own, CreativeML Open RAIL-M for SD 1.5",
)

PIPELINES: Mapping[str, Inputs] = {
    "AnimateDiffPipeline": Inputs(
        needs=frozenset({"text"}), takes=frozenset({"negative text", "motion LoRA", "guidance"})
    )
}

KINDS: dict[str, type[DiffusionPipeline]] = {"AnimateDiffPipeline": AnimateDiffPipeline}


def read_rules(folder: Path) -> Rules:
    """Return the family's rules; the longest clip has as many frames as the folder's adapter has positions."""
    most = int(read_config(folder, "unet").get("motion_max_seq_length", RULES.frames_max))
    return replace(RULES, frames_max=most, frames=min(RULES.frames, most))


def load(folder: Path, precision: Precision = "float32") -> AnimateDiffPipeline:
    """Load the pipeline of an AnimateDiffPipeline's folder; raises BadModel."""
    return load_pipeline(KINDS, folder, precision)


def join(pictures: Path, adapter: Path) -> AnimateDiffPipeline:
    """Join a StableDiffusionPipeline's folder and a motion adapter's folder to one pipeline; raises BadModel.

    The two are published apart. `save_pretrained` of the result writes a folder that `load` reads.
    """
    parts = dict(load_pipeline({"StableDiffusionPipeline": StableDiffusionPipeline}, pictures).components)
    # AnimateDiff's pipeline has no filter for single pictures.
    parts.pop("safety_checker")
    try:
        pipeline = AnimateDiffPipeline(**parts, motion_adapter=load_part(MotionAdapter, adapter))
    except FAILURES as error:
        raise BadModel(
            f"{adapter}: it does not fit the model of {pictures} ({extract_first_sentence(error)})."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def steered(pipeline: AnimateDiffPipeline, request: Request) -> Iterator[None]:
    """Put the request's motion LoRAs on the pipeline at their strengths, and always take them off afterwards.

    Raises BadModel when one does not fit.
    """
    motion = request.motion
    try:
        for place, lora in enumerate(motion):
            _add(pipeline, lora, f"motion_{place}")
        if motion:
            pipeline.set_adapters([f"motion_{i}" for i in range(len(motion))], [lora.strength for lora in motion])
        yield
    finally:
        if motion:
            pipeline.unload_lora_weights()


def sample(pipeline: AnimateDiffPipeline, request: Request) -> Tensor:
    """Sample the latents of a text's clip, [frames, channels, h, w]. Raises BadInput when the request does not fit."""
    rules = replace(RULES, frames_max=read_setting(pipeline.unet, "motion_max_seq_length"))
    check_request(request, PIPELINES[type(pipeline).__name__], rules, NAME)
    scale = pipeline.vae_scale_factor
    channels = read_setting(pipeline.unet, "in_channels")
    noise = request.noise(1, channels, request.frames, request.height // scale, request.width // scale)
    return run_pipeline(pipeline, request, rules, noise.to(pipeline.unet.dtype)).transpose(0, 1)


@torch.no_grad()
def decode(pipeline: AnimateDiffPipeline, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [frames, channels, h, w] to frames, uint8 RGB [frames, height, width, 3]."""
    return convert_to_frames(pipeline, pipeline.decode_latents(make_batch(latents, pipeline)))


def _add(pipeline: AnimateDiffPipeline, lora: MotionLora, name: str) -> None:
    weights = read_weights(lora.path)
    try:
        pipeline.load_lora_weights(weights, adapter_name=name)
    except FAILURES as error:
        raise BadModel(f"{lora.path}: not a motion LoRA of this model ({extract_first_sentence(error)}).") from error
    # The library only logs a line when it knows none of a file's weights.
    if name not in pipeline.get_list_adapters().get("unet", []):
        raise BadModel(f"{lora.path}: it has no weights of this model's UNet. Name a motion LoRA of its family.")
