"""Wan: the real pipelines on small random weights, with and without a picture encoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import WanImageToVideoPipeline, WanPipeline
from numpy.typing import NDArray
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.errors import BadInput
from models.families import wan
from models.families.family import Request, generate
from tests.small_families import wan_parts


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: WanPipeline(**wan_parts(in_channels=16)), "text")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return wan.load(folder)


@pytest.fixture(scope="module", params=["with a picture encoder", "without one"])
def with_pictures(request: pytest.FixtureRequest, save: Any) -> Any:
    """Image to video as Wan 2.1 has it, whose transformer also sees an embedding of the picture, and as 2.2 has it."""
    if request.param == "without one":
        return wan.load(save(lambda: WanImageToVideoPipeline(**wan_parts(in_channels=36)), "later"))

    def made() -> WanImageToVideoPipeline:
        config = CLIPVisionConfig(
            hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
        )
        size = {"height": 32, "width": 32}
        eyes: dict[str, Any] = {
            "image_encoder": CLIPVisionModelWithProjection(config),
            "image_processor": CLIPImageProcessor(size=size, crop_size=size),
        }
        return WanImageToVideoPipeline(**wan_parts(in_channels=36, image_dim=4), **eyes)

    return wan.load(save(made, "pictures"))


@pytest.fixture
def item(asked: Request) -> Request:
    return replace(asked, frames=5)


def test_a_text_becomes_a_clip_of_the_frames_and_size_asked(pipeline: Any, item: Request) -> None:
    clip = generate(wan, pipeline, replace(item, frames=9, width=48))
    assert clip.shape == (9, 32, 48, 3)
    assert clip.dtype == np.uint8
    assert clip.std() > 1


def test_a_seed_is_the_same_clip_again_and_another_seed_another(pipeline: Any, item: Request) -> None:
    clip = generate(wan, pipeline, item)
    assert not np.array_equal(clip, generate(wan, pipeline, replace(item, seed=2)))
    assert np.array_equal(clip, generate(wan, pipeline, item))


def test_texts_steer_and_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: Any, item: Request, plainly: Callable[..., NDArray[np.uint8]]
) -> None:
    clip = generate(wan, pipeline, item)
    assert not np.array_equal(clip, generate(wan, pipeline, replace(item, prompt="cube", guidance=9.0)))
    assert np.array_equal(clip, plainly(pipeline, item))


@pytest.mark.slow
def test_a_picture_and_a_text_become_a_clip(with_pictures: Any, item: Request, ramp: NDArray[np.uint8]) -> None:
    asked = replace(item, picture=ramp)
    clip = generate(wan, with_pictures, asked)
    assert clip.shape == (5, 32, 32, 3)
    assert np.array_equal(clip, generate(wan, with_pictures, asked))
    assert not np.array_equal(clip, generate(wan, with_pictures, replace(asked, picture=255 - ramp)))
    with pytest.raises(BadInput, match="Wan needs picture"):
        generate(wan, with_pictures, item)


def test_frames_are_4k_plus_1_and_sides_what_the_folder_says(folder: Path, pipeline: Any, item: Request) -> None:
    rules = wan.read_rules(folder)
    assert (rules.size_unit, rules.fps) == (16, 16)
    assert rules.fit_frames(80).note == "frames 80: made as 81, because clips have 4k+1 frames, at least 5."
    with pytest.raises(BadInput, match="frames 7: made as 9"):
        generate(wan, pipeline, replace(item, frames=7))
