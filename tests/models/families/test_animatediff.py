"""AnimateDiff: the real pipeline on small random weights, and its motion LoRAs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from models.errors import BadInput, BadModel
from models.families import animatediff
from models.families.family import MotionLora, Request, generate
from tests.small_families import motion_adapter


@pytest.fixture(scope="module")
def adapter(save: Any) -> Path:
    """A motion adapter that knows positions of 8 frames."""
    return save(motion_adapter, "adapter")


@pytest.fixture(scope="module")
def folder(picture_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("animatediff") / "model"
    animatediff.join(picture_model, adapter).save_pretrained(saved)
    return saved


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> AnimateDiffPipeline:
    return animatediff.load(folder)


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    """A motion LoRA with random weights on the temporal attention of the first motion module."""
    unet = animatediff.load(folder).unet
    torch.manual_seed(3)
    targets = r"down_blocks\.0\.motion_modules.*\.to_[qkv]"
    unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=targets))
    weights = {f"unet.{name}": weight.contiguous() for name, weight in get_peft_model_state_dict(unet).items()}
    path = folder.parent / "pan_left.safetensors"
    save_file(weights, path)
    return path


@pytest.mark.slow
def test_a_text_becomes_a_clip_of_the_frames_and_size_asked(pipeline: AnimateDiffPipeline, asked: Request) -> None:
    clip = generate(animatediff, pipeline, replace(asked, width=40))
    assert clip.shape == (4, 32, 40, 3)
    assert clip.dtype == np.uint8
    assert clip.std() > 1


@pytest.mark.slow
def test_a_seed_is_the_same_clip_again_and_another_seed_another(pipeline: AnimateDiffPipeline, asked: Request) -> None:
    clip = generate(animatediff, pipeline, asked)
    other = generate(animatediff, pipeline, replace(asked, seed=2))
    assert not np.array_equal(clip, other)
    assert not np.array_equal(clip, generate(animatediff, pipeline, replace(asked, take=1)))
    assert np.array_equal(clip, generate(animatediff, pipeline, asked))


@pytest.mark.slow
def test_texts_steer(pipeline: AnimateDiffPipeline, asked: Request) -> None:
    clip = generate(animatediff, pipeline, asked)
    assert not np.array_equal(clip, generate(animatediff, pipeline, replace(asked, prompt="a blue cube")))
    assert not np.array_equal(clip, generate(animatediff, pipeline, replace(asked, negative="a blue cube")))


@pytest.mark.slow
def test_a_motion_lora_moves_one_clip_by_its_strength_and_leaves_no_trace(
    pipeline: AnimateDiffPipeline, lora: Path, asked: Request
) -> None:
    plain = generate(animatediff, pipeline, asked).astype(int)
    moved, none = (
        generate(animatediff, pipeline, replace(asked, motion=(MotionLora(lora, strength),))) for strength in (4.0, 0.0)
    )
    assert np.abs(moved - plain).max() > 2
    assert np.abs(none - plain).max() <= 1
    assert np.array_equal(generate(animatediff, pipeline, asked), plain)


def test_a_file_that_is_no_motion_lora_of_the_model_is_refused(
    pipeline: AnimateDiffPipeline, asked: Request, tmp_path: Path
) -> None:
    save_file({"text.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "pickled.ckpt").write_bytes(b"\x80\x04.")
    for name in ("other.safetensors", "pickled.ckpt"):
        with pytest.raises(BadModel, match=name):
            generate(animatediff, pipeline, replace(asked, motion=(MotionLora(tmp_path / name),)))
    assert pipeline.get_list_adapters() == {}


def test_the_longest_clip_is_what_the_adapter_knows_positions_of(
    folder: Path, pipeline: AnimateDiffPipeline, asked: Request
) -> None:
    assert animatediff.RULES.fit_frames(100).value == 32
    fitted = animatediff.read_rules(folder).fit_frames(100)
    assert (fitted.value, fitted.note) == (
        8,
        "frames 100: made as 8, because clips have any number of frames, at least 2, at most 8.",
    )
    with pytest.raises(BadInput, match="frames 100: made as 8"):
        generate(animatediff, pipeline, replace(asked, frames=100))


def test_what_the_family_does_not_take_is_refused(
    pipeline: AnimateDiffPipeline, asked: Request, ramp: np.ndarray
) -> None:
    with pytest.raises(BadInput, match="ball: AnimateDiff does not take picture"):
        generate(animatediff, pipeline, replace(asked, picture=ramp))
    with pytest.raises(BadInput, match="ball: AnimateDiff needs text"):
        generate(animatediff, pipeline, replace(asked, prompt=None))


def test_an_adapter_of_another_model_is_refused(picture_model: Path, save: Any) -> None:
    def make() -> MotionAdapter:
        return MotionAdapter(block_out_channels=(16, 16, 16), motion_norm_num_groups=8)

    with pytest.raises(BadModel, match="does not fit"):
        animatediff.join(picture_model, save(make, "narrow"))


def test_the_clip_is_what_diffusers_own_pipeline_makes_of_the_same_noise(
    pipeline: AnimateDiffPipeline, asked: Request, plainly: Callable[..., NDArray[np.uint8]]
) -> None:
    assert np.array_equal(generate(animatediff, pipeline, asked), plainly(pipeline, asked))
