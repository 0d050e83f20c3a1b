"""LTX-Video: the real pipelines on small random weights, one folder for texts with and without a picture."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline
from numpy.typing import NDArray

from models.errors import BadInput
from models.families import ltx
from models.families.family import Request, generate
from models.families.latents import list_denoisers
from models.memory.placement import feed_forward_in_pieces
from tests.small_families import ltx_parts


@pytest.fixture(scope="module")
def pipeline(save: Any) -> LTXPipeline:
    return ltx.load(save(lambda: LTXPipeline(**ltx_parts()), "ltx"))


@pytest.fixture
def item(asked: Request) -> Request:
    return replace(asked, frames=9, width=64)


def test_a_text_becomes_a_clip_of_the_frames_and_size_asked(pipeline: LTXPipeline, item: Request) -> None:
    clip = generate(ltx, pipeline, replace(item, frames=17))
    assert clip.shape == (17, 32, 64, 3)
    assert clip.dtype == np.uint8
    assert clip.std() > 1


def test_a_seed_is_the_same_clip_again_and_another_seed_another(pipeline: LTXPipeline, item: Request) -> None:
    clip = generate(ltx, pipeline, item)
    assert not np.array_equal(clip, generate(ltx, pipeline, replace(item, seed=2)))
    assert np.array_equal(clip, generate(ltx, pipeline, item))


def test_texts_and_frame_rates_steer(pipeline: LTXPipeline, item: Request) -> None:
    clip = generate(ltx, pipeline, item)
    for other in ({"prompt": "cube"}, {"negative": "cube"}, {"fps": 8.0}):
        assert not np.array_equal(clip, generate(ltx, pipeline, replace(item, **other)))


def test_the_same_folder_takes_a_picture_too(pipeline: LTXPipeline, item: Request, ramp: NDArray[np.uint8]) -> None:
    asked = replace(item, width=32, picture=ramp)
    clip = generate(ltx, pipeline, asked)
    assert clip.shape == (9, 32, 32, 3)
    assert np.array_equal(clip, generate(ltx, pipeline, asked))
    assert not np.array_equal(clip, generate(ltx, pipeline, replace(asked, picture=ramp[:, ::-1].copy())))
    assert not np.array_equal(clip, generate(ltx, pipeline, replace(asked, picture=None)))


def test_a_folder_of_the_class_for_pictures_takes_a_text_alone(save: Any, item: Request, pipeline: LTXPipeline) -> None:
    other = ltx.load(save(lambda: LTXImageToVideoPipeline(**ltx_parts()), "pictures"))
    assert np.array_equal(generate(ltx, other, item), generate(ltx, pipeline, item))


def test_a_decoder_that_is_told_a_noise_level_draws_from_the_items_own_stream(
    save: Any, item: Request, ramp: NDArray[np.uint8]
) -> None:
    later = ltx.load(save(lambda: LTXPipeline(**ltx_parts(timestep_conditioning=True)), "later"))
    for asked in (item, replace(item, width=32, picture=ramp)):
        assert np.array_equal(generate(ltx, later, asked), generate(ltx, later, asked))


def test_sizes_and_frames_that_do_not_fit_are_refused_and_the_nearest_said(
    pipeline: LTXPipeline, item: Request, ramp: NDArray[np.uint8]
) -> None:
    with pytest.raises(
        BadInput, match=r"frames 10: made as 9, because clips have 8k\+1 frames, at least 9, at most 257\."
    ):
        generate(ltx, pipeline, replace(item, frames=10))
    with pytest.raises(BadInput, match="size 40x32: made as 32x32, because sides must be multiples of 32"):
        generate(ltx, pipeline, replace(item, width=40))
    with pytest.raises(BadInput, match="the picture is"):
        generate(ltx, pipeline, replace(item, picture=ramp))


def test_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: LTXPipeline, item: Request, plainly: Callable[..., NDArray[np.uint8]]
) -> None:
    assert np.array_equal(generate(ltx, pipeline, item), plainly(pipeline, item))


def test_feed_forward_layers_in_pieces_give_the_same_latents(pipeline: LTXPipeline, item: Request) -> None:
    whole = ltx.sample(pipeline, item)
    with feed_forward_in_pieces(list_denoisers(pipeline), 3):
        assert torch.allclose(ltx.sample(pipeline, item), whole, atol=1e-5)
    assert torch.equal(ltx.sample(pipeline, item), whole)
