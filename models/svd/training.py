"""One training step of a video-diffusion UNet, and the state from which a stopped training resumes.

Everything random in a step comes from its seed and its number, so that a resumed training equals an uninterrupted one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.svd.edm import broadcast, draw_sigma, loss_weight
from models.svd.model import Conditions, denoise


@dataclass(frozen=True)
class TrainingBatch:
    """Encoded clips: latents [batch, frames, channels, h, w], the picture's latent with augmentation noise
    [batch, channels, h, w], image embeddings [batch, width], micro-conditions [batch, 3], camera motions by name."""

    latents: Tensor
    pictures: Tensor
    embeddings: Tensor
    ids: Tensor
    motions: list[str]


@dataclass(frozen=True)
class StepSettings:
    """How a step draws noise and drops conditions; `crop` is the side, in latent cells, of a random square, or None."""

    log_sigma_mean: float
    log_sigma_deviation: float
    drop_picture: float
    drop_word: float
    crop: int | None


@dataclass(frozen=True)
class Suggested:
    """What a model is trained with where nothing else is asked: the peak learning rate, and ln(sigma) ~ N(mean,
    deviation^2)."""

    learning_rate: float
    log_sigma_mean: float
    log_sigma_deviation: float


SMALL_PIXELS = 256 * 256
"""Models of smaller pictures learn at the embedded one's settings, others at those of Stable Video Diffusion."""


def suggest_settings(pixels: int, lora: bool) -> Suggested:
    """Return what a model of so many pixels a frame is trained with: as a LoRA, or whole.

    Public trainers of Stable Video Diffusion take 1e-4 or less for a LoRA and 1e-5 for the UNet, and ln(sigma) ~
    N(0.7, 1.6^2). The embedded model's motion is decided at higher noise: its pictures have few pixels.
    """
    if pixels < SMALL_PIXELS:
        return Suggested(4e-3, 2.0, 1.2) if lora else Suggested(2e-4, 0.7, 1.6)
    return Suggested(1e-4 if lora else 1e-5, 0.7, 1.6)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the one source of randomness of a step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def diffusion_loss(
    unet: UNetSpatioTemporalConditionModel,
    words: Mapping[str, Tensor],
    batch: TrainingBatch,
    settings: StepSettings,
    generator: torch.Generator,
) -> Tensor:
    """Return the weighted squared error of the denoised latents, a scalar.

    Conditions are dropped the way generation leaves them out: the picture per clip, the motion word for the whole
    batch, since a context without a word is one token long.
    """
    latents, pictures = crop_randomly(batch.latents, batch.pictures, settings.crop, generator)
    sigma = draw_sigma(len(latents), settings.log_sigma_mean, settings.log_sigma_deviation, generator)
    noise = torch.randn(latents.shape, generator=generator)
    kept = (torch.rand(len(latents), generator=generator) >= settings.drop_picture).float()
    with_word = bool(words) and torch.rand((), generator=generator).item() >= settings.drop_word
    conditions = Conditions(
        context=_make_context(batch.embeddings * kept[:, None], words if with_word else {}, batch.motions),
        picture=pictures * broadcast(kept, pictures),
        ids=batch.ids,
    )
    denoised = denoise(unet, latents + broadcast(sigma, latents) * noise, sigma, conditions)
    return (broadcast(loss_weight(sigma), latents) * (denoised - latents) ** 2).mean()


@torch.no_grad()
def probe_error(
    unet: UNetSpatioTemporalConditionModel,
    words: Mapping[str, Tensor],
    batch: TrainingBatch,
    motions: list[str],
    sigma: float,
) -> float:
    """Return the mean squared error of the latents denoised from fixed noise at `sigma`, when `motions` are asked
    for."""
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    conditions = Conditions(_make_context(batch.embeddings, words, motions), batch.pictures, batch.ids)
    level = torch.full((len(batch.latents),), sigma)
    denoised = denoise(unet, batch.latents + sigma * noise, level, conditions)
    return (denoised - batch.latents).square().mean().item()


def crop_randomly(
    latents: Tensor, pictures: Tensor, side: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crop the same random square out of every latent and picture of a batch; return both unchanged when `side` is
    None."""
    if side is None:
        return latents, pictures
    height, width = latents.shape[-2:]
    top = int(torch.randint(0, height - side + 1, (), generator=generator))
    left = int(torch.randint(0, width - side + 1, (), generator=generator))
    window = (..., slice(top, top + side), slice(left, left + side))
    return latents[window], pictures[window]


@dataclass
class TrainingState:
    """What trains: named parameters, their moving average and the optimiser, at a step."""

    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.AdamW
    ema_decay: float
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def apply(self, loss: Tensor, learning_rate: float) -> None:
        """Make one optimiser step on `loss`, with gradients clipped to norm 1, and update the moving average. Raises
        FloatingPointError, and changes nothing, where the loss or a gradient is not a number."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise FloatingPointError
        self.optimiser.step()
        self.step += 1
        # Early on a short memory, so that the average does not carry the initial weights along.
        decay = min(self.ema_decay, self.step / (self.step + 10))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def load_average(self) -> None:
        """Set the parameters to their moving average."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])

    def save(self, path: Path) -> None:
        """Write the whole state as safetensors."""
        tensors = {"step": torch.tensor(self.step)}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter.detach().contiguous()
            tensors[f"average.{name}"] = self.average[name]
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{key}.{name}"] = value
        save_file({key: value.clone() for key, value in tensors.items()}, path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Restore a saved state, bit for bit."""
        tensors = load_file(path)
        self.step = int(tensors["step"])
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            self.average[name] = tensors[f"average.{name}"].clone()
            # The optimiser knows nothing of a parameter that no step has used yet, a word that was never asked for.
            kept = {key: tensors.get(f"optimiser.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            known = {key: value.clone() for key, value in kept.items() if value is not None}
            if known:
                self.optimiser.state[parameter] = known


def new_state(parameters: Mapping[str, nn.Parameter], ema_decay: float, weight_decay: float = 1e-3) -> TrainingState:
    """Return a fresh state over the parameters that train."""
    chosen = dict(parameters)
    optimiser = torch.optim.AdamW(chosen.values(), betas=(0.9, 0.98), weight_decay=weight_decay)
    return TrainingState(chosen, optimiser, ema_decay)


def learning_rate_at(step: int, steps: int, peak: float, warm_up: int = 30) -> float:
    """Return the learning rate: a linear rise over `warm_up` steps, then half a cosine down to a twentieth of the
    peak."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / max(steps, 1))).item())
    return peak * rise * (0.05 + 0.95 * fall)


def _make_context(embeddings: Tensor, words: Mapping[str, Tensor], motions: list[str]) -> Tensor:
    """Return contexts [batch, tokens, width]: the picture's embedding, and where there are words, that of the motion.

    A clip whose motion has no word has its embedding twice, to which attention answers as to once.
    """
    if not words:
        return embeddings[:, None]
    told = [words.get(motion, own) for motion, own in zip(motions, embeddings, strict=True)]
    return torch.stack([embeddings, torch.stack(told)], dim=1)
