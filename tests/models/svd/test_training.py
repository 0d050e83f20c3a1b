"""The training step: its loss where it is known, its draws, its moving average, and a resumed training."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from models.svd.training import (
    StepSettings,
    TrainingBatch,
    TrainingState,
    crop_randomly,
    diffusion_loss,
    learning_rate_at,
    new_state,
    probe_error,
    step_generator,
)

PLAIN = StepSettings(log_sigma_mean=0.0, log_sigma_deviation=1.0, drop_picture=0.0, drop_word=0.0, crop=None)

UNetMaker = Callable[..., UNetSpatioTemporalConditionModel]


@pytest.fixture
def silent(make_unet: UNetMaker) -> UNetSpatioTemporalConditionModel:
    """A UNet that predicts zero whatever it sees."""
    unet = make_unet()
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    return unet


def make_batch(clips: int = 2, seed: int = 11) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    return TrainingBatch(
        latents=torch.randn(clips, 4, 4, 8, 8, generator=generator),
        pictures=torch.randn(clips, 4, 8, 8, generator=generator),
        embeddings=torch.randn(clips, 32, generator=generator),
        ids=torch.tensor([[6.0, 127.0, 0.02]] * clips),
        motions=["static", "pan_left"] * (clips // 2),
    )


def make_words() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(32, generator=generator) for name in ("static", "pan_left")}


def changed(settings: StepSettings, **changes: float | None) -> StepSettings:
    return StepSettings(**{**vars(settings), **changes})


@torch.no_grad()
def loss_of(
    unet: UNetSpatioTemporalConditionModel, batch: TrainingBatch, settings: StepSettings = PLAIN, seed: int = 0
):
    return diffusion_loss(unet, make_words(), batch, settings, step_generator(seed, 0)).item()


@pytest.mark.slow
@pytest.mark.parametrize("log_sigma", [-2.0, 0.0, 3.0])
def test_a_network_that_says_nothing_has_a_loss_of_one_at_any_noise(silent, log_sigma):
    """On latents of unit deviation: what it should predict, v, has unit deviation at every noise level."""
    settings = changed(PLAIN, log_sigma_mean=log_sigma, log_sigma_deviation=0.0)
    assert loss_of(silent, make_batch(32), settings) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 8.0])
def test_the_probed_error_of_a_network_that_says_nothing_is_known(silent, sigma):
    batch = make_batch(32)
    error = probe_error(silent, make_words(), batch, batch.motions, sigma)
    assert error == pytest.approx(sigma**2 / (1 + sigma**2), rel=0.05)


def test_a_step_draws_from_its_generator_alone(make_unet):
    unet, batch = make_unet(), make_batch()
    torch.manual_seed(0)
    first = loss_of(unet, batch)
    torch.manual_seed(1)
    assert loss_of(unet, batch) == first
    assert loss_of(unet, batch, seed=1) != first


def test_every_step_and_seed_has_randomness_of_its_own():
    draws = {torch.rand((), generator=step_generator(seed, step)).item() for seed in range(20) for step in range(50)}
    assert len(draws) == 1000


def test_a_dropped_picture_is_neither_seen_nor_embedded(make_unet):
    unet, one = make_unet(), make_batch()
    other = TrainingBatch(one.latents, one.pictures + 1, one.embeddings + 1, one.ids, one.motions)
    dropped = changed(PLAIN, drop_picture=1.0)
    assert loss_of(unet, one, dropped) == loss_of(unet, other, dropped)
    assert loss_of(unet, one) != loss_of(unet, other)


def test_a_dropped_word_is_not_told(make_unet):
    unet, one = make_unet(), make_batch()
    other = TrainingBatch(one.latents, one.pictures, one.embeddings, one.ids, one.motions[::-1])
    dropped = changed(PLAIN, drop_word=1.0)
    assert loss_of(unet, one, dropped) == loss_of(unet, other, dropped)
    assert loss_of(unet, one) != loss_of(unet, other)


def test_latents_and_pictures_are_cropped_to_the_same_square():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    place = rows * 9 + columns
    corners = set()
    for step in range(60):
        latents, pictures = crop_randomly(
            place.expand(2, 4, 3, 6, 9), place.expand(2, 3, 6, 9), 4, step_generator(0, step)
        )
        assert latents.shape == (2, 4, 3, 4, 4)
        assert torch.equal(latents[:, 0], pictures)
        corners.add(int(pictures[0, 0, 0, 0]))
    assert {divmod(corner, 9) for corner in corners} == {(top, left) for top in range(3) for left in range(6)}


def test_without_a_crop_latents_stay_as_they_are():
    batch = make_batch()
    latents, pictures = crop_randomly(batch.latents, batch.pictures, None, step_generator(0, 0))
    assert latents is batch.latents
    assert pictures is batch.pictures


def train(unet: UNetSpatioTemporalConditionModel, state: TrainingState, until: int, batch: TrainingBatch) -> None:
    while state.step < until:
        loss = diffusion_loss(unet, make_words(), batch, PLAIN, step_generator(0, state.step))
        state.apply(loss, learning_rate_at(state.step, 40, 3e-3, warm_up=3))


@pytest.mark.training
def test_a_network_learns_the_clips_it_is_shown(make_unet):
    unet, batch = make_unet(), make_batch()
    before = probe_error(unet, make_words(), batch, batch.motions, 2.0)
    train(unet, new_state(dict(unet.named_parameters()), 0.99), 15, batch)
    assert probe_error(unet, make_words(), batch, batch.motions, 2.0) < 0.9 * before


@pytest.mark.training
def test_a_resumed_training_is_the_straight_one(make_unet, tmp_path):
    batch, straight, stopped, resumed = make_batch(), make_unet(), make_unet(), make_unet(seed=7)
    states = [new_state(dict(unet.named_parameters()), 0.99) for unet in (straight, stopped, resumed)]
    train(straight, states[0], 6, batch)
    train(stopped, states[1], 3, batch)
    states[1].save(tmp_path / "state.safetensors")
    states[2].load(tmp_path / "state.safetensors")
    assert states[2].step == 3
    train(resumed, states[2], 6, batch)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
        assert torch.equal(states[0].average[name], states[2].average[name]), name
    assert torch.equal(straight.conv_out.weight, resumed.conv_out.weight)
    assert not torch.equal(straight.conv_out.weight, stopped.conv_out.weight)


def still_state(decay: float) -> tuple[nn.Parameter, TrainingState]:
    """A state over one number, without decay of its weight."""
    number = nn.Parameter(torch.zeros(1))
    return number, new_state({"number": number}, decay, weight_decay=0.0)


def test_the_average_follows_with_a_memory_that_grows_to_the_asked_one():
    number, state = still_state(0.2)
    average = 0.0
    for step, decay in enumerate((1 / 11, 2 / 12, 0.2, 0.2), start=1):
        with torch.no_grad():
            number.fill_(step)
        state.apply((number * 0).sum(), 0.0)
        average = decay * average + (1 - decay) * step
        assert state.average["number"].item() == pytest.approx(average, rel=1e-5)
    state.load_average()
    assert number.item() == pytest.approx(average, rel=1e-5)


def test_a_huge_gradient_takes_no_larger_step():
    number, state = still_state(0.9)
    state.apply((number * 1e9).sum(), 0.01)
    assert number.item() == pytest.approx(-0.01, rel=1e-3)
    assert number.grad is not None
    assert number.grad.item() == pytest.approx(1.0, rel=1e-3)


def test_the_learning_rate_rises_then_falls_to_a_twentieth():
    rates = [learning_rate_at(step, 1000, 2.0) for step in range(1001)]
    assert rates[0] == pytest.approx(2.0 / 30, rel=1e-3)
    assert rates[500] == pytest.approx(2.0 * (0.05 + 0.95 / 2), rel=1e-3)
    assert rates[1000] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) <= 2.0
    assert all(later <= earlier for earlier, later in pairwise(rates[30:]))


def test_a_clip_whose_motion_has_no_word_is_trained_on_as_without_words(make_unet):
    unet, batch, words = make_unet(), make_batch(), make_words()
    unknown = replace(batch, motions=["complex"] * len(batch.motions))
    without = probe_error(unet, {}, unknown, unknown.motions, 2.0)
    assert probe_error(unet, words, unknown, unknown.motions, 2.0) == pytest.approx(without, rel=1e-5)
    assert probe_error(unet, words, batch, batch.motions, 2.0) != pytest.approx(without, rel=1e-5)
