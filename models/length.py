"""Clips longer than a model makes at once, in two ways: windows over time, or a chain of clips.

Windows share the picture and are blended at every step (models/windows.py): one motion throughout, and every window is
drawn to the picture. A chain makes one clip after another, each from the last latent of the one before: the camera can
go on, and faults add up. The chain keeps the picture as its anchor: every hop is told the picture's embedding, and the
mean and deviation of each latent channel are brought to those of the first hop.

How many hops a chain makes can be left to the meters: `while_good` says after each hop whether the clip is still good.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.autoencoder import encode_frames
from models.edm import Denoiser, euler, karras_sigmas
from models.lean import lean
from models.meters import LIMITS, Limits, good_until, measure_meters
from models.regions import told
from models.sampling import decode_latents, guided
from models.svd import Conditions, VideoModel, embed_pictures, setting
from models.windows import over_windows


@dataclass(frozen=True)
class Ask:
    """How clips are sampled; all of a batch alike. `motion`: a word the model knows, or None."""

    steps: int
    fps: float
    motion: str | None
    motion_bucket: int
    guidance: tuple[float, float]
    noise_aug: float

    @classmethod
    def native(cls, model: VideoModel, motion: str | None = None, steps: int = 25) -> "Ask":
        """As the model's facts say."""
        facts = model.facts
        return cls(steps, facts.fps, motion, facts.motion_bucket, facts.guidance, facts.noise_aug)


@torch.no_grad()
def conditions_of(model: VideoModel, pictures: Tensor, augmentation: Tensor, ask: Ask) -> Conditions:
    """What clips of pictures [batch, 3, H, W] in -1..1 are conditioned on; `augmentation` is standard normal noise."""
    ids = torch.tensor([ask.fps - 1, ask.motion_bucket, ask.noise_aug]).repeat(len(pictures), 1)
    noisy = (pictures + ask.noise_aug * augmentation).to(model.device)
    picture = encode_frames(model.vae, noisy)
    asked, size = [ask.motion] * len(pictures), (picture.shape[-2], picture.shape[-1])
    context, regions = told(embed_pictures(model, pictures), model.words, asked, size)
    return Conditions(context, picture, ids.to(model.device), regions)


@torch.no_grad()
def sample_windows(
    model: VideoModel, pictures: Tensor, noise: Tensor, augmentation: Tensor, ask: Ask, overlap: int | None = None
) -> Tensor:
    """Latents [batch, frames, channels, h, w] of as many frames as `noise` has; windows share half, or `overlap`.

    Arguments are as in models.sampling.sample_latents; up to the model's own number of frames the result is the same.
    """
    native = model.facts.frames
    conditions = conditions_of(model, pictures, augmentation, ask)
    shared = native // 2 if overlap is None else overlap
    blended = over_windows(guided(model, conditions, ask.guidance), native, shared)
    return _integrated(model, blended, noise, ask.steps)


@torch.no_grad()
def sample_chain(
    model: VideoModel,
    pictures: Tensor,
    noise: Tensor,
    augmentation: Tensor,
    ask: Ask,
    goes_on: Callable[[Tensor], bool] = lambda _: True,
) -> Tensor:
    """Latents [batch, frames, ...] of up to as many frames as `noise` has, hop after hop while `goes_on` of them all.

    A hop's first frame is the last one of the hop before, and is left out. Ends early where `goes_on` says so.
    """
    native, frames = model.facts.frames, noise.shape[1]
    start = conditions_of(model, pictures, augmentation, ask)
    made = _integrated(model, guided(model, start, ask.guidance), noise[:, :native], ask.steps)
    first = made
    while made.shape[1] < frames and goes_on(made):
        picture = (made[:, -1] / setting(model.vae, "scaling_factor")).to(model.device)
        here = replace(start, picture=picture)
        own = noise[:, made.shape[1] - 1 :][:, :native]
        hop = _integrated(model, guided(model, here, ask.guidance), own, ask.steps)
        made = torch.cat([made, matched(hop, first)[:, 1:]], dim=1)
    return made


def while_good(model: VideoModel, picture: NDArray[np.uint8], limits: Limits = LIMITS) -> Callable[[Tensor], bool]:
    """For `sample_chain` of one picture [height, width, 3]: whether all frames so far are good."""

    def goes_on(latents: Tensor) -> bool:
        frames = decode_latents(model, latents[0])
        return good_until(measure_meters(frames, picture), limits).frames == len(frames)

    return goes_on


def matched(latents: Tensor, to: Tensor) -> Tensor:
    """Latents [batch, frames, channels, h, w] with the mean and deviation that each channel has in `to`."""
    over = (1, 3, 4)
    mean, deviation = latents.mean(over, keepdim=True), latents.std(over, keepdim=True)
    return (latents - mean) / deviation.clamp(min=1e-6) * to.std(over, keepdim=True) + to.mean(over, keepdim=True)


def _integrated(model: VideoModel, denoiser: Denoiser, noise: Tensor, steps: int) -> Tensor:
    sigmas = karras_sigmas(steps, setting(model.scheduler, "sigma_min"), setting(model.scheduler, "sigma_max"))
    sigmas = sigmas.to(model.device)
    # The noisiest latent is the noise itself, at the deviation of signal and noise together.
    with lean(model.unet):
        return euler(denoiser, noise.to(model.device) * (sigmas[0] ** 2 + 1).sqrt(), sigmas).cpu()
