"""The model a process works with: loaded once, shared by the steps of a flow, lent to one sampler at a time.

On a card everything that the model does takes turns, so that what was free when the work was planned is free when it is
done. On the CPU clips are decoded while others are sampled.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from models.device import CPU, Precision, dtype_of
from models.errors import BadInput, BadModel
from models.families.known import family_of
from models.families.loading import read_index
from models.lora import lora_applied
from models.svd import TINY, VideoModel, load_model

SAMPLED = "StableVideoDiffusionPipeline"
"""The pipeline class whose folders the flows sample."""

_LOADING, _WORKING = threading.Lock(), threading.Lock()


def model_folder(name: str) -> Path:
    """The folder of a model given by path, or of the embedded one as "tiny".

    Raises BadInput when there is none and BadModel when it is of a family that the flows do not sample.
    """
    folder = TINY if name == "tiny" else Path(name)
    if not (folder / "model_index.json").is_file():
        raise BadInput(f"{name}: no model there (a folder with model_index.json). Use 'tiny' for the embedded one.")
    _refuse_other_families(folder)
    return folder


def loaded_model(name: str, precision: Precision = "float32", device: torch.device = CPU) -> VideoModel:
    """The model that is to work on a device, from memory while its files are the same.

    On the CPU its autoencoder may be used by several threads. On a card it is in host memory, or where
    models/placement.py left it; the one for the CPU is another copy.
    """
    with _LOADING:
        return _load(name, _stamp(model_folder(name)), precision, device)


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


def _refuse_other_families(folder: Path) -> None:
    if read_index(folder).get("_class_name") == SAMPLED:
        return
    raise BadModel(
        f"{folder}: a model of {family_of(folder).NAME}; the flow samples folders of {SAMPLED} alone, and "
        "models/families/ runs the others from Python. Name a folder of that class, or 'tiny'."
    )


@lru_cache(maxsize=1)
def _load(name: str, stamp: tuple[tuple[str, int, int], ...], precision: Precision, device: torch.device) -> VideoModel:
    return load_model(name, dtype_of(precision))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files: what tells a changed model without reading it."""
    facts = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in facts)
