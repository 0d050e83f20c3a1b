"""One training step of a video-diffusion UNet: what is drawn for a batch, and the loss of each of its clips.

Everything random in a step comes from its seed and its number, and is drawn for the whole batch at once, on the CPU. So
a resumed training equals an uninterrupted one, and a batch that is cut into parts, or spread over processes, has the
losses that it has as a whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from models.svd.edm import broadcast, draw_sigma, loss_weight
from models.svd.image_only import ImageOnly
from models.svd.model import Conditions, denoise

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
"""How the learning rate goes, by the names of diffusers."""


@dataclass(frozen=True)
class TrainingBatch:
    """Encoded clips: latents [batch, frames, channels, h, w], the picture's latent with augmentation noise
    [batch, channels, h, w], image embeddings [batch, width], micro-conditions [batch, 3], camera motions by name, and
    captions. Clips of one frame are pictures."""

    latents: Tensor
    pictures: Tensor
    embeddings: Tensor
    ids: Tensor
    motions: list[str]
    captions: list[str] = field(default_factory=list)

    def part(self, clips: slice) -> "TrainingBatch":
        """Return some of the clips."""
        return TrainingBatch(**{name: value[clips] for name, value in vars(self).items()})


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


class Network(nn.Module):
    """What is trained, as one module that can be spread over processes: the UNet, and the motion words.

    `words` are context tokens [width] by camera motion; those that are parameters are learned.
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel, words: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.unet = unet
        self.images = ImageOnly(unet)
        parameters = {name: _as_parameter(word) for name, word in words.items()}
        self.words = nn.ParameterDict(parameters)

    def forward(
        self, noisy: Tensor, sigma: Tensor, batch: TrainingBatch, motions: Sequence[str] | None = None
    ) -> Tensor:
        """Return the denoised latents of a batch, with the conditions it has and the words of `motions`, if any."""
        words = {} if motions is None else dict(self.words.items())
        context = make_context(batch.embeddings, words, motions or [])
        self.images.on = noisy.shape[1] == 1
        return denoise(self.unet, noisy, sigma, Conditions(context, batch.pictures, batch.ids))


@dataclass(frozen=True)
class Drawn:
    """What a step draws for each clip of a batch: noise levels [batch], noise like the latents, which clips keep their
    picture [batch]; whether the batch is told its motion words; and the square that it is cropped to."""

    sigma: Tensor
    noise: Tensor
    kept: Tensor
    with_word: bool
    window: tuple[slice, slice]

    def part(self, clips: slice) -> "Drawn":
        """Return what was drawn for some of the clips."""
        return replace(self, sigma=self.sigma[clips], noise=self.noise[clips], kept=self.kept[clips])


def draw_step(shape: Sequence[int], settings: StepSettings, generator: torch.Generator) -> Drawn:
    """Draw what a step needs for latents of a shape [batch, frames, channels, h, w].

    Conditions are dropped the way generation leaves them out: the picture per clip, the motion word for the whole
    batch, since a context without a word is one token long. A clip of one frame is trained without its picture, which
    is the answer.
    """
    clips, frames, channels, height, width = shape
    window = crop_randomly(height, width, settings.crop, generator)
    cells = [len(range(*each.indices(side))) for each, side in zip(window, (height, width), strict=True)]
    return Drawn(
        sigma=draw_sigma(clips, settings.log_sigma_mean, settings.log_sigma_deviation, generator),
        noise=torch.randn((clips, frames, channels, *cells), generator=generator),
        kept=(torch.rand(clips, generator=generator) >= settings.drop_picture).float() * (frames > 1),
        with_word=torch.rand((), generator=generator).item() >= settings.drop_word,
        window=window,
    )


def clip_losses(network: nn.Module, batch: TrainingBatch, drawn: Drawn, device: torch.device | None = None) -> Tensor:
    """Return the weighted squared error of each clip's denoised latents, [batch], on the network's device."""
    sigma, noise, kept = (each.to(device) for each in (drawn.sigma, drawn.noise, drawn.kept))
    window = (..., *drawn.window)
    latents, pictures = batch.latents[window].to(device), batch.pictures[window].to(device)
    seen = replace(
        batch,
        pictures=pictures * broadcast(kept, pictures),
        embeddings=batch.embeddings.to(device) * kept[:, None],
        ids=batch.ids.to(device),
    )
    noisy = latents + broadcast(sigma, latents) * noise
    denoised = network(noisy, sigma, seen, batch.motions if drawn.with_word else None)
    return loss_weight(sigma) * ((denoised - latents) ** 2).flatten(1).mean(1)


def diffusion_loss(
    network: nn.Module, batch: TrainingBatch, settings: StepSettings, generator: torch.Generator
) -> Tensor:
    """Return the mean loss of a batch, a scalar."""
    return clip_losses(network, batch, draw_step(batch.latents.shape, settings, generator)).mean()


@torch.no_grad()
def measure_errors(
    network: nn.Module,
    batch: TrainingBatch,
    noise: Tensor,
    sigma: float,
    motions: Sequence[str] | None,
    device: torch.device | None = None,
) -> Tensor:
    """Return the squared error [batch] of latents denoised from `noise` at `sigma`, when `motions` are asked for."""
    latents = batch.latents.to(device)
    told = replace(batch, **{name: getattr(batch, name).to(device) for name in ("pictures", "embeddings", "ids")})
    level = torch.full((len(latents),), sigma, device=device)
    denoised = network(latents + sigma * noise.to(device), level, told, motions)
    return (denoised - latents).square().flatten(1).mean(1).cpu()


def crop_randomly(height: int, width: int, side: int | None, generator: torch.Generator) -> tuple[slice, slice]:
    """Return a random square of `side` cells, as rows and columns; everything when `side` is None."""
    if side is None:
        return slice(None), slice(None)
    top = int(torch.randint(0, height - side + 1, (), generator=generator))
    left = int(torch.randint(0, width - side + 1, (), generator=generator))
    return slice(top, top + side), slice(left, left + side)


def make_schedule(name: Schedule, peak: float, steps: int, warm_up: int = 30) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, by diffusers' schedule of that name: it rises over `warm_up`
    steps, where the schedule warms up, and never is 0."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedule = get_scheduler(name, optimiser, num_warmup_steps=warm_up, num_training_steps=steps + 1)
    share = schedule.lr_lambdas[0]
    return lambda step: peak * share(step + 1)


def make_context(embeddings: Tensor, words: Mapping[str, Tensor], motions: Sequence[str]) -> Tensor:
    """Return contexts [batch, tokens, width]: the picture's embedding, and where there are words, that of the motion.

    A clip whose motion has no word has its embedding twice, to which attention answers as to once.
    """
    if not words:
        return embeddings[:, None]
    told = [words.get(motion, own) for motion, own in zip(motions, embeddings, strict=True)]
    return torch.stack([embeddings, torch.stack(told)], dim=1)


def _as_parameter(word: Tensor) -> nn.Parameter:
    return word if isinstance(word, nn.Parameter) else nn.Parameter(word.detach().clone(), requires_grad=False)
