"""Image-to-video sampling of a Stable-Video-Diffusion-shaped model: pictures and noise in, latents out, frames after.

The noise is handed in, never drawn here, so that an item's clip depends on its own noise alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.autoencoder import decoded, encode_frames
from models.edm import Denoiser, euler, guidance_per_frame, karras_sigmas
from models.errors import BadInput
from models.exact_decode import Room, decode_exactly
from models.lean import lean
from models.svd import Conditions, VideoModel, context_of, denoise, embed_pictures, setting
from models.windows import over_windows


@torch.no_grad()
def sample_latents(
    model: VideoModel,
    pictures: Tensor,
    noise: Tensor,
    augmentation: Tensor,
    motions: Sequence[str | None],
    steps: int = 25,
    fps: float | None = None,
    motion_buckets: Sequence[int] | None = None,
    guidance: tuple[float, float] | None = None,
    noise_aug: float | None = None,
) -> Tensor:
    """Latents [batch, frames, channels, h, w] of a clip per picture, scaled by the autoencoder's `scaling_factor`.

    pictures: [batch, 3, H, W] in -1..1; noise: [batch, frames, channels, h, w] and augmentation: [batch, 3, H, W], both
    standard normal; motions: a camera motion for each item, or None. What is None is as in the model's facts. More
    frames than the model makes at once are made in windows over time that share half their frames (models/windows.py).
    Raises BadInput when the shapes do not belong together or the model cannot make pictures of that size.
    """
    _check_shapes(model, pictures, noise, augmentation)
    facts = model.facts
    aug = facts.noise_aug if noise_aug is None else noise_aug
    buckets = motion_buckets or [facts.motion_bucket] * len(pictures)
    conditions = Conditions(
        context=context_of(embed_pictures(model, pictures), model.words, motions),
        picture=encode_frames(model.vae, pictures + aug * augmentation),
        ids=torch.tensor([[(fps or facts.fps) - 1, bucket, aug] for bucket in buckets]),
    )
    sigmas = karras_sigmas(steps, setting(model.scheduler, "sigma_min"), setting(model.scheduler, "sigma_max"))
    denoiser, native = guided(model, conditions, guidance or facts.guidance), facts.frames
    if noise.shape[1] > native:
        denoiser = over_windows(denoiser, native, overlap=native // 2)
    # The noisiest latent is the noise itself, at the deviation of signal and noise together.
    start = noise * (sigmas[0] ** 2 + 1).sqrt()
    with lean(model.unet):
        return euler(denoiser, start, sigmas)


def guided(model: VideoModel, conditions: Conditions, guidance: tuple[float, float]) -> Denoiser:
    """The denoiser with guidance that rises over the frames it is given, from the first of two strengths to the other.

    The two branches run one after the other: half the memory of running them as one batch, and the same time.
    """
    low, high = guidance

    def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(noisy))
        wanted = denoise(model.unet, noisy, level, conditions)
        if low == high == 1.0:
            return wanted
        free = denoise(model.unet, noisy, level, conditions.dropped())
        strength = guidance_per_frame(noisy.shape[1], low, high)[None, :, None, None, None]
        return free + strength * (wanted - free)

    return denoised


def _check_shapes(model: VideoModel, pictures: Tensor, noise: Tensor, augmentation: Tensor) -> None:
    height, width = pictures.shape[-2:]
    unit = model.size_unit
    if height % unit or width % unit:
        raise BadInput(f"Pictures of {width}x{height} do not fit the model: use sides that are multiples of {unit}.")
    wanted = (len(pictures), *model.latent_shape(noise.shape[1], height, width))
    if noise.shape != wanted or augmentation.shape != pictures.shape:
        raise BadInput(
            f"{len(pictures)} pictures of {width}x{height} need latent noise of {list(wanted)} and picture noise of "
            f"{list(pictures.shape)}, not {list(noise.shape)} and {list(augmentation.shape)}."
        )


@torch.no_grad()
def decode_latents(model: VideoModel, latents: Tensor, room: Room | None = None) -> NDArray[np.uint8]:
    """Frames, uint8 RGB [frames, height, width, 3], of the scaled latents [frames, channels, h, w] of one clip.

    Decoded whole, or in the strips that `room` allows.
    """
    unscaled = latents / setting(model.vae, "scaling_factor")
    frames = decode_exactly(model.vae, unscaled, room) if room else decoded(model.vae, unscaled, len(latents))
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
