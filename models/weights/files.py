"""The files of a network's folder that are its weights: those that diffusers and transformers load, and no others.

A folder may hold the same weights several times: in full precision, as a half-precision variant
(`*.fp16.safetensors`), as pickles. The plain safetensors come first; without them, the variant in half precision is
loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.given_files import read_json

HALF = "fp16"
"""The variant that is loaded when there are no plain weights."""

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""The file name of a network's weights in each library."""


@dataclass(frozen=True)
class WeightFiles:
    """A network's files of weights, their variant, and the index that names them when there are several."""

    files: tuple[Path, ...]
    variant: str | None = None
    index: Path | None = None


def find_weights(folder: Path) -> WeightFiles | None:
    """Find the weights that are loaded from a network's folder; None when it has none, such as a tokenizer's.

    All files that an index names are included, even those that are missing.
    """
    for variant in (None, HALF):
        for path in _list_candidates(folder, f".{variant}" if variant else ""):
            if path.is_file():
                return _read_weights_index(path, variant) if path.suffix == ".json" else WeightFiles((path,), variant)
    return None


def weight_bytes(folder: Path) -> int:
    """Return the size on disk of the weights that are loaded from a network's folder."""
    weights = find_weights(folder)
    return sum(path.stat().st_size for path in weights.files if path.is_file()) if weights else 0


def read_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """List the files that loading one part of a model reads: its weights, and others with one of the suffixes."""
    weights = find_weights(folder) or WeightFiles(())
    own = {*weights.files, *([weights.index] if weights.index else ())}
    files = (path for path in folder.glob("*") if path.suffix in suffixes and path.is_file())
    return sorted(path for path in files if path in own or not _is_of_weights(path))


def _list_candidates(folder: Path, variant: str) -> Iterator[Path]:
    """Yield the possible files in the order in which the libraries look for them."""
    yield folder / f"{DIFFUSERS}.safetensors.index{variant}.json"
    yield folder / f"{DIFFUSERS}{variant}.safetensors"
    yield folder / f"{TRANSFORMERS}{variant}.safetensors"
    yield folder / f"{TRANSFORMERS}.safetensors.index{variant}.json"


def _read_weights_index(index: Path, variant: str | None) -> WeightFiles:
    """Return the files that an index names; none when it cannot be read, which loading then reports."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        names = []
    return WeightFiles(tuple(index.parent / str(name) for name in names), variant, index)


def _is_of_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path.suffix == ".json" and ".index" in path.name)
