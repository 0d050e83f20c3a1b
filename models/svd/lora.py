"""LoRA on the temporal attention of a spatio-temporal UNet, as the Stable Video Diffusion paper's camera-motion LoRAs.

A LoRA file is safetensors with peft's names and, as metadata, its rank, alpha and lineage: enough to load it anywhere.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from diffusers import UNetSpatioTemporalConditionModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import BadInput, BadModel
from models.given_files import parse_json
from models.svd.model import VideoModel

TEMPORAL_ATTENTION = r".*temporal_transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"


@dataclass(frozen=True)
class LoraFacts:
    """What a LoRA file records about itself."""

    rank: int
    alpha: float
    lineage: dict[str, Any]

    @property
    def motions(self) -> tuple[str, ...]:
        """Return the camera motions that it was trained for, if any."""
        return tuple((self.lineage.get("train") or {}).get("motions") or ())


def add_lora(unet: UNetSpatioTemporalConditionModel, rank: int = 16, alpha: float = 16.0) -> None:
    """Put a fresh LoRA on the temporal attention of `unet`, in place; only its weights train afterwards."""
    unet.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules=TEMPORAL_ATTENTION), unet)


def remove_lora(unet: UNetSpatioTemporalConditionModel) -> None:
    """Take the LoRA off again: the UNet is what it was before."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, module.base_layer)
    if hasattr(unet, "peft_config"):
        del unet.peft_config


def read_lora_weights(unet: UNetSpatioTemporalConditionModel) -> dict[str, Tensor]:
    """Return the LoRA's weights by peft's names."""
    return {name: weight.detach().clone().contiguous() for name, weight in get_peft_model_state_dict(unet).items()}


def save_lora(path: Path, weights: Mapping[str, Tensor], facts: LoraFacts) -> None:
    """Write a LoRA with its facts in the file's metadata; the same LoRA gives the same bytes."""
    # One entry: safetensors writes several in any order.
    save_file(dict(weights), path, metadata={"reelmill": json.dumps(vars(facts), sort_keys=True)})


def load_lora(path: Path) -> tuple[dict[str, Tensor], LoraFacts]:
    """Read a LoRA's weights and facts. Raises BadInput when there is no such file and BadModel when it is not a
    LoRA."""
    if not path.is_file():
        raise BadInput(f"{path}: no LoRA file there.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "reelmill" not in metadata:
            raise ValueError("it has no facts of Reelmill's; those of other trainers are not read")
        facts = LoraFacts(**parse_json(metadata["reelmill"]))
        _check_facts(facts, weights)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadModel(f"{path}: not a LoRA made by Reelmill ({error}).") from error
    return weights, facts


def _check_facts(facts: LoraFacts, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, TypeError or AttributeError for facts of another kind, or that do not fit these weights."""
    ranks = {weight.shape[0] for name, weight in weights.items() if "lora_A" in name}
    if ranks != {facts.rank} or not math.isfinite(facts.alpha) or not all(isinstance(m, str) for m in facts.motions):
        raise ValueError(f"its weights are of rank {sorted(ranks)}, it says {facts.rank}, alpha {facts.alpha}")


def apply_lora(model: VideoModel, path: Path, strength: float = 1.0) -> LoraFacts:
    """Put the LoRA at `path` on the model's UNet, in place, its effect multiplied by `strength`.

    Raises BadModel, and leaves the model unchanged, when the weights do not fit it.
    """
    weights, facts = load_lora(path)
    add_lora(model.unet, facts.rank, facts.alpha * strength)
    expected = get_peft_model_state_dict(model.unet)
    if {name: w.shape for name, w in expected.items()} != {name: w.shape for name, w in weights.items()}:
        remove_lora(model.unet)
        raise BadModel(f"{path}: the LoRA was made for a model of another shape. Use it with its own base model.")
    set_peft_model_state_dict(model.unet, weights)
    model.unet.requires_grad_(False)
    return facts


@contextmanager
def lora_applied(model: VideoModel, path: Path | None, strength: float = 1.0) -> Iterator[None]:
    """Put the LoRA at `path`, if any, on the model for the length of a block."""
    if path is None:
        yield
        return
    apply_lora(model, path, strength)
    try:
        yield
    finally:
        remove_lora(model.unet)
