"""Text to video for a model that takes pictures: a text-to-image model draws the picture that becomes a clip.

The picture's noise is a stream of its own, so that drawing it never shifts the noise that becomes the clip.
"""

from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from numpy.typing import NDArray

from models.errors import BadInput, BadModel
from models.families.loading import load_pipeline, read_index
from models.families.rules import Request
from models.named import any_model_folder, revision_of
from models.noise import item_generator

STEPS, GUIDANCE = 50, 7.5

SIZE_UNIT = 8
"""What the sides of a picture are multiples of, in pixels."""


KINDS: dict[str, type[DiffusionPipeline]] = {"StableDiffusionPipeline": StableDiffusionPipeline}


def drawer_revision(name: str) -> str:
    """The revision of a text-to-image model (models/named.py); raises BadInput or BadModel where it is not one."""
    kind = read_index(any_model_folder(name)).get("_class_name")
    if kind not in KINDS:
        raise BadModel(f"{name}: its class is {kind}, which draws no pictures here; name a {' or '.join(KINDS)}.")
    return revision_of(name)


def load(folder: Path) -> StableDiffusionPipeline:
    """The pipeline of a text-to-image model's folder, with its safety checker where it has one; raises BadModel."""
    return load_pipeline(KINDS, folder)


def draw(
    pipeline: StableDiffusionPipeline, request: Request, steps: int = STEPS, guidance: float = GUIDANCE
) -> NDArray[np.uint8]:
    """The picture of the request's text, uint8 RGB [height, width, 3].

    Raises BadInput without a text, for sides that do not fit, and where the safety checker blackens the picture.
    """
    item = f"Item {request.item_key}"
    if request.prompt is None:
        raise BadInput(f"{item}: a picture is drawn from a text. Give one.")
    if request.width % SIZE_UNIT or request.height % SIZE_UNIT:
        raise BadInput(f"{item}: {request.width}x{request.height} is no size for a picture: multiples of {SIZE_UNIT}.")
    made: Any = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative,
        height=request.height,
        width=request.width,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=item_generator(request.seed, request.item_key, request.take, "picture"),
        output_type="np",
    )
    if any(made.nsfw_content_detected or []):
        raise BadInput(f"{item}: the model's safety checker holds back the picture of its text. Change the text.")
    return (made.images[0] * 255).round().astype(np.uint8)
