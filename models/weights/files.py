"""Which files of a network's folder are its weights: those that diffusers and transformers load, and no others.

A folder may hold the same weights more than once: in full precision, as a variant in half (`*.fp16.safetensors`), as
pickles. The plain safetensors go first; where there are none, the variant in half precision is loaded.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HALF = "fp16"
"""The variant that is loaded where there are no plain weights."""

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""What either library calls a network's weights."""


@dataclass(frozen=True)
class WeightFiles:
    """A network's files of weights, its variant, and the index that names them where there are several."""

    files: tuple[Path, ...]
    variant: str | None = None
    index: Path | None = None


def weights_in(folder: Path) -> WeightFiles | None:
    """The weights that are loaded of a network's folder; None where it has none, as a tokenizer's.

    Files that an index names are among them whether they are there or not.
    """
    for variant in (None, HALF):
        for path in _candidates(folder, f".{variant}" if variant else ""):
            if path.is_file():
                return _indexed(path, variant) if path.suffix == ".json" else WeightFiles((path,), variant)
    return None


def weight_bytes(folder: Path) -> int:
    """Size on disk of the weights that are loaded of a network's folder."""
    weights = weights_in(folder)
    return sum(path.stat().st_size for path in weights.files if path.is_file()) if weights else 0


def read_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """What is read when one part of a model is loaded: its weights, and what else ends in one of the suffixes."""
    weights = weights_in(folder) or WeightFiles(())
    own = {*weights.files, *([weights.index] if weights.index else ())}
    files = (path for path in folder.glob("*") if path.suffix in suffixes and path.is_file())
    return sorted(path for path in files if path in own or not _is_of_weights(path))


def _candidates(folder: Path, variant: str) -> Iterator[Path]:
    """In the order in which the libraries look for them."""
    yield folder / f"{DIFFUSERS}.safetensors.index{variant}.json"
    yield folder / f"{DIFFUSERS}{variant}.safetensors"
    yield folder / f"{TRANSFORMERS}{variant}.safetensors"
    yield folder / f"{TRANSFORMERS}.safetensors.index{variant}.json"


def _indexed(index: Path, variant: str | None) -> WeightFiles:
    """The files that an index names; none where it cannot be read, which loading will say."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        names = []
    return WeightFiles(tuple(index.parent / str(name) for name in names), variant, index)


def _is_of_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path.suffix == ".json" and ".index" in path.name)
