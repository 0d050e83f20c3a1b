"""The diffusion of Stable Video Diffusion: Karras et al.'s EDM (arXiv 2206.00364) with v-scaling (arXiv 2311.15127, D).

A clean latent x is seen as x + sigma * noise. The network F sees c_in * (x + sigma * noise) at c_noise, and the
denoised latent is D = c_skip * (x + sigma * noise) + c_out * F.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]


def c_skip(sigma: Tensor) -> Tensor:
    """Return the share of the noisy latent in the denoised one: 1 / (sigma^2 + 1)."""
    return 1 / (sigma**2 + 1)


def c_out(sigma: Tensor) -> Tensor:
    """Return the weight of the network's output: -sigma / sqrt(sigma^2 + 1)."""
    return -sigma / (sigma**2 + 1).sqrt()


def c_in(sigma: Tensor) -> Tensor:
    """Return the factor that brings the noisy latent to unit deviation: 1 / sqrt(sigma^2 + 1)."""
    return 1 / (sigma**2 + 1).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """Return the noise level as the network sees it: ln(sigma) / 4."""
    return 0.25 * sigma.log()


def loss_weight(sigma: Tensor) -> Tensor:
    """Return the weight that makes the squared error of D the squared error of v: (1 + sigma^2) / sigma^2."""
    return (1 + sigma**2) / sigma**2


def draw_sigma(batch: int, log_mean: float, log_deviation: float, generator: torch.Generator) -> Tensor:
    """Draw training noise levels [batch], with ln(sigma) ~ N(log_mean, log_deviation^2)."""
    return (log_mean + log_deviation * torch.randn(batch, generator=generator)).exp()


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Tensor:
    """Return sampling noise levels [steps + 1], falling from sigma_max to sigma_min and then 0 (EDM, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float()


def euler(denoise: Denoiser, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate the probability-flow ODE from `noisy` at sigmas[0] to sigmas[-1] by Euler's method (EDM, alg. 1)."""
    for sigma, following in pairwise(sigmas):
        slope = (noisy - denoise(noisy, sigma)) / sigma
        noisy = noisy + (following - sigma) * slope
    return noisy


def ramp_guidance(frames: int, low: float, high: float) -> Tensor:
    """Return the guidance strength [frames], rising linearly from the first frame to the last."""
    return torch.linspace(low, high, frames)


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Shape values [batch] to multiply a tensor [batch, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
