"""HunyuanVideo: the real pipeline on small random weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import HunyuanVideoPipeline
from numpy.typing import NDArray

from models.errors import BadInput
from models.families import hunyuanvideo
from models.families.family import Request, generate
from tests.small_families import hunyuan_parts


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: HunyuanVideoPipeline(**hunyuan_parts()), "text")


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
    rules = hunyuanvideo.read_rules(folder)
    assert (rules.latent_scale, rules.size_unit, rules.fit_frames(128).value) == (8, 16, 129)


def test_sides_follow_the_folders_own_autoencoder_and_patches(tmp_path: Path) -> None:
    for part, config in (("transformer", {"patch_size": 2}), ("vae", {"spatial_compression_ratio": 16})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    rules = hunyuanvideo.read_rules(tmp_path)
    assert (rules.latent_scale, rules.size_unit) == (16, 32)
