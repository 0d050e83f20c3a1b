"""Image-to-video sampling of a Stable-Video-Diffusion-shaped model: pictures and noise in, latents out, frames after.

The noise is an argument, never drawn here, so that an item's clip depends on its own noise alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device import check_decoded
from models.errors import BadInput
from models.pictures import to_pixels
from models.svd.autoencoder import decode_clips, encode_frames
from models.svd.edm import Denoiser, euler, karras_sigmas, ramp_guidance
from models.svd.exact_decode import Room, decode_exactly
from models.svd.inference_unet import work_in_place
from models.svd.model import Conditions, VideoModel, denoise, embed_pictures, read_setting
from models.svd.regions import make_region_contexts
from models.svd.windows import denoise_in_windows


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
    guidance_together: bool = False,
    going_on: Tensor | None = None,
) -> Tensor:
    """Sample latents [batch, frames, channels, h, w] of a clip per picture, scaled by the autoencoder's
    `scaling_factor`.

    pictures: [batch, 3, H, W] in -1..1; noise: [batch, frames, channels, h, w] and augmentation: [batch, 3, H, W], both
    standard normal; motions: a word for each item, perhaps one by regions (models/svd/regions.py), or None. None takes
    the model's own numbers. More frames than the model makes at once are made in windows over time that share half
    their frames (models/svd/windows.py). going_on: scaled latents [batch, channels, h, w] in place of the pictures'
    own: the last ones of the clips that these continue (models/generation/long_clips.py). Arguments and results are on
    the CPU, wherever the model works. Raises BadInput when the shapes do not fit together or the model cannot make
    pictures of that size.
    """
    _check_shapes(model, pictures, noise, augmentation)
    facts = model.facts
    aug = facts.noise_aug if noise_aug is None else noise_aug
    buckets = motion_buckets or [facts.motion_bucket] * len(pictures)
    context, regions = make_region_contexts(
        embed_pictures(model, pictures), model.words, motions, (noise.shape[-2], noise.shape[-1])
    )
    conditions = Conditions(
        context=context,
        picture=_prepare_latents(model, pictures + aug * augmentation, going_on),
        ids=torch.tensor([[(fps or facts.fps) - 1, bucket, aug] for bucket in buckets]).to(model.device),
        regions=regions,
    )
    return sample_conditioned(model, conditions, noise, steps, guidance, guidance_together)


@torch.no_grad()
def sample_conditioned(
    model: VideoModel,
    conditions: Conditions,
    noise: Tensor,
    steps: int,
    guidance: tuple[float, float] | None = None,
    together: bool = False,
) -> Tensor:
    """Sample latents [batch, frames, channels, h, w] under conditions that are on the model's device; `noise` and the
    result are on the CPU, as those of `sample_latents`."""
    sigmas = karras_sigmas(
        steps, read_setting(model.scheduler, "sigma_min"), read_setting(model.scheduler, "sigma_max")
    )
    sigmas = sigmas.to(model.device)
    denoiser, native = guide(model, conditions, guidance or model.facts.guidance, together), model.facts.frames
    if noise.shape[1] > native:
        denoiser = denoise_in_windows(denoiser, native, overlap=native // 2)
    # The noisiest latent is the noise itself, at the deviation of signal and noise together.
    start = noise.to(model.device) * (sigmas[0] ** 2 + 1).sqrt()
    with work_in_place(model.unet):
        return euler(denoiser, start, sigmas).cpu()


def guide(model: VideoModel, conditions: Conditions, guidance: tuple[float, float], together: bool = False) -> Denoiser:
    """Return the denoiser with guidance that rises over the frames, from the first of two strengths to the other.

    The two branches run one after the other: half the memory of running them `together`, as one batch, and about the
    same time where one of them keeps the device busy.
    """
    low, high = guidance
    both = conditions.with_dropped() if together else None

    def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(noisy))
        if low == high == 1.0:
            return denoise(model.unet, noisy, level, conditions)
        if both:
            wanted, free = denoise(model.unet, torch.cat([noisy, noisy]), torch.cat([level, level]), both).chunk(2)
        else:
            wanted = denoise(model.unet, noisy, level, conditions)
            free = denoise(model.unet, noisy, level, conditions.dropped())
        strength = ramp_guidance(noisy.shape[1], low, high)[None, :, None, None, None].to(noisy)
        return free + strength * (wanted - free)

    return denoised


def _prepare_latents(model: VideoModel, noisy_pictures: Tensor, going_on: Tensor | None) -> Tensor:
    """Return the unscaled latents that every frame sees: the pictures', or those that a clip continues from."""
    if going_on is None:
        return encode_frames(model.vae, noisy_pictures.to(model.device))
    return (going_on / read_setting(model.vae, "scaling_factor")).to(model.device)


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
    """Decode the scaled latents [frames, channels, h, w] of one clip; return frames, uint8 RGB [frames, height, width,
    3].

    Decoded whole, or in the strips that `room` allows, on the model's device; latents and frames are on the CPU. Raises
    BadModel where the frames are not finite numbers.
    """
    unscaled = (latents / read_setting(model.vae, "scaling_factor")).to(model.device)
    frames = decode_exactly(model.vae, unscaled, room) if room else decode_clips(model.vae, unscaled, len(latents))
    return to_pixels(check_decoded(frames)).permute(0, 2, 3, 1).cpu().numpy()
