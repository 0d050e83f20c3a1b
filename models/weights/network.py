"""One network of a model, from its folder: safetensors only, no remote code, and complete or not at all.

The libraries fill weights that a file lacks with random numbers and only log it; here that is an error.
"""

from math import prod
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from models.errors import BadModel, is_out_of_memory
from models.weights.files import find_weights

Part = TypeVar("Part", bound=nn.Module)


def load_part(kind: type[Part], folder: Path, dtype: torch.dtype = torch.float32) -> Part:
    """Load the network of a folder of diffusers or transformers on the CPU, ready for inference. Its weights are
    frozen, because torch sums a product with a trainable matrix in another order, which changes the last bits. Weights
    that are only there in half precision are converted to `dtype`, too.

    Layers that the library knows to overflow or lose too much in half precision stay in float32. Raises BadModel when
    its configuration or weights are missing, broken, pickled or of another shape; passes on out-of-memory errors.
    """
    if not (folder / "config.json").is_file():
        raise BadModel(f"{folder}: config.json is missing. Copy the model's folder again.")
    load = {"use_safetensors": True, "local_files_only": True, "ignore_mismatched_sizes": True, "dtype": dtype}
    weights = find_weights(folder)
    variant = weights.variant if weights else None
    try:
        part, report = cast(Any, kind).from_pretrained(folder, **load, variant=variant, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = extract_first_sentence(error)
        raise BadModel(f"{folder}: the weights cannot be loaded ({reason}). Copy the folder again.") from error
    if made_up := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise BadModel(
            f"{folder}: {len(made_up)} of the weights are missing or of another shape, {made_up[0]} first. "
            "Copy the folder again."
        )
    return part.eval().requires_grad_(False)


def read_weight_sizes(folder: Path) -> dict[str, int]:
    """Return the number of values of each weight loaded from a network's folder, by name, from the file headers."""
    sizes: dict[str, int] = {}
    weights = find_weights(folder)
    for path in weights.files if weights else ():
        with safe_open(path, "pt") as file:
            sizes |= {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    return sizes


def extract_first_sentence(error: Exception) -> str:
    """Return what a library's error says, without the advice to programmers that follows."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
