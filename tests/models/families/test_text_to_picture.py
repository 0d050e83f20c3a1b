"""Stable Video Diffusion as a family, and text to video by a picture that a text-to-image model draws first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as xl
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPImageProcessor

from models.errors import BadInput, BadModel
from models.families import svd, text_to_picture
from models.families.family import Request, generate
from models.families.placement import choose_first_plan, list_networks, weight_bytes
from models.svd.model import VideoModel, save_model
from tests.small_families import drawing_pipeline, drawing_xl_pipeline

# diffusers' scheduler of SDXL hands a tensor to numpy in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCALED = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.9, 1.1, 1.2, 0.8]}

DRAWERS: dict[str, Callable[[], Any]] = {
    "SD": drawing_pipeline,
    "SDXL": drawing_xl_pipeline,
    "SDXL, latents of another mean": lambda: drawing_xl_pipeline(**SCALED),
}


@pytest.fixture(scope="module", params=DRAWERS)
def drawer(request: pytest.FixtureRequest, save: Any) -> Path:
    return save(DRAWERS[request.param], f"drawer of {request.param}")


@pytest.fixture(scope="module")
def pictures(drawer: Path) -> Any:
    return text_to_picture.load(drawer)


@pytest.fixture
def of_picture(asked: Request, ramp: NDArray[np.uint8]) -> Request:
    return replace(asked, prompt=None, picture=ramp)


def draw(pipeline: Any, request: Request) -> NDArray[np.uint8]:
    return text_to_picture.decode(pipeline, text_to_picture.sample(pipeline, request), request)


@pytest.mark.slow
def test_a_picture_becomes_a_clip_and_its_seed_is_a_promise(model: VideoModel, of_picture: Request) -> None:
    clip = generate(svd, model, of_picture)
    assert clip.shape == (4, 32, 32, 3)
    assert clip.dtype == np.uint8
    assert not np.array_equal(clip, generate(svd, model, replace(of_picture, seed=2)))
    assert np.array_equal(clip, generate(svd, model, of_picture))


def test_a_model_folder_has_its_own_rules(model: VideoModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    rules = svd.read_rules(tmp_path)
    assert (rules.frames, rules.width, rules.height, rules.fps, rules.size_unit) == (4, 32, 32, 7, 8)
    assert svd.load(tmp_path).size_unit == rules.size_unit


@pytest.mark.slow
def test_a_video_model_of_pictures_takes_no_text(model: VideoModel, asked: Request, of_picture: Request) -> None:
    with pytest.raises(BadInput, match="needs picture"):
        generate(svd, model, asked)
    with pytest.raises(BadInput, match="does not take text"):
        generate(svd, model, replace(of_picture, prompt="a ball"))


@pytest.mark.slow
def test_a_text_becomes_a_picture_of_the_size_asked(pictures: Any, asked: Request) -> None:
    wide = replace(asked, width=48)
    picture = draw(pictures, wide)
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    assert not np.array_equal(picture, draw(pictures, replace(wide, prompt="x")))
    assert not np.array_equal(picture, draw(pictures, replace(wide, seed=2)))
    assert np.array_equal(picture, draw(pictures, wide))


def plainly(pipeline: Any, request: Request, **more: Any) -> NDArray[np.uint8]:
    """The picture by one call of diffusers' pipeline, that draws noise from the same stream and decodes by itself."""
    made = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        generator=request.generator("picture"),
        output_type="np",
        **more,
    )
    return (made.images[0] * 255).round().astype(np.uint8)


@pytest.mark.slow
def test_a_picture_is_that_of_diffusers_own_call_bit_for_bit(pictures: Any, asked: Request) -> None:
    both = replace(asked, negative="blue", height=48)
    assert np.array_equal(draw(pictures, both), plainly(pictures, both, guidance_scale=2.0))


@pytest.mark.slow
def test_guidance_that_is_not_given_is_what_diffusers_takes_for_the_class(pictures: Any, asked: Request) -> None:
    plain = replace(asked, guidance=None)
    assert np.array_equal(draw(pictures, plain), plainly(pictures, plain))
    assert not np.array_equal(draw(pictures, plain), draw(pictures, replace(plain, guidance=6.0)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_in_half_precision_a_picture_is_about_the_same_and_is_decoded_in_float32(
    drawer: Path, pictures: Any, asked: Request, precision: Any
) -> None:
    half = text_to_picture.load(drawer, precision)
    kinds = {name: {weight.dtype for weight in part.parameters()} for name, part in list_networks(half).items()}
    assert kinds.pop("vae") == {torch.float32}
    assert set.union(*kinds.values()) == {getattr(torch, precision)}
    latents, made = text_to_picture.sample(pictures, asked), text_to_picture.sample(half, asked)
    assert made.dtype == torch.float32
    assert 0 < (made - latents).abs().mean() < 0.02 * latents.std()
    assert np.array_equal(
        text_to_picture.decode(half, latents, asked), text_to_picture.decode(pictures, latents, asked)
    )


def test_no_watermark_is_put_on_a_picture_even_where_its_package_is_there(
    save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(drawing_xl_pipeline, "unmarked")
    monkeypatch.setattr(xl, "is_invisible_watermark_available", lambda: True)
    assert text_to_picture.load(folder).watermark is None


def test_what_is_published_beside_a_pipelines_parts_takes_no_room(save: Any) -> None:
    folder = save(drawing_xl_pipeline, "alone")
    counted = weight_bytes(folder, "float16")
    save(lambda: text_to_picture.load(folder).vae, f"{folder}/vae_1_0")
    assert weight_bytes(folder, "float16") == counted
    assert set(counted) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert choose_first_plan(counted, sum(counted.values()) * 2, torch.device("cpu", 0)).offload == "none"


@pytest.mark.parametrize(("change", "wrong"), [({"prompt": None}, "needs a text to draw"), ({"width": 36}, "36x32")])
def test_what_no_picture_can_be_drawn_from_is_refused(
    pictures: Any, asked: Request, change: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(BadInput, match=wrong):
        text_to_picture.sample(pictures, replace(asked, **change))


def test_latents_that_are_not_numbers_are_a_failure_and_not_a_black_frame(drawer: Path, asked: Request) -> None:
    broken = text_to_picture.load(drawer)
    broken.unet.conv_out.weight.fill_(torch.nan)
    with pytest.raises(BadInput, match="Item ball: its picture's latents are not finite"):
        text_to_picture.sample(broken, asked)


def test_a_folder_of_another_class_draws_nothing(model: VideoModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    with pytest.raises(BadModel, match="not StableDiffusionPipeline or StableDiffusionXLPipeline"):
        text_to_picture.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_picture_that_the_folders_safety_checker_holds_back_is_a_failure_and_not_a_black_frame(
    picture_model: Path, save: Any, asked: Request, precision: Any
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

    strict = text_to_picture.load(save(make, f"strict in {precision}"), precision)
    assert strict.safety_checker.dtype == torch.float32
    with pytest.raises(BadInput, match="Item ball: the model's safety checker rejects"):
        draw(strict, replace(asked, steps=1))
