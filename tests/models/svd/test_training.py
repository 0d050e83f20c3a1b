"""The training step: its loss where it is known, its draws, its moving average, and a resumed training."""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from models.errors import BadInput
from models.svd.training import (
    Network,
    StepSettings,
    TrainingBatch,
    clip_losses,
    crop_randomly,
    diffusion_loss,
    draw_step,
    make_schedule,
    measure_errors,
    step_generator,
)
from models.svd.training_state import TrainingState, make_optimiser, new_state

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
    return diffusion_loss(Network(unet, make_words()), batch, settings, step_generator(seed, 0)).item()


def error_of(unet: UNetSpatioTemporalConditionModel, words: dict[str, Tensor], batch: TrainingBatch, sigma: float):
    noise = torch.randn(batch.latents.shape, generator=step_generator(0, 0))
    return measure_errors(Network(unet, words), batch, noise, sigma, batch.motions).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("log_sigma", [-2.0, 0.0, 3.0])
def test_a_network_that_says_nothing_has_a_loss_of_one_at_any_noise(silent, log_sigma):
    """On latents of unit deviation: what it should predict, v, has unit deviation at every noise level."""
    settings = changed(PLAIN, log_sigma_mean=log_sigma, log_sigma_deviation=0.0)
    assert loss_of(silent, make_batch(32), settings) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 8.0])
def test_the_probed_error_of_a_network_that_says_nothing_is_known(silent, sigma):
    batch = make_batch(32)
    error = error_of(silent, make_words(), batch, sigma)
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


def test_squares_are_cropped_everywhere_alike():
    crops = [crop_randomly(6, 9, 4, step_generator(0, step)) for step in range(60)]
    assert all((rows.stop - rows.start, columns.stop - columns.start) == (4, 4) for rows, columns in crops)
    assert {(rows.start, columns.start) for rows, columns in crops} == {(top, left) for top in range(3)
                                                                       for left in range(6)}  # fmt: skip
    assert crop_randomly(6, 9, None, step_generator(0, 0)) == (slice(None), slice(None))


def test_a_square_is_the_same_of_latents_pictures_and_noise(make_unet):
    batch = make_batch()
    drawn = draw_step(batch.latents.shape, replace(PLAIN, crop=6), step_generator(0, 0))
    assert drawn.noise.shape == (2, 4, 4, 6, 6)
    cut = replace(batch, latents=batch.latents[..., *drawn.window], pictures=batch.pictures[..., *drawn.window])
    whole = replace(drawn, window=(slice(None), slice(None)))
    network = Network(make_unet(), make_words())
    with torch.no_grad():
        assert torch.equal(clip_losses(network, batch, drawn), clip_losses(network, cut, whole))


def test_the_parts_of_a_batch_have_the_losses_that_they_have_in_it(make_unet):
    batch, network = make_batch(4), Network(make_unet(), make_words())
    drawn = draw_step(batch.latents.shape, PLAIN, step_generator(0, 0))
    with torch.no_grad():
        together = clip_losses(network, batch, drawn)
        parts = [clip_losses(network, batch.part(part), drawn.part(part)) for part in (slice(0, 3), slice(3, 4))]
    torch.testing.assert_close(torch.cat(parts), together)


def test_a_picture_is_trained_without_time_and_without_itself_as_its_condition(make_unet):
    unet = make_unet()
    video = make_batch()
    pictures = replace(video, latents=video.latents[:, :1])
    network = Network(unet, make_words())

    def spoil_time() -> None:
        for name, parameter in unet.named_parameters():
            if "temporal" in name and "mix" not in name:
                parameter.data.normal_(generator=step_generator(3, 3))

    def losses(batch: TrainingBatch) -> Tensor:
        drawn = draw_step(batch.latents.shape, PLAIN, step_generator(0, 0))
        with torch.no_grad():
            return clip_losses(network, batch, replace(drawn, with_word=False))

    other = replace(pictures, pictures=pictures.pictures + 1, embeddings=pictures.embeddings + 1)
    before, moving = losses(pictures), losses(video)
    assert torch.equal(before, losses(other)), "the picture is not told"
    spoil_time()
    torch.testing.assert_close(losses(pictures), before)
    assert not torch.allclose(losses(video), moving), "layers in time are used where there is time"


def train(unet: UNetSpatioTemporalConditionModel, state: TrainingState, until: int, batch: TrainingBatch) -> None:
    network, rate_at = Network(unet, make_words()), make_schedule("cosine", 3e-3, 40, warm_up=3)
    while state.step < until:
        loss = diffusion_loss(network, batch, PLAIN, step_generator(0, state.step))
        advance(state, loss, rate_at(state.step))


def advance(state: TrainingState, loss: Tensor, rate: float) -> None:
    state.begin()
    loss.backward()
    state.apply(loss.detach(), rate)


@pytest.mark.training
def test_a_network_learns_the_clips_it_is_shown(make_unet):
    unet, batch = make_unet(), make_batch()
    before = error_of(unet, make_words(), batch, 2.0)
    train(unet, new_state(dict(unet.named_parameters()), 0.99), 15, batch)
    assert error_of(unet, make_words(), batch, 2.0) < 0.9 * before


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
        advance(state, (number * 0).sum(), 0.0)
        average = decay * average + (1 - decay) * step
        assert state.average["number"].item() == pytest.approx(average, rel=1e-5)
    state.swap_average()
    assert (number.item(), state.average["number"].item()) == (pytest.approx(average, rel=1e-5), 4.0)
    state.swap_average()
    assert number.item() == 4.0


def test_a_huge_gradient_takes_no_larger_step():
    number, state = still_state(0.9)
    advance(state, (number * 1e9).sum(), 0.01)
    assert number.item() == pytest.approx(-0.01, rel=1e-3)
    assert number.grad is not None
    assert number.grad.item() == pytest.approx(1.0, rel=1e-3)


def test_the_learning_rate_rises_and_goes_as_the_schedule_of_its_name():
    cosine = [make_schedule("cosine", 2.0, 1000)(step) for step in range(1000)]
    assert cosine[0] == pytest.approx(2.0 / 30, rel=1e-3)
    assert cosine[514] == pytest.approx(1.0, rel=1e-2)
    assert 0 < cosine[999] < 1e-4
    assert max(cosine) == pytest.approx(2.0, rel=1e-4)
    assert all(later <= earlier for earlier, later in pairwise(cosine[30:]))
    assert [make_schedule("constant", 2.0, 9)(step) for step in (0, 8)] == [2.0, 2.0]
    assert [make_schedule("constant_with_warmup", 2.0, 9, 4)(step) for step in (0, 1, 3, 8)] == [0.5, 1.0, 2.0, 2.0]
    assert make_schedule("linear", 2.0, 9, 0)(4) == pytest.approx(1.0)


def test_an_optimiser_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match=r"adamw-8bit needs bitsandbytes, which is not installed: uv pip install"):
        make_optimiser("adamw-8bit", [nn.Parameter(torch.zeros(1))])


def test_a_clip_whose_motion_has_no_word_is_trained_on_as_without_words(make_unet):
    unet, batch, words = make_unet(), make_batch(), make_words()
    unknown = replace(batch, motions=["complex"] * len(batch.motions))
    without = error_of(unet, {}, unknown, 2.0)
    assert error_of(unet, words, unknown, 2.0) == pytest.approx(without, rel=1e-5)
    assert error_of(unet, words, batch, 2.0) != pytest.approx(without, rel=1e-5)
