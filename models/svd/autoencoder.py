"""Training of a small temporal autoencoder (diffusers' AutoencoderKLTemporalDecoder) from scratch.

Loss: L1 + squared error + L1 of image gradients + a light KL term. From the default initialisation such a network
outputs one colour for hundreds of steps, so every residual branch begins near zero and the last temporal convolution
begins as the identity.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from torch import Tensor, nn
from torch.nn import functional as F

from models.measures.psnr import psnr

Progress = Callable[[int, dict[str, float]], None]


def new_autoencoder(widths: tuple[int, ...] = (64, 64, 64), latent_channels: int = 4) -> AutoencoderKLTemporalDecoder:
    """Return an untrained autoencoder; each width past the first halves the resolution once. Widths are multiples of
    32."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * len(widths)),
        block_out_channels=cast(Any, widths),
        layers_per_block=1,
        latent_channels=latent_channels,
        scaling_factor=1.0,
        force_upcast=False,
    )
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D | TemporalResnetBlock):
            block.conv2.weight.data.mul_(0.01)
            nn.init.zeros_(_read_bias(block.conv2))
    # A narrow posterior from the first step: sampled at unit deviation, the latent is mostly noise.
    vae.quant_conv.weight.data[latent_channels:] *= 0.1
    nn.init.constant_(_read_bias(vae.quant_conv).data[latent_channels:], -6.0)
    last = vae.decoder.time_conv_out
    nn.init.zeros_(last.weight)
    nn.init.zeros_(_read_bias(last))
    last.weight.data[range(3), range(3), 1, 0, 0] = 1.0
    return vae


def train_autoencoder(
    vae: AutoencoderKLTemporalDecoder,
    clips: Iterator[Tensor],
    steps: int,
    learning_rate: float = 2e-3,
    kl_weight: float = 1e-5,
    ema_decay: float = 0.995,
    progress: Progress | None = None,
    trained: Iterable[nn.Parameter] | None = None,
) -> AutoencoderKLTemporalDecoder:
    """Fit `vae`, or those of its parameters that are `trained`, to clips, float32 [batch, frames, 3, height, width] in
    -1..1; return the moving average of its weights."""
    chosen = list(vae.parameters() if trained is None else trained)
    vae.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(chosen, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(rise_stay_fall, steps=steps))
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    vae.train()
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss, facts = _measure_loss(vae, next(clips), kl_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(chosen, 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(vae)
        if progress:
            progress(step, facts)
    return cast(AutoencoderKLTemporalDecoder, average.module).eval().requires_grad_(True)


def rise_stay_fall(step: int, steps: int, rise: int = 50, fall: float = 0.2) -> float:
    """Return the share of the learning rate at a step: a linear rise, then all of it, then a linear fall over the last
    share `fall` of the steps, down to a fiftieth."""
    return min(1.0, (step + 1) / rise, max(0.02, (steps - step) / (fall * steps)))


@contextmanager
def leave_out_time(vae: AutoencoderKLTemporalDecoder) -> Iterator[None]:
    """Have the decoder work without its temporal branches for the length of a block: what single frames learn needs
    none, and a third of the time is saved."""
    blocks = [block for block in vae.decoder.modules() if isinstance(block, SpatioTemporalResBlock)]
    try:
        for block in blocks:
            vars(block)["forward"] = partial(_run_spatial_branch, block)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _run_spatial_branch(block: SpatioTemporalResBlock, hidden_states: Tensor, **_: object) -> Tensor:
    return block.spatial_res_block(hidden_states, None)


def normalise_latents(vae: AutoencoderKLTemporalDecoder, clips: list[Tensor]) -> None:
    """Fold each latent channel's mean and deviation into the layers around the latent, in place.

    Afterwards latents have zero mean and unit deviation with `scaling_factor` 1. They are folded because the picture's
    latent conditions the denoiser unscaled.
    """
    latents = torch.cat([encode_frames(vae, clip.flatten(0, 1)) for clip in clips])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, decode_in = vae.quant_conv, vae.decoder.conv_in
    with torch.no_grad():
        # The first half of the channels are means, the second half log variances.
        quant.weight[:channels] /= deviation[:, None, None, None]
        bias = _read_bias(quant)
        bias[:channels] = (bias[:channels] - mean) / deviation
        bias[channels:] -= 2 * deviation.log()
        _absorb_affine(decode_in, mean, deviation)


def _absorb_affine(conv: nn.Conv2d, mean: Tensor, deviation: Tensor) -> None:
    """Make `conv` see deviation * z + mean; at the border, zero padding leaves a small error that training removes."""
    _read_bias(conv).add_((conv.weight.sum((2, 3)) * mean).sum(1))
    conv.weight *= deviation[None, :, None, None]


def encode_distribution(vae: AutoencoderKLTemporalDecoder, frames: Tensor) -> DiagonalGaussianDistribution:
    """Return the distribution of the unscaled latents [frames, channels, h, w] of frames [frames, 3, H, W] in -1..1."""
    return cast(AutoencoderKLOutput, vae.encode(frames)).latent_dist


def decode_clips(vae: AutoencoderKLTemporalDecoder, latents: Tensor, frames: int) -> Tensor:
    """Decode the unscaled latents [.., channels, h, w] of clips of `frames` frames; return frames [.., 3, H, W], about
    -1..1."""
    return cast(DecoderOutput, vae.decode(latents, num_frames=frames)).sample


@torch.no_grad()
def encode_frames(vae: AutoencoderKLTemporalDecoder, frames: Tensor) -> Tensor:
    """Encode frames [frames, 3, H, W] in -1..1; return unscaled latents [frames, channels, h, w], the distribution's
    mode."""
    return encode_distribution(vae, frames).mode()


def _read_bias(conv: nn.Conv2d | nn.Conv3d) -> nn.Parameter:
    return cast(nn.Parameter, conv.bias)


def _measure_loss(vae: AutoencoderKLTemporalDecoder, clip: Tensor, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    frames = clip.flatten(0, 1)
    posterior = encode_distribution(vae, frames)
    shown = decode_clips(vae, posterior.sample(), clip.shape[1]).float()
    absolute, squared = F.l1_loss(shown, frames), F.mse_loss(shown, frames)
    edges = sum(F.l1_loss(shown.diff(dim=d), frames.diff(dim=d)) for d in (-1, -2))
    loss = absolute + squared + edges + kl_weight * posterior.kl().mean()
    return loss, {"loss": loss.item(), "psnr_db": psnr(squared.item(), peak=2)}
