"""CogVideoX: the real pipelines on small random weights; its frame rule, held to what comes out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from numpy.typing import NDArray

from models.errors import BadInput
from models.families import cogvideox
from models.families.family import Request, generate
from tests.small_families import cogvideox_parts


@pytest.fixture(scope="module")
def folder(save: Any) -> Path:
    return save(lambda: CogVideoXPipeline(**cogvideox_parts()), "text")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return cogvideox.load(folder)


@pytest.fixture(scope="module")
def with_pictures(save: Any) -> Any:
    learned = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}
    return cogvideox.load(
        save(lambda: CogVideoXImageToVideoPipeline(**cogvideox_parts(in_channels=8, **learned)), "pictures")
    )


@pytest.fixture
def item(asked: Request) -> Request:
    return replace(asked, frames=9)


def test_a_text_becomes_a_clip_of_the_frames_and_size_asked(pipeline: Any, item: Request) -> None:
    clip = generate(cogvideox, pipeline, replace(item, width=48))
    assert clip.shape == (9, 32, 48, 3)
    assert clip.dtype == np.uint8
    assert clip.std() > 1


@pytest.mark.parametrize("frames", [9, 17, 25])
def test_8k_plus_1_frames_come_out_as_asked(pipeline: Any, item: Request, frames: int) -> None:
    assert len(generate(cogvideox, pipeline, replace(item, frames=frames, steps=1))) == frames


def test_4k_plus_1_frames_would_come_out_as_others(pipeline: Any) -> None:
    size = {"num_frames": 13, "height": 32, "width": 32}
    made = pipeline("x", **size, num_inference_steps=1, max_sequence_length=16, output_type="np")
    assert len(made.frames[0]) == 16
    assert cogvideox.RULES.fit_frames(13).value == 17


def test_a_seed_is_the_same_clip_again_and_another_seed_another(pipeline: Any, item: Request) -> None:
    clip = generate(cogvideox, pipeline, item)
    assert not np.array_equal(clip, generate(cogvideox, pipeline, replace(item, seed=2)))
    assert np.array_equal(clip, generate(cogvideox, pipeline, item))


def test_texts_steer(pipeline: Any, item: Request) -> None:
    clip = generate(cogvideox, pipeline, item)
    assert not np.array_equal(clip, generate(cogvideox, pipeline, replace(item, prompt="cube", guidance=6.0)))
    assert not np.array_equal(clip, generate(cogvideox, pipeline, replace(item, negative="cube", guidance=6.0)))


def test_a_picture_and_a_text_become_a_clip(with_pictures: Any, item: Request, ramp: NDArray[np.uint8]) -> None:
    clip = generate(cogvideox, with_pictures, replace(item, picture=ramp))
    assert clip.shape == (9, 32, 32, 3)
    assert np.array_equal(clip, generate(cogvideox, with_pictures, replace(item, picture=ramp)))
    assert not np.array_equal(clip, generate(cogvideox, with_pictures, replace(item, picture=ramp[:, ::-1].copy())))


def test_each_class_says_what_it_needs_and_does_not_take(
    pipeline: Any, with_pictures: Any, item: Request, ramp: NDArray[np.uint8]
) -> None:
    with pytest.raises(BadInput, match="does not take picture"):
        generate(cogvideox, pipeline, replace(item, picture=ramp))
    with pytest.raises(BadInput, match="needs picture"):
        generate(cogvideox, with_pictures, item)


def test_weights_with_learned_positions_know_their_own_size_alone(
    with_pictures: Any, item: Request, ramp: NDArray[np.uint8]
) -> None:
    wide = replace(item, width=64, picture=np.tile(ramp, (1, 2, 1)))
    with pytest.raises(BadInput, match="size 64x32: made as 32x32, because the model makes no other size"):
        generate(cogvideox, with_pictures, wide)


def test_a_folder_says_its_native_numbers(folder: Path) -> None:
    rules = cogvideox.read_rules(folder)
    assert (rules.frames, rules.width, rules.height, rules.fps) == (9, 32, 32, 8)


def test_version_1_5_with_patches_over_time_keeps_the_frame_rule(save: Any, item: Request) -> None:
    settings = {"patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True}
    folder = save(lambda: CogVideoXPipeline(**cogvideox_parts(**settings)), "later")
    assert cogvideox.read_rules(folder).fps == 16
    assert len(generate(cogvideox, cogvideox.load(folder), item)) == 9


def test_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: Any, item: Request, plainly: Callable[..., NDArray[np.uint8]]
) -> None:
    assert np.array_equal(generate(cogvideox, pipeline, item), plainly(pipeline, item, max_sequence_length=16))
