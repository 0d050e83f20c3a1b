"""A small random model of Stable Video Diffusion's shape, on disk, and pictures to give it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.autoencoder import new_autoencoder
from models.image_encoder import new_feature_extractor, new_image_encoder
from models.lora import LoraFacts, add_lora, lora_weights, remove_lora, save_lora
from models.svd import ModelFacts, VideoModel, load_model, save_model
from tasks.footage import Camera, Scene, render_shot
from tasks.tiny.encoders import new_scheduler, new_unet

FACTS = {"frames": 4, "width": 32, "height": 32, "lineage": {"dataset": "rendered"}}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random model of 4 frames of 32x32 that knows two motions by name."""
    folder = tmp_path_factory.mktemp("models") / "small"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VideoModel(
            unet=new_unet(),
            vae=new_autoencoder((32, 32, 32)),
            image_encoder=new_image_encoder(),
            feature_extractor=new_feature_extractor(),
            scheduler=new_scheduler(),
            words={"pan_left": torch.randn(64), "static": torch.randn(64)},
            facts=ModelFacts.model_validate(FACTS),
            revision="",
        )
    save_model(made, folder)
    return str(folder)


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
