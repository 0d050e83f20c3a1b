"""FramePack: the real pipeline on small random weights, in sections of 9 latent frames."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import HunyuanVideoFramepackPipeline
from numpy.typing import NDArray

from models.errors import BadInput
from models.families import framepack
from models.families.family import Request, generate
from tests.small_families import framepack_parts


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: HunyuanVideoFramepackPipeline(**framepack_parts()), "framepack")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return framepack.load(folder)


@pytest.fixture
def item(asked: Request, ramp: NDArray[np.uint8]) -> Request:
    return replace(asked, frames=37, picture=ramp, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("sections", [1, 2, 3])
def test_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: Any, item: Request, sections: int
) -> None:
    asked = replace(item, frames=36 * sections + 1)
    clip = generate(framepack, pipeline, asked)
    assert clip.shape == (36 * sections + 1, 32, 32, 3)
    made = pipeline(
        image=asked.image(),
        prompt=asked.prompt,
        num_frames=33 * sections,
        height=32,
        width=32,
        num_inference_steps=1,
        guidance_scale=asked.guidance,
        generator=asked.generator(),
        output_type="np",
    )
    assert np.array_equal(clip, (made.frames[0] * 255).round().astype(np.uint8))


@pytest.mark.slow
def test_seeds_pictures_texts_and_guidance_steer(pipeline: Any, item: Request, ramp: NDArray[np.uint8]) -> None:
    latents = framepack.sample(pipeline, item)
    assert latents.shape == (10, 4, 4, 4)
    assert (latents == framepack.sample(pipeline, item)).all()
    for other in ({"seed": 2}, {"picture": 255 - ramp}, {"prompt": "a blue cube"}, {"guidance": 9.0}):
        assert not (latents == framepack.sample(pipeline, replace(item, **other))).all()


def test_frames_are_36k_plus_1_and_a_picture_and_a_text_are_needed(folder: Path, pipeline: Any, item: Request) -> None:
    rules = framepack.read_rules(folder)
    assert (rules.latent_scale, rules.size_unit, rules.fit_frames(91).value) == (8, 16, 109)
    with pytest.raises(BadInput, match="FramePack needs picture"):
        generate(framepack, pipeline, replace(item, picture=None))
    with pytest.raises(BadInput, match="frames 50: made as 37"):
        generate(framepack, pipeline, replace(item, frames=50))


def test_sides_follow_the_folders_own_autoencoder_and_patches(tmp_path: Path) -> None:
    for part, config in (("transformer", {"patch_size": 2}), ("vae", {"spatial_compression_ratio": 16})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    rules = framepack.read_rules(tmp_path)
    assert (rules.latent_scale, rules.size_unit) == (16, 32)
