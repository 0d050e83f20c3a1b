"""The model that a process works with: loaded once, shared by the steps of a flow, lent to one sampler at a time.

On a GPU only one piece of work runs at a time, so that memory that was free when work was planned is still free when it
runs. On the CPU clips are decoded while others are sampled.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from models.device import CPU, Precision, get_dtype
from models.errors import BadModel
from models.families import text_to_picture
from models.families.family import Family
from models.families.known import find_family
from models.families.placement import list_networks
from models.families.svd import NAME as SVD
from models.families.svd import PIPELINE
from models.memory.placement import move
from models.svd.lora import lora_applied
from models.svd.model import VideoModel, load_model
from models.weights.names import find_model_folder, find_revision

_LOADING, _WORKING = threading.Lock(), threading.Lock()

_DRAWERS: WeakSet[Any] = WeakSet()
"""The text-to-image models that are in memory."""


class Lent(NamedTuple):
    """A family with its pipeline, and the revision of the files it was loaded from."""

    family: Family
    pipeline: Any
    revision: str


def find_svd_folder(name: str) -> Path:
    """Find the folder of a model of Stable Video Diffusion's shape by its name (models/weights/names.py).

    Raises BadInput when there is none and BadModel when it is of another family.
    """
    folder = find_model_folder(name)
    family, _ = find_family(folder)
    if family.NAME != SVD:
        raise BadModel(
            f"{name}: a model of {family.NAME}; `reelmill generate` samples it, but it cannot be trained or measured "
            f"here. Name a folder of {PIPELINE}, or 'tiny'."
        )
    return folder


def get_model(name: str, precision: Precision = "float32", device: torch.device = CPU) -> VideoModel:
    """Return the model for a device, from memory while its files are unchanged.

    On the CPU several threads may use its autoencoder. For a GPU it is in host memory, or where
    models/memory/placement.py left it; the model for the CPU is a separate copy.
    """
    with _LOADING:
        return _load(name, _read_model_stamp(find_svd_folder(name)), precision, device)


@contextmanager
def lent_pipeline(name: str, precision: Precision = "float32") -> Iterator[Lent]:
    """Lend a model of any family to a block; meanwhile nothing else samples or has it, because autoencoders of some
    families keep frames between calls. It is in host memory, or where models/families/placement.py left it."""
    with _WORKING:
        folder = find_model_folder(name)
        with _LOADING:
            lent = _load_pipeline(name, _read_model_stamp(folder), precision)
        yield lent


@contextmanager
def lent_drawer(name: str, revision: str, precision: Precision = "float32") -> Iterator[Any]:
    """Lend a text-to-image model's pipeline to a block; raises BadModel when it is not of `revision`. Until
    `unload_drawers`, it is in host memory or where models/families/placement.py left it."""
    with _WORKING:
        folder = find_model_folder(name)
        with _LOADING:
            pipeline, found = _load_drawer(name, _read_model_stamp(folder), precision)
        if found != revision:
            raise BadModel(f"{name}: the model's files changed while it was in use. Start the run again.")
        yield pipeline


def unload_drawers() -> None:
    """Move the models that draw pictures to host memory, so that the model that makes clips has the GPU's memory."""
    with _WORKING:
        for pipeline in list(_DRAWERS):
            move(list(list_networks(pipeline).values()), CPU)


@contextmanager
def model_with_lora(
    name: str,
    lora: Path | None,
    strength: float = 1.0,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> Iterator[VideoModel]:
    """Lend the model to a block, with a LoRA on it if one is given; nothing else samples meanwhile."""
    with _WORKING:
        model = get_model(name, precision, device)
        with lora_applied(model, lora, strength):
            yield model


@contextmanager
def waited_for_model(name: str, precision: Precision = "float32", device: torch.device = CPU) -> Iterator[VideoModel]:
    """Lend the model to a block, for its autoencoder or to plan; on a GPU nothing else runs meanwhile."""
    with _WORKING if device.type != "cpu" else nullcontext():
        yield get_model(name, precision, device)


@lru_cache(maxsize=1)
def _load(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision, device: torch.device) -> VideoModel:
    return load_model(name, get_dtype(precision))


@lru_cache(maxsize=1)
def _load_pipeline(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision) -> Lent:
    folder = find_model_folder(name)
    family, _ = find_family(folder)
    return Lent(family, family.load(folder, precision), find_revision(name))


@lru_cache(maxsize=1)
def _load_drawer(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision) -> tuple[Any, str]:
    pipeline = text_to_picture.load(find_model_folder(name), precision)
    _DRAWERS.add(pipeline)
    return pipeline, find_revision(name)


def _read_model_stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of a model's files: they show that a model has changed without reading it."""
    facts = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in facts)
