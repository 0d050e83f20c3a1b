"""What of a model trains, as one network; and what was trained, as the file or the folder that generation loads."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.device import get_dtype
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, remove_lora, save_lora
from models.svd.model import VideoModel, load_model, read_setting, save_model
from models.svd.training import Network
from tasks.finetune.train_config import TrainConfig
from tasks.manifest import publish, publish_folder


def make_network(model: VideoModel, config: TrainConfig, motions: Iterable[str]) -> Network:
    """Return the network to train, on the model's own UNet: its parameters that train require gradients.

    `motions` are those of the examples. Weights that do not train are in the precision of the passes.
    """
    unet = model.unet
    if config.parameters == "lora":
        nn.Module.to(unet, get_dtype(config.precision))
        add_lora(unet, config.rank, config.alpha)
        _seed_lora(unet, config.seed)
        # A LoRA is used without a word, so it learns without one.
        return Network(unet, {})
    unet.requires_grad_(True)
    return Network(unet, _make_words(model, config, motions) if config.words else model.words)


def _make_words(model: VideoModel, config: TrainConfig, motions: Iterable[str]) -> dict[str, nn.Parameter]:
    width = read_setting(model.unet, "cross_attention_dim")
    generator = torch.Generator().manual_seed(config.seed)
    names = sorted({motion for motion in motions if motion} | set(model.words))
    fresh = {name: torch.randn(width, generator=generator) for name in names}
    return {name: nn.Parameter(model.words.get(name, fresh[name]).detach().clone()) for name in names}


def _seed_lora(unet: nn.Module, seed: int) -> None:
    """Draw the LoRA's first factors, in float32, from the run's seed. The second ones are zero, so training starts at
    the base model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if ".lora_A." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
        elif ".lora_B." in name:
            parameter.data = torch.zeros(parameter.shape)


def save_trained(
    base: str, config: TrainConfig, trained: Mapping[str, Tensor], motions: Iterable[str], folder: Path, lineage: Any
) -> Path:
    """Write what was trained of `base`, by the network's names, as a LoRA or a model folder. The file returned is
    written last, so that its existence means that all is there."""
    model = load_model(base)
    network = make_network(model, config.model_copy(update={"precision": "float32"}), motions)
    with torch.no_grad():
        for name, tensor in trained.items():
            network.get_parameter(name).copy_(tensor)
    if config.parameters == "lora":
        path = folder / "lora.safetensors"
        with publish(path) as aside:
            save_lora(aside, read_lora_weights(model.unet), LoraFacts(config.rank, config.alpha, lineage))
        remove_lora(model.unet)
        return path
    facts = model.facts.model_copy(update={"lineage": lineage})
    words = {name: word.detach() for name, word in network.words.items()}
    with publish_folder(folder / "model") as aside:
        save_model(replace(model, words=words, facts=facts), aside)
    return folder / "model" / "model_index.json"
