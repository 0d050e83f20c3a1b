"""Long clips: as usual up to the model's own length, and past it as many frames as asked for."""

import pytest
import torch
from torch import Tensor

from models.length import Ask, matched, sample_chain, sample_windows, while_good
from models.meters import Limits
from models.sampling import sample_latents
from models.svd import VideoModel, load_model

FRAMES = 20


@pytest.fixture(scope="module")
def model() -> VideoModel:
    torch.set_num_threads(1)
    return load_model("tiny")


def drawn(frames: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, noise and augmentation of 32x32 clips."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(batch, frames, 4, 8, 8, generator=generator)
    return pictures, noise, torch.randn(batch, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("way", [sample_windows, sample_chain])
def test_at_the_models_own_length_a_clip_is_the_same_as_sampled_usually(model, way):
    given = drawn(8, batch=2)
    usual = sample_latents(model, *given, motions=["pan_left"] * 2, steps=2)
    assert torch.allclose(way(model, *given, Ask.native(model, "pan_left", 2)), usual, atol=1e-5)


@pytest.mark.parametrize("way", [sample_windows, sample_chain])
def test_a_clip_is_as_long_as_asked(model, way):
    made = way(model, *drawn(FRAMES), Ask.native(model, steps=1))
    assert made.shape == (1, FRAMES, 4, 8, 8)
    assert made.isfinite().all()


def test_a_chain_keeps_its_first_hop_and_ends_where_it_is_told_to(model):
    given, ask = drawn(FRAMES), Ask.native(model, "static", 2)
    lengths: list[int] = []

    def goes_on(latents: Tensor) -> bool:
        lengths.append(latents.shape[1])
        return latents.shape[1] < 15

    made = sample_chain(model, *given, ask, goes_on)
    assert lengths == [8, 15]
    assert made.shape[1] == 15
    pictures, noise, augmentation = given
    assert torch.equal(made[:, :8], sample_chain(model, pictures, noise[:, :8], augmentation, ask))


def test_the_meters_choose_the_number_of_hops(model):
    pictures, noise, augmentation = drawn(FRAMES)
    picture = ((pictures[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    ask = Ask.native(model, "pan_left", 1)
    anything = Limits(sharpness_min=-1, sharpness_max=1e9, colour_max=1e9, identity_min=-2, flicker_max=1e9)
    nothing = Limits(sharpness_min=1e9)
    lengths = [
        sample_chain(model, pictures, noise, augmentation, ask, while_good(model, picture, limits)).shape[1]
        for limits in (anything, nothing)
    ]
    assert lengths == [FRAMES, 8]


def test_each_hop_has_the_first_ones_channel_statistics(model):
    made = sample_chain(model, *drawn(15), Ask.native(model, steps=2))
    first, second = made[:, :8], made[:, 8:]
    assert (first.mean((1, 3, 4)) - second.mean((1, 3, 4))).abs().max() < 0.5
    assert (first.std((1, 3, 4)) / second.std((1, 3, 4)) - 1).abs().max() < 0.5


def test_matching_brings_mean_and_deviation_over_channel_by_channel():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 5, 3, 4, 4, generator=generator) * 2 + 7
    found = matched(torch.randn(2, 9, 3, 4, 4, generator=generator) * 5 - 1, target)
    for statistic in (torch.mean, torch.std):
        assert torch.allclose(statistic(found, (1, 3, 4)), statistic(target, (1, 3, 4)), atol=1e-4)


def test_windows_of_a_long_clip_share_the_picture_and_differ_from_one_another(model):
    made = sample_windows(model, *drawn(FRAMES), Ask.native(model, "pan_right", 2))
    assert (made[:, 0] - made[:, -1]).abs().mean() > 0.05
