"""The description of a family of video models, as data, and the request that one item makes of it.

A family's module has NAME, RULES and PIPELINES as data and the functions `read_rules`, `load`, `steered`, `sample` and
`decode`: it follows the protocol `Family`. models/families/known.py finds the family of a folder; docs/families.md
lists these rules.
"""

from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.device import Precision
from models.errors import BadInput
from models.noise import Stream, make_item_generator

Input = Literal[
    "picture", "text", "negative text", "guidance", "fps", "motion LoRA", "motion word", "motion bucket", "noise_aug"
]


@dataclass(frozen=True)
class Inputs:
    """The inputs that a pipeline class needs, and those that it takes besides."""

    needs: Set[Input]
    takes: Set[Input] = frozenset()

    def __contains__(self, name: Input) -> bool:
        """Say whether the pipeline needs or takes this input."""
        return name in self.needs or name in self.takes

    def __str__(self) -> str:
        takes = f", takes {', '.join(sorted(self.takes))}" if self.takes else ""
        return f"needs {' and '.join(sorted(self.needs))}{takes}"


@dataclass(frozen=True)
class Fitted:
    """A number of frames, or a (width, height), that a family can make; `note` says what was rounded, or is None."""

    value: Any
    note: str | None = None


@dataclass(frozen=True)
class Rules:
    """A family's numbers. Sizes are in pixels, `fps` in frames per second.

    Clips have frame_step * k + frame_offset frames, at least frames_min and, unless frames_max is None, at most
    frames_max; sides are multiples of size_unit. frames, width, height and fps are native: the weights were trained at
    them. With `only_native_size` the model makes no other size. A latent cell is latent_scale pixels wide, a latent
    frame is latent_frames frames long. steps and guidance are what its authors use, gpu_precision what its weights are
    published in and work in on a GPU. `licence` is that of the published weights; this project's own licence does
    not cover them.
    """

    frame_step: int
    frame_offset: int
    frames_min: int
    frames_max: int | None
    size_unit: int
    frames: int
    width: int
    height: int
    fps: Fraction
    steps: int
    guidance: float
    licence: str
    latent_scale: int = 8
    latent_frames: int = 1
    only_native_size: bool = False
    gpu_precision: Precision = "bfloat16"

    @property
    def cell(self) -> int:
        """Return how many pixels, over all its frames, a latent cell covers."""
        return self.latent_scale**2 * self.latent_frames

    def fit_frames(self, frames: int) -> Fitted:
        """Return the number of frames nearest to `frames` that the family can make; of two equally near, the larger."""
        step, offset = self.frame_step, self.frame_offset
        least = -(-(self.frames_min - offset) // step)
        count = max(least, (2 * (frames - offset) + step) // (2 * step))
        if self.frames_max is not None:
            count = min(count, (self.frames_max - offset) // step)
        fitted = step * count + offset
        said = f"frames {frames}: made as {fitted}, because clips have {self.frames_rule}."
        return Fitted(fitted, None if fitted == frames else said)

    def fit_size(self, width: int, height: int) -> Fitted:
        """Return the nearest (width, height) that the family can make, each side by itself."""
        unit = self.size_unit
        fitted = (
            (self.width, self.height)
            if self.only_native_size
            else (_find_nearest(width, unit), _find_nearest(height, unit))
        )
        if fitted == (width, height):
            return Fitted(fitted)
        rule = "the model makes no other size" if self.only_native_size else f"sides must be multiples of {unit}"
        return Fitted(fitted, f"size {width}x{height}: made as {fitted[0]}x{fitted[1]}, because {rule}.")

    def __str__(self) -> str:
        unit = f"sides are multiples of {self.size_unit}"
        size = f"only {self.width}x{self.height}" if self.only_native_size else unit
        return f"{self.frames_rule}; {size}; {float(self.fps):g} a second"

    @property
    def frames_rule(self) -> str:
        """Return how many frames a clip has, in words."""
        counts = f"{self.frame_step}k+{self.frame_offset}" if self.frame_step > 1 else "any number of"
        most = f", at most {self.frames_max}" if self.frames_max else ""
        return f"{counts} frames, at least {self.frames_min}{most}"


@dataclass(frozen=True)
class MotionLora:
    """A motion LoRA: one safetensors file, and how strongly it counts (0 not at all, 1 as trained)."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True)
class Request:
    """One item's request. Its noise depends only on seed, item_key and take. `picture` is uint8 RGB [height, width, 3].

    The family chooses what is None: `steps` and `guidance` by its rules.
    """

    seed: int
    item_key: str
    frames: int
    width: int
    height: int
    take: int = 0
    prompt: str | None = None
    negative: str | None = None
    picture: NDArray[np.uint8] | None = None
    motion: tuple[MotionLora, ...] = ()
    steps: int | None = None
    guidance: float | None = None
    fps: float | None = None

    def given(self) -> dict[Input, bool]:
        """Say, for each input, whether the item has it."""
        return {
            "picture": self.picture is not None,
            "text": self.prompt is not None,
            "negative text": self.negative is not None,
            "motion LoRA": bool(self.motion),
            "guidance": self.guidance is not None,
            "fps": self.fps is not None,
        }

    def generator(self, stream: Stream = "latents") -> torch.Generator:
        """Make a CPU generator at the start of one of the item's streams: diffusers draws on the CPU for any device."""
        return make_item_generator(self.seed, self.item_key, self.take, stream)

    def noise(self, *shape: int) -> Tensor:
        """Draw the item's standard normal float32 noise of a shape, which becomes the clip."""
        return torch.randn(shape, generator=self.generator())

    def image(self) -> Image.Image:
        """Return the picture as diffusers takes it; raises BadInput when the item has none."""
        if self.picture is None:
            raise BadInput(f"Item {self.item_key}: needs a picture. Set image.")
        return Image.fromarray(self.picture)


class Family(Protocol):
    """A family of models; `pipeline` is whatever its own `load` returns."""

    NAME: str
    RULES: Rules
    PIPELINES: Mapping[str, Inputs]

    def read_rules(self, folder: Path) -> Rules:
        """Return the rules of one checkpoint: the family's, with the numbers of the folder's own configurations."""
        ...

    def load(self, folder: Path, precision: Precision = "float32") -> Any:
        """Load the folder's pipeline into host memory, its networks in a precision but a float32 autoencoder; raises
        BadModel."""
        ...

    def steered(self, pipeline: Any, request: Request) -> AbstractContextManager[None]:
        """Put the request's LoRAs on the pipeline's weights within a block; raises BadInput when the pipeline takes
        none and BadModel when they do not fit. Enter it before the weights are placed on a device."""
        ...

    def sample(self, pipeline: Any, request: Request) -> Tensor:
        """Sample latents, float32 [latent frames, channels, h, w], with a pipeline that is steered by the request;
        raises BadInput when the request does not fit."""
        ...

    def decode(self, pipeline: Any, latents: Tensor, request: Request) -> NDArray[np.uint8]:
        """Decode the request's latents to frames, uint8 RGB [frames, height, width, 3]."""
        ...


def check_request(request: Request, inputs: Inputs, rules: Rules, model: str) -> None:
    """Raise BadInput when an item lacks what `model` needs, has what it does not take, or breaks its rules."""
    given = {name for name, is_given in request.given().items() if is_given}
    item = f"Item {request.item_key}"
    if lacking := sorted(inputs.needs - given):
        raise BadInput(f"{item}: {model} needs {' and '.join(lacking)}. Give it.")
    if unknown := sorted(given - inputs.needs - inputs.takes):
        raise BadInput(f"{item}: {model} does not take {' or '.join(unknown)}. Leave it out.")
    notes = [rules.fit_frames(request.frames).note, rules.fit_size(request.width, request.height).note]
    if wrong := " ".join(note for note in notes if note):
        raise BadInput(
            f"{item}: {model} cannot make the frames or the size asked for. The nearest it can make: {wrong}"
        )
    if request.picture is not None and request.picture.shape != (request.height, request.width, 3):
        raise BadInput(
            f"{item}: the picture is {list(request.picture.shape)} but the clip is {request.width}x"
            f"{request.height}. Resize the picture first."
        )


def generate(family: Family, pipeline: Any, request: Request) -> NDArray[np.uint8]:
    """Generate a clip, uint8 RGB [frames, height, width, 3]; raises BadInput when the request does not fit."""
    with family.steered(pipeline, request):
        latents = family.sample(pipeline, request)
    return family.decode(pipeline, latents, request)


@contextmanager
def unsteered(pipeline: Any, request: Request) -> Iterator[None]:
    """Change nothing: for a family that takes no LoRAs, whose `sample` refuses a request with one."""
    yield


def _find_nearest(side: int, unit: int) -> int:
    return max(1, (2 * side + unit) // (2 * unit)) * unit
