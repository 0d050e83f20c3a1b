"""HunyuanVideo: the real pipeline on small random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from models.errors import BadInput
from models.families import hunyuanvideo
from models.families.rules import Request, generate
from tests.small_families import clip_text

WORDS = ("[PAD]", "[UNK]", "a", "red", "ball", "blue", "cube")


def parts() -> dict[str, Any]:
    """A pipeline's parts: latents of an eighth of the sides, of 4 channels, for 4 frames each."""
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
    )
    layers: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    vae = AutoencoderKLHunyuanVideo(**layers, latent_channels=4)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 37, "num_attention_heads": 4}
    seen = clip_text(positions=77)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": LlamaModel(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=len(WORDS), pad_token_id=0)),
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"),
        "text_encoder_2": seen["text_encoder"],
        "tokenizer_2": seen["tokenizer"],
    }


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: HunyuanVideoPipeline(**parts()), "text")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return hunyuanvideo.load(folder)


@pytest.fixture
def item(asked: Request) -> Request:
    return replace(asked, frames=5)


def test_a_text_becomes_a_clip_of_the_frames_and_size_asked_and_its_seed_is_a_promise(
    pipeline: Any, item: Request
) -> None:
    clip = generate(hunyuanvideo, pipeline, replace(item, width=48))
    assert clip.shape == (5, 32, 48, 3)
    assert clip.std() > 1
    assert np.array_equal(clip, generate(hunyuanvideo, pipeline, replace(item, width=48)))
    assert not np.array_equal(clip, generate(hunyuanvideo, pipeline, replace(item, width=48, take=1)))


def test_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: Any, item: Request, plainly: Callable[..., NDArray[np.uint8]]
) -> None:
    assert np.array_equal(generate(hunyuanvideo, pipeline, item), plainly(pipeline, item))


def test_texts_and_guidance_steer_and_what_is_not_to_be_shown_is_not_taken(pipeline: Any, item: Request) -> None:
    clip = generate(hunyuanvideo, pipeline, item)
    for other in ({"prompt": "a blue cube"}, {"guidance": 9.0}):
        assert not np.array_equal(clip, generate(hunyuanvideo, pipeline, replace(item, **other)))
    with pytest.raises(BadInput, match="HunyuanVideo does not take negative text"):
        generate(hunyuanvideo, pipeline, replace(item, negative="a cube"))


def test_frames_are_4k_plus_1_and_sides_multiples_of_16(folder: Path) -> None:
    rules = hunyuanvideo.rules_of(folder)
    assert (rules.latent_scale, rules.size_unit, rules.fit_frames(128).value) == (8, 16, 129)
