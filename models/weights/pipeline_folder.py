"""A diffusers pipeline from a local folder: safetensors only, no remote code, every network complete or not at all."""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from models.device import Precision, get_dtype
from models.errors import BadInput, BadModel
from models.given_files import read_json
from models.weights.network import extract_first_sentence, load_part

LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
"""Where the classes named in model_index.json may come from; a folder's own Python files are never among them."""

AUTOENCODER = "vae"
"""The name of the autoencoder in pipelines."""

IN_FLOAT32 = (AUTOENCODER, "safety_checker")
"""Networks that always work in float32: they decide what a picture shows, and whether it may be shown."""

FAILURES = (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)
"""The errors that the libraries raise for a folder that they cannot load."""


def read_index(folder: Path) -> dict[str, Any]:
    """Read model_index.json: `_class_name`, and [library, class] for each part. Raises BadInput when there is none."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise BadInput(f"{folder}: no model there (a folder with model_index.json). Name a diffusers model's folder.")
    return read_json_object(path)


def list_parts(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return [library, class] by name for the parts that the folder has: an absent one is [null, null].

    Raises BadModel for a name that could lead out of the folder.
    """
    own = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry != [None, None]}
    if wrong := next((name for name in own if not name.isidentifier()), None):
        raise BadModel(f"model_index.json: {wrong!r} is not a valid name of a part. Copy the model's folder again.")
    return own


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Read the configuration of one part of a model's folder; raises BadModel when it is missing or not JSON."""
    path = folder / part / "config.json"
    if not path.is_file():
        raise BadModel(f"{path}: the file is missing. Copy the model's folder again.")
    return read_json_object(path)


def load_pipeline(
    kinds: Mapping[str, type[DiffusionPipeline]], folder: Path, precision: Precision = "float32", **given: Any
) -> Any:
    """Load the pipeline of a folder whose class is one of `kinds`, by name; its networks are on the CPU, frozen, in a
    precision, except those that are always in float32.

    `given` are parts and settings that do not come from the folder. Raises BadModel when a part is missing, broken,
    pickled, or of a class outside diffusers and transformers.
    """
    index = read_index(folder)
    kind = kinds.get(str(index.get("_class_name")))
    if kind is None:
        raise BadModel(
            f"{folder}: its class is {index.get('_class_name')}, not {' or '.join(kinds)}. Name another model's folder."
        )
    _refuse_unreadable_tokenizers(folder, index)
    parts = {
        name: _find_part_class(folder, name, entry) for name, entry in list_parts(index).items() if name not in given
    }
    networks = {
        name: load_part(part, folder / name, get_dtype("float32" if name in IN_FLOAT32 else precision))
        for name, part in parts.items()
        if issubclass(part, nn.Module)
    }
    try:
        pipeline: Any = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **networks, **given)
    except FAILURES as error:
        raise BadModel(f"{folder}: {kind.__name__} cannot load it ({extract_first_sentence(error)}).") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _refuse_unreadable_tokenizers(folder: Path, index: dict[str, Any]) -> None:
    """Raise BadModel for an unreadable spiece.model: the library's own message names a package that does not help."""
    for name in list_parts(index):
        only_pieces = (folder / name / "spiece.model").is_file() and not (folder / name / "tokenizer.json").is_file()
        if only_pieces and find_spec("sentencepiece") is None:
            raise BadModel(
                f"{folder / name}: its tokenizer is only a spiece.model, and sentencepiece, the package that reads it, "
                "is not installed. Install it, or put the tokenizer.json of the same tokenizer there."
            )


def _find_part_class(folder: Path, name: str, entry: list[Any]) -> type[Any]:
    library, class_name = (*entry, None, None)[:2]
    module = LIBRARIES.get(str(library))
    found = getattr(importlib.import_module(module), str(class_name), None) if module else None
    if not isinstance(found, type):
        raise BadModel(
            f"{folder}: its part {name} is {library}.{class_name}, which is not a class of diffusers or transformers; "
            "a folder's own code is never run."
        )
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises BadModel when the file is not one."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise BadModel(f"{path}: not JSON ({extract_first_sentence(error)}). Copy the model's folder again.") from error
    if not isinstance(content, dict):
        raise BadModel(f"{path}: not a JSON object. Copy the model's folder again.")
    return content
