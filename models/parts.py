"""One network of a model, from its folder: safetensors only, no remote code, and whole or not at all.

The libraries fill weights that a file lacks with random numbers and say so in a log; here that is an error.
"""

from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn

from models.errors import BadModel

Part = TypeVar("Part", bound=nn.Module)


def load_part(kind: type[Part], folder: Path) -> Part:
    """The network of a folder of diffusers or transformers, in float32 on the CPU, ready for inference.

    Raises BadModel when its configuration or weights are missing, broken, pickled or of another shape.
    """
    if not (folder / "config.json").is_file():
        raise BadModel(f"{folder}: config.json is missing. Copy the model's folder again.")
    load = {"use_safetensors": True, "local_files_only": True, "ignore_mismatched_sizes": True}
    try:
        part, report = cast(Any, kind).from_pretrained(folder, **load, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = first_sentence(error)
        raise BadModel(f"{folder}: the weights cannot be loaded ({reason}). Copy the folder again.") from error
    if made_up := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise BadModel(
            f"{folder}: {len(made_up)} of the weights are missing or of another shape, {made_up[0]} first. "
            "Copy the folder again."
        )
    # Not part.to: diffusers' own complains of a change of precision.
    nn.Module.to(part, torch.float32)
    return part.eval()


def first_sentence(error: Exception) -> str:
    """What a library's error says, without the advice to programmers that follows."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
