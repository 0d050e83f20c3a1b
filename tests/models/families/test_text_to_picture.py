"""Stable Video Diffusion as a family, and text to video by a picture that a text-to-image model draws first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPImageProcessor

from models.errors import BadInput
from models.families import svd, text_to_picture
from models.families.rules import Request, generate
from models.svd import VideoModel, save_model


@pytest.fixture(scope="module")
def pictures(picture_model: Path) -> StableDiffusionPipeline:
    return text_to_picture.load(picture_model)


@pytest.fixture
def of_picture(asked: Request, ramp: NDArray[np.uint8]) -> Request:
    return replace(asked, prompt=None, picture=ramp)


def test_a_picture_becomes_a_clip_and_its_seed_is_a_promise(model: VideoModel, of_picture: Request) -> None:
    clip = generate(svd, model, of_picture)
    assert clip.shape == (4, 32, 32, 3)
    assert clip.dtype == np.uint8
    assert not np.array_equal(clip, generate(svd, model, replace(of_picture, seed=2)))
    assert np.array_equal(clip, generate(svd, model, of_picture))


def test_a_model_folder_has_its_own_rules(model: VideoModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    rules = svd.rules_of(tmp_path)
    assert (rules.frames, rules.width, rules.height, rules.fps, rules.size_unit) == (4, 32, 32, 7, 8)
    assert svd.load(tmp_path).size_unit == rules.size_unit


def test_a_video_model_of_pictures_takes_no_text(model: VideoModel, asked: Request, of_picture: Request) -> None:
    with pytest.raises(BadInput, match="needs picture"):
        generate(svd, model, asked)
    with pytest.raises(BadInput, match="does not take text"):
        generate(svd, model, replace(of_picture, prompt="a ball"))


def test_a_text_becomes_a_picture_of_the_size_asked(pictures: StableDiffusionPipeline, asked: Request) -> None:
    picture = text_to_picture.draw(pictures, replace(asked, width=48), steps=2)
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    assert not np.array_equal(picture, text_to_picture.draw(pictures, replace(asked, width=48, prompt="x"), steps=2))
    assert not np.array_equal(picture, text_to_picture.draw(pictures, replace(asked, width=48, seed=2), steps=2))
    assert np.array_equal(picture, text_to_picture.draw(pictures, replace(asked, width=48), steps=2))


@pytest.mark.parametrize(("change", "wrong"), [({"prompt": None}, "drawn from a text"), ({"width": 36}, "36x32")])
def test_what_no_picture_can_be_drawn_from_is_refused(
    pictures: StableDiffusionPipeline, asked: Request, change: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(BadInput, match=wrong):
        text_to_picture.draw(pictures, replace(asked, **change))


def test_a_picture_that_the_folders_safety_checker_holds_back_is_a_failure_and_not_a_black_frame(
    picture_model: Path, save: Any, asked: Request
) -> None:
    def make() -> StableDiffusionPipeline:
        small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
        config = CLIPConfig(vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
        checker: Any = StableDiffusionSafetyChecker(config)
        # Below any cosine: each concept is seen in each picture.
        checker.concept_embeds_weights.data.fill_(-2.0)
        size = {"height": 32, "width": 32}
        eyes: dict[str, Any] = {
            "safety_checker": checker,
            "feature_extractor": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
            "requires_safety_checker": True,
        }
        return StableDiffusionPipeline(**text_to_picture.load(picture_model).components | eyes)

    with pytest.raises(BadInput, match="Item ball: the model's safety checker holds back"):
        text_to_picture.draw(text_to_picture.load(save(make, "strict")), asked, steps=1)
