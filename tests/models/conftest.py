"""Small random models of Stable Video Diffusion's shape: four frames of 32x32 pixels, latents of 8x8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from models.svd.autoencoder import new_autoencoder
from models.svd.image_encoder import new_feature_extractor, new_image_encoder
from models.svd.model import ModelFacts, VideoModel
from tasks.tiny.encoders import make_scheduler
from tests import small_families
from tests.small_families import drawing_pipeline

UNetMaker = Callable[..., UNetSpatioTemporalConditionModel]

Save = Callable[[Callable[[], Any], str], Path]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are bitwise the same only when they are split among threads the same way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_unet() -> UNetMaker:
    """Makes random UNets, the same one for the same widths and seed."""

    def make(widths: tuple[int, ...] = (32, 32), seed: int = 0) -> UNetSpatioTemporalConditionModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return UNetSpatioTemporalConditionModel(
                sample_size=8,
                block_out_channels=widths,
                num_attention_heads=(1,) * len(widths),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlockSpatioTemporal",) * len(widths),
                up_block_types=("CrossAttnUpBlockSpatioTemporal",) * len(widths),
                cross_attention_dim=32,
                addition_time_embed_dim=32,
                projection_class_embeddings_input_dim=96,
                num_frames=4,
            ).eval()

    return make


@pytest.fixture
def model(make_unet: UNetMaker) -> VideoModel:
    """A random model that knows two motions by name."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return VideoModel(
            unet=make_unet(),
            vae=new_autoencoder((32, 32, 32)).eval(),
            image_encoder=new_image_encoder(32, 32).eval(),
            feature_extractor=new_feature_extractor(),
            scheduler=make_scheduler(),
            words={"pan_left": torch.randn(32), "static": torch.randn(32)},
            facts=ModelFacts(frames=4, width=32, height=32, guidance=(1.0, 2.0), lineage={"dataset": "rendered"}),
            revision="",
        )


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves what a function makes with random weights, the same each time, and gives the folder."""
    return lambda make, name: small_families.save(make, tmp_path_factory.mktemp("families") / name)


@pytest.fixture(scope="session")
def picture_model(save: Save) -> Path:
    """The folder of a text-to-image model: pictures of 32x32 pixels."""
    return save(drawing_pipeline, "pictures")
