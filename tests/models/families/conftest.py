"""Small random parts that several families share: text encoders with tokenizers of single letters."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from models.families.rules import Request

Save = Callable[[Callable[[], Any], str], Path]


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves what a function makes with random weights, the same each time, and gives the folder."""

    def saved(make: Callable[[], Any], name: str) -> Path:
        folder = tmp_path_factory.mktemp("families") / name
        with torch.random.fork_rng():
            torch.manual_seed(0)
            make().save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def clip_text() -> Callable[[], dict[str, Any]]:
    """Makes a CLIP text encoder of width 32 with its tokenizer."""
    letters = string.ascii_lowercase
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]

    def make() -> dict[str, Any]:
        config = CLIPTextConfig(
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=16,
            vocab_size=len(pieces),
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=16)
        return {"text_encoder": CLIPTextModel(config), "tokenizer": tokenizer}

    return make


@pytest.fixture(scope="session")
def t5_tokenizer() -> Callable[[], T5Tokenizer]:
    """Makes a T5 tokenizer of single letters, of 30 pieces."""

    def make() -> T5Tokenizer:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
        return T5Tokenizer(
            vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0, model_max_length=16
        )

    return make


@pytest.fixture(scope="session")
def t5_text(t5_tokenizer: Callable[[], T5Tokenizer]) -> Callable[[], dict[str, Any]]:
    """Makes a T5 text encoder of width 32 with its tokenizer."""

    def make() -> dict[str, Any]:
        config = T5Config(vocab_size=32, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2)
        return {"text_encoder": T5EncoderModel(config), "tokenizer": t5_tokenizer()}

    return make


@pytest.fixture(scope="session")
def picture_model(save: Save, clip_text: Callable[[], dict[str, Any]]) -> Path:
    """The folder of a text-to-image model of Stable Diffusion's shape: pictures of 32x32 pixels, latents of 16x16."""

    def make() -> StableDiffusionPipeline:
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        layers: dict[str, Any] = {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        }
        vae = AutoencoderKL(**layers, latent_channels=4, norm_num_groups=8)
        scheduler: Any = DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1)
        rest: Any = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(vae=vae, unet=unet, scheduler=scheduler, **clip_text(), **rest)

    return save(make, "pictures")


@pytest.fixture
def ramp() -> NDArray[np.uint8]:
    """A picture of 32x32 pixels that grows lighter from left to right."""
    return np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 32, 3)).copy()


@pytest.fixture
def asked() -> Request:
    """A request for text: two steps."""
    return Request(seed=1, item_key="ball", frames=4, width=32, height=32, prompt="a red ball", steps=2, guidance=2.0)


@pytest.fixture
def plainly() -> Callable[..., NDArray[np.uint8]]:
    """Makes a request's clip by one call of diffusers' pipeline, which draws the same noise and decodes by itself."""

    def make(pipeline: Any, request: Request, **more: Any) -> NDArray[np.uint8]:
        made = pipeline(
            prompt=request.prompt,
            num_frames=request.frames,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=request.generator(),
            output_type="np",
            **more,
        )
        return (made.frames[0] * 255).round().astype(np.uint8)

    return make
