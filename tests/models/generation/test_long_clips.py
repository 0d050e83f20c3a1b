"""Long clips: a chain is the usual clip up to the model's own length, and past it as long as asked and as is good."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.generation.long_clips import GoodFrames, make_judge, match_statistics, sample_chain
from models.measures.meters import Limits, count_good_frames, measure_meters
from models.memory.planner import decode_in_fixed_strips
from models.svd.model import VideoModel, load_model
from models.svd.sampling import sample_latents

FRAMES, NATIVE = 20, 8

ANYTHING = Limits(sharpness_min=-1, sharpness_max=1e9, colour_max=1e9, identity_min=-2, flicker_max=1e9)

NOTHING = Limits(sharpness_min=1e9)


@pytest.fixture(scope="module")
def model() -> VideoModel:
    torch.set_num_threads(1)
    return load_model("tiny")


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """A picture, noise and augmentation of a clip of 32x32."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(1, FRAMES, 4, 8, 8, generator=generator)
    return picture, noise, torch.randn(1, 3, 32, 32, generator=generator)


def chain(model: VideoModel, drawn: tuple[Tensor, Tensor, Tensor], good: GoodFrames, frames: int = FRAMES) -> Tensor:
    picture, noise, augmentation = drawn

    def hop(own: Tensor, going_on: Tensor | None) -> Tensor:
        return sample_latents(model, picture, own, augmentation, ["pan_left"], steps=2, going_on=going_on)

    return sample_chain(hop, noise[:, :frames], NATIVE, good)


def all_good(latents: Tensor) -> int:
    return latents.shape[1]


def test_up_to_the_models_own_length_a_chain_is_a_clip_as_sampled_usually(model, drawn):
    picture, noise, augmentation = drawn
    usual = sample_latents(model, picture, noise[:, :NATIVE], augmentation, ["pan_left"], steps=2)
    assert torch.equal(chain(model, drawn, all_good, NATIVE), usual)


def test_a_chain_is_as_long_as_asked_and_keeps_its_first_hop(model, drawn):
    made = chain(model, drawn, all_good)
    assert made.shape == (1, FRAMES, 4, 8, 8)
    assert made.isfinite().all()
    assert torch.equal(made[:, :NATIVE], chain(model, drawn, all_good, NATIVE))
    assert (made[:, 0] - made[:, -1]).abs().mean() > 0.05


def test_a_hop_goes_on_from_the_last_latent_with_noise_of_its_own():
    told: list[tuple[list[float], float | None]] = []

    def hop(own: Tensor, going_on: Tensor | None) -> Tensor:
        told.append((own.flatten().tolist(), None if going_on is None else going_on.item()))
        return own

    noise = torch.arange(7.0).view(1, 7, 1, 1, 1)
    made = sample_chain(hop, noise, 3, all_good)
    assert [own for own, _ in told] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert told[0][1] is None
    assert [begun for _, begun in told[1:]] == [made[0, 2].item(), made[0, 4].item()]
    assert made.shape == noise.shape


def test_a_chain_ends_where_it_stops_being_good_but_not_within_its_first_hop():
    lengths: list[int] = []

    def good_frames(until: int) -> GoodFrames:
        return lambda latents: lengths.append(latents.shape[1]) or min(until, latents.shape[1])

    noise = torch.randn(1, 30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    made = {
        until: sample_chain(lambda own, _: own, noise, NATIVE, good_frames(until)).shape[1] for until in (3, 8, 17, 99)
    }
    assert made == {3: 8, 8: 8, 17: 17, 99: 30}
    assert lengths == [8, 8, 15, 8, 15, 22, 8, 15, 22, 29, 30]


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "frames"), [(ANYTHING, FRAMES), (NOTHING, NATIVE)])
def test_the_meters_choose_the_number_of_hops(model, drawn, tmp_path, limits, frames):
    picture = ((drawn[0][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert chain(model, drawn, make_judge(model, picture, tmp_path, limits=limits)).shape[1] == frames


@pytest.mark.slow
def test_where_frames_wait_while_they_are_judged_changes_nothing(model, drawn, tmp_path: Path):
    picture = ((drawn[0][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    latents = chain(model, drawn, all_good)
    in_memory, in_a_file = (decode_in_fixed_strips(model, latents[0], parking, "none") for parking in (None, tmp_path))
    assert np.array_equal(in_memory, in_a_file)
    meters = measure_meters(in_memory, picture)
    limits = [Limits(identity_min=i / 10, colour_max=1e9, sharpness_min=0, sharpness_max=1e9) for i in range(10)]
    expected = {count_good_frames(meters, limit).frames: limit for limit in limits}
    assert len(expected) > 1
    for frames, limit in list(expected.items())[:2]:
        assert [make_judge(model, picture, parking, limits=limit)(latents) for parking in (None, tmp_path)] == [
            frames
        ] * 2
    del in_a_file
    assert list(tmp_path.iterdir()) == []


def test_each_hop_has_the_first_ones_channel_statistics(model, drawn):
    made = chain(model, drawn, all_good)
    first, second = made[:, :NATIVE], made[:, NATIVE:15]
    assert (first.mean((1, 3, 4)) - second.mean((1, 3, 4))).abs().max() < 0.5
    assert (first.std((1, 3, 4)) / second.std((1, 3, 4)) - 1).abs().max() < 0.5


def test_matching_brings_mean_and_deviation_over_channel_by_channel():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 5, 3, 4, 4, generator=generator) * 2 + 7
    found = match_statistics(torch.randn(2, 9, 3, 4, 4, generator=generator) * 5 - 1, target)
    for statistic in (torch.mean, torch.std):
        assert torch.allclose(statistic(found, (1, 3, 4)), statistic(target, (1, 3, 4)), atol=1e-4)
