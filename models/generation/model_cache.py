"""The model a process works with: loaded once, shared by the steps of a flow, lent to one sampler at a time.

On a card everything that the model does takes turns, so that what was free when the work was planned is free when it is
done. On the CPU clips are decoded while others are sampled.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from models.device import CPU, Precision, dtype_of
from models.errors import BadModel
from models.families import text_to_picture
from models.families.family import Family
from models.families.known import family_of
from models.families.placement import networks
from models.families.svd import NAME as SVD
from models.families.svd import PIPELINE
from models.memory.placement import move
from models.svd.lora import lora_applied
from models.svd.model import VideoModel, load_model
from models.weights.names import any_model_folder, revision_of

_LOADING, _WORKING = threading.Lock(), threading.Lock()

_DRAWERS: WeakSet[Any] = WeakSet()
"""The text-to-image models that are in memory."""


class Lent(NamedTuple):
    """A family with its pipeline, and the revision of what it was loaded from."""

    family: Family
    pipeline: Any
    revision: str


def model_folder(name: str) -> Path:
    """The folder of a model of Stable Video Diffusion's shape, by its name (models/weights/names.py).

    Raises BadInput when there is none and BadModel when it is of another family.
    """
    folder = any_model_folder(name)
    family, _ = family_of(folder)
    if family.NAME != SVD:
        raise BadModel(
            f"{name}: a model of {family.NAME}; `reelmill generate` samples it, but it is not trained or measured "
            f"here. Name a folder of {PIPELINE}, or 'tiny'."
        )
    return folder


def loaded_model(name: str, precision: Precision = "float32", device: torch.device = CPU) -> VideoModel:
    """The model that is to work on a device, from memory while its files are the same.

    On the CPU its autoencoder may be used by several threads. On a card it is in host memory, or where
    models/memory/placement.py left it; the one for the CPU is another copy.
    """
    with _LOADING:
        return _load(name, _stamp(model_folder(name)), precision, device)


@contextmanager
def lent_pipeline(name: str, precision: Precision = "float32") -> Iterator[Lent]:
    """A model of any family for the length of a block, in which no one else samples or has it: autoencoders of some
    families keep frames between calls. It is in host memory, or where models/families/placement.py left it."""
    with _WORKING:
        folder = any_model_folder(name)
        with _LOADING:
            lent = _load_pipeline(name, _stamp(folder), precision)
        yield lent


@contextmanager
def lent_drawer(name: str, revision: str, precision: Precision = "float32") -> Iterator[Any]:
    """A text-to-image model's pipeline for the length of a block; raises BadModel when it is not of `revision`. It is
    in host memory, or where models/families/placement.py left it until `drawers_leave`."""
    with _WORKING:
        folder = any_model_folder(name)
        with _LOADING:
            pipeline, found = _load_drawer(name, _stamp(folder), precision)
        if found != revision:
            raise BadModel(f"{name}: the model's files changed while it was in use. Start the run again.")
        yield pipeline


def drawers_leave() -> None:
    """Move what draws pictures to host memory, so that the model which makes clips of them has the card's."""
    with _WORKING:
        for pipeline in list(_DRAWERS):
            move(list(networks(pipeline).values()), CPU)


@contextmanager
def model_with_lora(
    name: str,
    lora: Path | None,
    strength: float = 1.0,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> Iterator[VideoModel]:
    """The model for the length of a block, with a LoRA on it if one is given; no one else samples meanwhile."""
    with _WORKING:
        model = loaded_model(name, precision, device)
        with lora_applied(model, lora, strength):
            yield model


@contextmanager
def waited_for_model(name: str, precision: Precision = "float32", device: torch.device = CPU) -> Iterator[VideoModel]:
    """The model for the length of a block, for its autoencoder or to plan; on a card nothing else works meanwhile."""
    with _WORKING if device.type != "cpu" else nullcontext():
        yield loaded_model(name, precision, device)


@lru_cache(maxsize=1)
def _load(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision, device: torch.device) -> VideoModel:
    return load_model(name, dtype_of(precision))


@lru_cache(maxsize=1)
def _load_pipeline(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision) -> Lent:
    folder = any_model_folder(name)
    family, _ = family_of(folder)
    return Lent(family, family.load(folder, precision), revision_of(name))


@lru_cache(maxsize=1)
def _load_drawer(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision) -> tuple[Any, str]:
    pipeline = text_to_picture.load(any_model_folder(name), precision)
    _DRAWERS.add(pipeline)
    return pipeline, revision_of(name)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files: what tells a changed model without reading it."""
    facts = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in facts)
