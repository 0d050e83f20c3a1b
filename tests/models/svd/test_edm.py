"""EDM with v-scaling against its closed forms, and the sampler against ODEs that can be solved on paper."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.svd.edm import (
    broadcast,
    c_in,
    c_noise,
    c_out,
    c_skip,
    draw_sigma,
    euler,
    karras_sigmas,
    loss_weight,
    ramp_guidance,
)

SIGMAS = st.floats(0.002, 700.0).map(lambda value: torch.tensor(value, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sigma", "skip", "out", "into", "noise", "weight"),
    [
        (1.0, 0.5, -math.sqrt(0.5), math.sqrt(0.5), 0.0, 2.0),
        (3.0, 0.1, -3 / math.sqrt(10), 1 / math.sqrt(10), math.log(3) / 4, 10 / 9),
        (700.0, 1 / 490001, -700 / math.sqrt(490001), 1 / math.sqrt(490001), 1.6377702, 490001 / 490000),
    ],
)
def test_the_preconditioning_at_known_noise(sigma, skip, out, into, noise, weight):
    level = torch.tensor(sigma, dtype=torch.float64)
    values = [f(level).item() for f in (c_skip, c_out, c_in, c_noise, loss_weight)]
    assert values == pytest.approx([skip, out, into, noise, weight], rel=1e-6)


@pytest.mark.slow
@given(SIGMAS)
def test_the_network_sees_and_makes_unit_deviation_at_any_noise(sigma: Tensor):
    seen = c_in(sigma) ** 2 * (1 + sigma**2)
    target = ((1 - c_skip(sigma)) ** 2 + (c_skip(sigma) * sigma) ** 2) / c_out(sigma) ** 2
    assert seen.item() == pytest.approx(1)
    assert target.item() == pytest.approx(1)
    assert (loss_weight(sigma) * c_out(sigma) ** 2).item() == pytest.approx(1), "the loss is that of the network"


@given(SIGMAS, st.floats(-3, 3), st.floats(-3, 3))
def test_the_network_predicts_v(sigma: Tensor, clean: float, noise: float):
    alpha, beta = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    v = alpha * noise - beta * clean
    denoised = c_skip(sigma) * (clean + sigma * noise) + c_out(sigma) * v
    assert denoised.item() == pytest.approx(clean, abs=1e-6)


def test_noise_levels_are_log_normal_with_the_asked_mean_and_deviation():
    logs = draw_sigma(100_000, 0.7, 1.6, torch.Generator().manual_seed(0)).log()
    assert logs.mean().item() == pytest.approx(0.7, abs=0.02)
    assert logs.std().item() == pytest.approx(1.6, abs=0.02)
    skew = ((logs - logs.mean()) / logs.std()).pow(3).mean()
    assert skew.item() == pytest.approx(0, abs=0.03)


def test_noise_levels_come_from_their_generator_alone():
    torch.manual_seed(0)
    first = draw_sigma(8, 0.0, 1.0, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    assert torch.equal(first, draw_sigma(8, 0.0, 1.0, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, draw_sigma(8, 0.0, 1.0, torch.Generator().manual_seed(4)))


@given(st.integers(2, 200), st.floats(0.001, 0.1), st.floats(1, 700), st.floats(1, 10))
def test_a_schedule_falls_from_its_highest_level_to_its_lowest_and_then_to_nothing(steps, low, high, rho):
    sigmas = karras_sigmas(steps, low, high, rho)
    assert len(sigmas) == steps + 1
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([high, low, 0.0], rel=1e-5)
    assert (sigmas.diff() < 0).all()


def test_the_middle_of_a_schedule_is_the_mean_of_seventh_roots():
    assert karras_sigmas(3)[1].item() == pytest.approx(((0.002 ** (1 / 7) + 700 ** (1 / 7)) / 2) ** 7, rel=1e-5)
    assert karras_sigmas(1).tolist() == [700.0, 0.0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
@pytest.mark.parametrize("steps", [1, 2, 7, 25])
def test_the_schedule_is_the_one_diffusers_samples_with(steps):
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.02, sigma_max=80.0
    )
    scheduler.set_timesteps(steps)
    assert torch.allclose(karras_sigmas(steps, 0.02, 80.0), scheduler.sigmas, rtol=1e-5)


def of_a_gaussian(mean: float, deviation: float):
    """The best denoiser of data N(mean, deviation^2): known in closed form."""

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return (deviation**2 * noisy + sigma**2 * mean) / (deviation**2 + sigma**2)

    return denoise


def gaussian_error(steps: int) -> float:
    """How far Euler's method ends from the solution of the ODE of N(0.3, 0.7^2) between levels 5 and 0.1."""
    mean, deviation, high, low = 0.3, 0.7, 5.0, 0.1
    start = torch.linspace(-12, 12, 101, dtype=torch.float64)
    exact = mean + (start - mean) * math.sqrt((deviation**2 + low**2) / (deviation**2 + high**2))
    sigmas = torch.linspace(high, low, steps + 1, dtype=torch.float64)
    return (euler(of_a_gaussian(mean, deviation), start, sigmas) - exact).abs().max().item()


def test_the_sampler_solves_the_ode_of_a_gaussian():
    assert gaussian_error(4000) < 2e-3


def test_the_samplers_error_halves_with_twice_the_steps():
    errors = [gaussian_error(steps) for steps in (200, 400, 800)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([1, 1], abs=0.08)


def test_pure_noise_becomes_samples_of_the_data():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = karras_sigmas(200, 0.002, 80.0).double()
    samples = euler(of_a_gaussian(-1.5, 0.5), noise * (80.0**2 + 1) ** 0.5, sigmas)
    assert samples.mean().item() == pytest.approx(-1.5, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, rel=0.03)


@given(st.integers(1, 9), st.floats(-5, 5))
def test_data_of_one_point_is_reached_exactly_in_any_number_of_steps(steps, point):
    start = torch.tensor([-40.0, 0.0, 90.0], dtype=torch.float64)
    reached = euler(lambda noisy, _: torch.full_like(noisy, point), start, karras_sigmas(steps).double())
    assert reached.tolist() == pytest.approx([point] * 3, abs=1e-9)


def test_guidance_rises_linearly_over_the_frames():
    assert ramp_guidance(5, 1.0, 3.0).tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert ramp_guidance(1, 1.0, 3.0).tolist() == [1.0]


def test_levels_are_shaped_to_their_batch():
    assert broadcast(torch.arange(2), torch.zeros(2, 3, 4, 5)).shape == (2, 1, 1, 1)
