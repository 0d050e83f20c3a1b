"""A model's card: what jobs must know of a model folder, read from its configuration without loading its weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel
from models.loaded import model_folder
from models.svd import ModelFacts, load_facts, load_words, weights_digest


@dataclass(frozen=True)
class ModelCard:
    """A model's native numbers, the motions it knows by name and the digest of its weights.

    `latent_scale`: pixels per latent cell along one side. `multiple`: what both sides of a clip must divide by, so that
    the UNet's halvings come out even. `decoder_width`: channels of the autoencoder at full resolution. `unet_bytes` and
    `weight_bytes`: size of the UNet's and of all weights on disk.
    """

    facts: ModelFacts
    words: frozenset[str]
    revision: str
    latent_scale: int
    multiple: int
    decoder_width: int
    unet_bytes: int
    weight_bytes: int


def read_card(name: str) -> ModelCard:
    """The card of the model at a folder, or of the embedded one as "tiny"; raises BadInput or BadModel."""
    folder = model_folder(name)
    widths = _blocks(folder, "vae")
    scale = 2 ** (len(widths) - 1)
    return ModelCard(
        facts=load_facts(folder),
        words=frozenset(load_words(folder)),
        revision=weights_digest(folder),
        latent_scale=scale,
        multiple=scale * 2 ** (len(_blocks(folder, "unet")) - 1),
        decoder_width=widths[0],
        unet_bytes=_weight_bytes(folder / "unet"),
        weight_bytes=_weight_bytes(folder),
    )


def rounded_size(width: int, height: int, multiple: int) -> tuple[int, int]:
    """The nearest size both sides of which divide by `multiple`; never smaller than one multiple."""
    nearest = (max(1, int(side / multiple + 0.5)) * multiple for side in (width, height))
    return next(nearest), next(nearest)


def _blocks(folder: Path, part: str) -> list[int]:
    path = folder / part / "config.json"
    try:
        return [int(width) for width in json.loads(path.read_text(encoding="utf-8"))["block_out_channels"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{path}: not the configuration of a model's part ({error}). Copy the model again.") from error


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
