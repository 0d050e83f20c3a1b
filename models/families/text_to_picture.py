"""Text to video for a model that takes pictures: a text-to-image model draws the picture that becomes a clip.

The picture's noise is a separate stream, so that drawing it never shifts the noise that becomes the clip. Latents are
decoded here, by the same operations as in the pipelines, because no pipeline decodes half-precision latents with a
float32 autoencoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from models.device import CPU, Precision, check_decoded, explain_not_finite
from models.errors import BadInput, BadModel
from models.families.family import Request
from models.families.latents import STATISTICS
from models.weights.names import find_model_folder, find_revision
from models.weights.pipeline_folder import load_pipeline, read_index

STEPS = 50

SIZE_UNIT = 8
"""Pixels: the sides of a picture are multiples of this."""


@dataclass(frozen=True)
class PictureKind:
    """A class of pipelines that draw: its native guidance, and the arguments it takes besides a folder's parts."""

    pipeline: type[DiffusionPipeline]
    guidance: float
    given: Mapping[str, Any] = field(default_factory=dict)


_KINDS = (
    PictureKind(StableDiffusionPipeline, 7.5),
    # Its watermark would be in every frame, and needs a package that is not always installed.
    PictureKind(StableDiffusionXLPipeline, 5.0, {"add_watermarker": False}),
)

KINDS = {kind.pipeline.__name__: kind for kind in _KINDS}
"""The kinds by the class that a model's folder names."""


def find_drawer_revision(name: str) -> str:
    """Return a text-to-image model's revision (models/weights/names.py); raises BadInput or BadModel for any other."""
    kind = read_index(find_model_folder(name)).get("_class_name")
    if kind not in KINDS:
        raise BadModel(f"{name}: its class is {kind}, which cannot draw pictures here; name a {' or '.join(KINDS)}.")
    return find_revision(name)


def load(folder: Path, precision: Precision = "float32") -> Any:
    """Load the pipeline of a text-to-image model's folder, with its safety checker if it has one; raises BadModel."""
    kind = KINDS.get(str(read_index(folder).get("_class_name")))
    pipelines = {name: known.pipeline for name, known in KINDS.items()}
    return load_pipeline(pipelines, folder, precision, **(kind.given if kind else {}))


def sample(pipeline: Any, request: Request) -> Tensor:
    """Sample the latents of a picture from the request's text, float32 [channels, h, w].

    Raises BadInput without a text, for sides that do not fit, and when the latents are not finite.
    """
    item = f"Item {request.item_key}"
    if request.prompt is None:
        raise BadInput(f"{item}: needs a text to draw a picture from. Set prompt.")
    if request.width % SIZE_UNIT or request.height % SIZE_UNIT:
        raise BadInput(f"{item}: {request.width}x{request.height} does not fit: use multiples of {SIZE_UNIT} pixels.")
    own = KINDS[type(pipeline).__name__].guidance
    latents = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps or STEPS,
        guidance_scale=own if request.guidance is None else request.guidance,
        generator=request.generator("picture"),
        output_type="latent",
    ).images[0]
    if not latents.isfinite().all():
        precision: Precision = "float16" if latents.dtype == torch.float16 else "float32"
        likely = explain_not_finite(precision, "--draw.dtype")
        raise BadInput(f"{item}: its picture's latents are not finite numbers: {likely}.")
    return latents.float().cpu()


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
    """Decode latents [channels, h, w] to a picture, uint8 RGB [height, width, 3].

    Raises BadInput when the model's safety checker rejects it, and BadModel where its numbers are not finite.
    """
    vae = pipeline.vae
    decoded = vae.decode(_unscale_latents(vae, latents[None].to(vae.device, vae.dtype)), return_dict=False)[0].cpu()
    check_decoded(decoded, "--draw.dtype")
    _check(pipeline, decoded, request)
    picture = pipeline.image_processor.postprocess(decoded, output_type="np")[0]
    return (picture * 255).round().astype(np.uint8)


def _unscale_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """Return latents [1, channels, h, w] in the autoencoder's own scale, by the same operations as in the pipelines."""
    known: Any = vae.config
    mean, deviation = (getattr(known, name, None) for name in STATISTICS)
    if mean is None or deviation is None:
        return latents / known.scaling_factor
    mean, deviation = (torch.tensor(each).view(1, -1, 1, 1).to(latents) for each in (mean, deviation))
    return latents * deviation / known.scaling_factor + mean


def _check(pipeline: Any, decoded: Tensor, request: Request) -> None:
    """Run the model's safety checker, if it has one, in host memory, where it is kept."""
    if pipeline.components.get("safety_checker") is None:
        return
    _, seen = pipeline.run_safety_checker(decoded.clone(), CPU, torch.float32)
    if any(seen):
        item = f"Item {request.item_key}"
        raise BadInput(f"{item}: the model's safety checker rejects its picture. Change the prompt.")
