"""What the adapters over diffusers' pipelines share: an item's noise goes in and its latents come out; frames are
decoded from them separately.

Latents are stored frames first, float32 [latent frames, channels, h, w], whatever order a pipeline uses.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.device import check_decoded
from models.families.family import Request, Rules

DENOISERS = ("unet", "transformer", "transformer_2")

STATISTICS = ("latents_mean", "latents_std")


def run_pipeline(pipeline: Any, request: Request, rules: Rules, noise: Tensor | None, **more: Any) -> Tensor:
    """Sample latents from `noise` for a request, in the pipeline's own order of dimensions, without the batch; `noise`
    is None for a pipeline that draws its own.

    `more` overrides the request. Other random numbers, such as those for a picture's latents from their distribution,
    come from a separate stream.
    """
    picture = {} if request.picture is None else {"image": request.image()}
    asked = {
        "prompt": request.prompt,
        "negative_prompt": request.negative,
        "num_frames": request.frames,
        "height": request.height,
        "width": request.width,
        "num_inference_steps": request.steps or rules.steps,
        "guidance_scale": rules.guidance if request.guidance is None else request.guidance,
        "generator": request.generator("augmentation"),
        "output_type": "latent",
    }
    given = {} if noise is None else {"latents": noise}
    made = pipeline(**asked | picture | given | more).frames
    # A pipeline that works in sections returns the clip so far after each of them.
    clip = made[-1] if isinstance(made, list) else made
    return clip[0].float().cpu()


def make_batch(latents: Tensor, pipeline: Any) -> Tensor:
    """Return stored latents as an autoencoder takes them, [1, channels, latent frames, h, w], on its device."""
    return latents.transpose(0, 1)[None].to(pipeline.vae.device, pipeline.vae.dtype)


def convert_to_frames(pipeline: Any, decoded: Tensor) -> NDArray[np.uint8]:
    """Convert a decoded clip [1, 3, frames, height, width] in -1..1 to uint8 RGB [frames, height, width, 3]; raises
    BadModel where its numbers are not finite."""
    frames = pipeline.video_processor.postprocess_video(check_decoded(decoded).float(), output_type="np")[0]
    return (frames * 255).round().clip(0, 255).astype(np.uint8)


def denormalise_latents(latents: Tensor, vae: Mapping[str, Any]) -> Tensor:
    """Give latents [1, channels, ...] of mean 0 and deviation 1 the mean and deviation of the autoencoder."""
    mean, deviation = (torch.tensor(vae[name]).view(1, -1, 1, 1, 1).to(latents) for name in STATISTICS)
    # The same operations as in the pipeline, so that the bits are the same.
    return latents / (1.0 / deviation) + mean


def list_denoisers(pipeline: Any) -> nn.ModuleList:
    """Return the networks of a pipeline that run in every step."""
    parts = (pipeline.components.get(name) for name in DENOISERS)
    return nn.ModuleList(part for part in parts if part is not None)
