"""How similar pictures and captions are, and how pleasing pictures are, from one CLIP forward pass over both.

Similarity is the cosine of the two L2-normalised embeddings, -1 to 1, higher is more similar (Radford et al., arXiv
2103.00020); there is no softmax, which over one caption is always 1. The aesthetic score is LAION's: a head of linear
layers over the picture's L2-normalised embedding, trained on ratings from 1 to 10 (Schuhmann et al., arXiv 2210.08402).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import BadModel
from models.weights.hub_cache import load_part, read_weights
from models.weights.kept import kept_in_memory

Embeddings = NDArray[np.float32]
"""[items, width], each of length 1."""

_RUNNING = threading.Lock()


@dataclass(frozen=True)
class ClipModel:
    """CLIP's network with the processors of its pictures and captions."""

    network: Any
    pictures: Any
    tokenizer: Any

    def embed(self, frames: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> tuple[Embeddings, Embeddings]:
        """Embed one or more uint8 RGB frames and any number of captions, in one forward pass.

        A caption is cut at the network's longest text: 77 tokens for OpenAI's.
        """
        import torch

        tokens = self.tokenizer(
            list(captions) or ["."],
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        prepared = self.pictures(images=list(frames), return_tensors="pt")
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        inputs["pixel_values"] = prepared["pixel_values"]
        with _RUNNING, torch.no_grad():
            found = self.network(**{name: value.to(self.network.device) for name, value in inputs.items()})
        images, texts = (_normalise_lengths(each) for each in (found.image_embeds, found.text_embeds))
        return images, texts[: len(captions)]


@kept_in_memory()
def load_clip(folder: Path) -> ClipModel:
    """Load the CLIP model of a folder in transformers' layout and keep it in memory; raises BadModel for any other."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    network, pictures, tokenizer = (load_part(part, folder) for part in (CLIPModel, CLIPImageProcessor, AutoTokenizer))
    return ClipModel(network, pictures, tokenizer)


def score_aesthetics(head: Path, embeddings: Embeddings) -> NDArray[np.float32]:
    """Score each embedding by the head in a safetensors file: one linear layer (`weight`, `bias`), or several in the
    order of their numbers (`layers.0.weight`, ...), with nothing between them.

    Raises BadModel when the file has no such head, or one for embeddings of another width.
    """
    layers = _read_layers(head)
    width = layers[0][0].shape[1]
    if width != embeddings.shape[1]:
        raise BadModel(
            f"{head}: is for embeddings of {width} numbers, CLIP gives {embeddings.shape[1]}. Name this CLIP's head."
        )
    found = embeddings.astype(np.float64)
    for weight, bias in layers:
        found = found @ weight.T + bias
    return found[:, 0].astype(np.float32)


def _read_layers(head: Path) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    tensors = {name: tensor.double().numpy() for name, tensor in read_weights(head).items()}
    stems = sorted((name.removesuffix("weight") for name in tensors if name.endswith("weight")), key=_parse_number)
    lacking = [f"{stem}bias" for stem in stems if f"{stem}bias" not in tensors]
    if not stems or lacking:
        raise BadModel(
            f"{head}: not an aesthetic head, it has no {lacking[0] if lacking else 'weight'}. See docs/weights.md."
        )
    layers = [(np.atleast_2d(tensors[f"{stem}weight"]), tensors[f"{stem}bias"]) for stem in stems]
    widths = [weight.shape[0] for weight, _ in layers]
    if widths[-1] != 1 or any(
        weight.shape[1] != before for (weight, _), before in zip(layers[1:], widths, strict=False)
    ):
        raise BadModel(f"{head}: not an aesthetic head, its layers do not end in one score. See docs/weights.md.")
    return layers


def _parse_number(stem: str) -> int:
    """Return the number in "layers.6.", 0 without one."""
    return int("".join(letter for letter in stem if letter.isdigit()) or 0)


def _normalise_lengths(embeddings: Any) -> Embeddings:
    found = embeddings.float().cpu().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)
