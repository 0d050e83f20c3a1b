"""A diffusers pipeline from a local folder: safetensors only, no remote code, every network whole or not at all."""

import importlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from models.device import Precision, dtype_of
from models.errors import BadInput, BadModel
from models.weights.network import first_sentence, load_part

LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
"""Where the classes named in model_index.json may come from; a folder's own Python files are never among them."""

AUTOENCODER = "vae"
"""What pipelines call their autoencoder."""

IN_FLOAT32 = (AUTOENCODER, "safety_checker")
"""Networks that work in float32 whatever the others do: what a picture shows, and whether it may, hang on them."""

FAILURES = (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)
"""What the libraries raise for a folder that they cannot load."""


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json: `_class_name`, and [library, class] for each part. Raises BadInput when there is none."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise BadInput(f"{folder}: no model there (a folder with model_index.json). Name a diffusers model's folder.")
    return read_json(path)


def parts_of(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[library, class] by name, of the parts that the folder has: an absent one is [null, null].

    Raises BadModel for a name that could lead out of the folder.
    """
    own = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry != [None, None]}
    if wrong := next((name for name in own if not name.isidentifier()), None):
        raise BadModel(f"model_index.json: {wrong!r} is no name of a part. Copy the model's folder again.")
    return own


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of one part of a model's folder; raises BadModel when it is missing or no JSON object."""
    path = folder / part / "config.json"
    if not path.is_file():
        raise BadModel(f"{path}: the file is missing. Copy the model's folder again.")
    return read_json(path)


def load_pipeline(
    kinds: Mapping[str, type[DiffusionPipeline]], folder: Path, precision: Precision = "float32", **given: Any
) -> Any:
    """The pipeline of a folder whose class is one of `kinds`, by name; its networks are on the CPU, frozen, in a
    precision, but for those that are always in float32.

    `given` are parts and settings that do not come from the folder. Raises BadModel when a part is missing, broken,
    pickled, or of a class from elsewhere than diffusers and transformers.
    """
    index = read_index(folder)
    kind = kinds.get(str(index.get("_class_name")))
    if kind is None:
        raise BadModel(
            f"{folder}: its class is {index.get('_class_name')}, not {' or '.join(kinds)}. Name another model's folder."
        )
    _refuse_unreadable_tokenizers(folder, index)
    parts = {name: _class_of(folder, name, entry) for name, entry in parts_of(index).items() if name not in given}
    networks = {
        name: load_part(part, folder / name, dtype_of("float32" if name in IN_FLOAT32 else precision))
        for name, part in parts.items()
        if issubclass(part, nn.Module)
    }
    try:
        pipeline: Any = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **networks, **given)
    except FAILURES as error:
        raise BadModel(f"{folder}: {kind.__name__} cannot load it ({first_sentence(error)}).") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _refuse_unreadable_tokenizers(folder: Path, index: dict[str, Any]) -> None:
    """The library's own message for a spiece.model that it cannot read names a package that would not help."""
    for name in parts_of(index):
        only_pieces = (folder / name / "spiece.model").is_file() and not (folder / name / "tokenizer.json").is_file()
        if only_pieces and find_spec("sentencepiece") is None:
            raise BadModel(
                f"{folder / name}: a tokenizer as spiece.model alone is read by the package sentencepiece, which is "
                "not installed. Install it, or put the tokenizer.json of the same tokenizer there."
            )


def _class_of(folder: Path, name: str, entry: list[Any]) -> type[Any]:
    library, class_name = (*entry, None, None)[:2]
    module = LIBRARIES.get(str(library))
    found = getattr(importlib.import_module(module), str(class_name), None) if module else None
    if not isinstance(found, type):
        raise BadModel(
            f"{folder}: its part {name} is {library}.{class_name}, which is not a class of diffusers or transformers; "
            "a folder's own code is never run."
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises BadModel when the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadModel(f"{path}: not JSON ({first_sentence(error)}). Copy the model's folder again.") from error
    if not isinstance(content, dict):
        raise BadModel(f"{path}: not a JSON object. Copy the model's folder again.")
    return content
