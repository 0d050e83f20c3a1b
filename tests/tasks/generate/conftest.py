"""A LoRA for the small model, and pictures to give it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.lora import LoraFacts, add_lora, lora_weights, remove_lora, save_lora
from models.svd import load_model
from tasks.footage import Camera, Scene, render_shot


@pytest.fixture(scope="session")
def lora(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of random weights that says it was trained on clips that tilt up."""
    path = tmp_path_factory.mktemp("loras") / "tilt.safetensors"
    unet = load_model(model).unet
    add_lora(unet, rank=2, alpha=2.0)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(w.shape, generator=generator) for name, w in lora_weights(unet).items()}
    remove_lora(unet)
    lineage = {"dataset": "beach", "clips": [f"clip-{i}" for i in range(40)], "train": {"motions": ["tilt_up"]}}
    save_lora(path, weights, LoraFacts(2, 2.0, lineage))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes PNG pictures of different rendered scenes into a folder, by name."""

    def write(*names: str, folder: str = "pictures", size: tuple[int, int] = (48, 36)) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            scene = int.from_bytes(name.encode(), "big") % 1000
            frame = render_shot(Scene(scene, movers=0), Camera(), 1, size=size)[0]
            Image.fromarray(np.ascontiguousarray(frame)).save(tmp_path / folder / name)
        return tmp_path / folder

    return write
