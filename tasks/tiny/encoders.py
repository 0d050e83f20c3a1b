"""The embedded model's autoencoder and image encoder, trained from scratch on the rendered footage.

The autoencoder halves each side three times: content that moves then crosses few cells, and the UNet's attention can
carry it. It learns on single frames, then its latents are brought to unit deviation and its encoder stays as it is;
then the decoder learns on whole clips, so that its temporal layers see motion. The image encoder learns to distinguish
the shots.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from models.measures.psnr import psnr
from models.pictures import from_pixels
from models.svd.autoencoder import (
    Progress,
    decode_clips,
    encode_frames,
    leave_out_time,
    new_autoencoder,
    normalise_latents,
    train_autoencoder,
)
from models.svd.image_encoder import new_feature_extractor, new_image_encoder, train_image_encoder
from models.svd.model import ModelFacts, VideoModel, save_model
from tasks.caching import Step, find_or_compute
from tasks.manifest import ManifestRef, make_table, publish_folder
from tasks.tiny.render import FPS, FRAMES, SIDE, RenderConfig, film_scene

VERSION = 2

WIDTHS, LATENT_CHANNELS = (64, 64, 64), 8
"""The autoencoder's widths, from whole pictures to cells of 8 x 8 pixels, and the numbers in a cell."""

HELD, HELD_SCENES = 9_000_000, 8
"""Scenes that the autoencoder is measured on."""

SCHEMA = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("autoencoder_psnr_db", pa.float64()),
        pa.field("autoencoder_loss", pa.list_(pa.float32())),
        pa.field("image_encoder_matched", pa.float64()),
    ]
)

STEP = Step("encoders", VERSION, SCHEMA, files=("model",))

log = logging.getLogger("reelmill")


class EncodersConfig(BaseModel):
    """How long the encoders train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int = Field(default=250, ge=2, description="Scenes kept in memory to learn from")
    frame_steps: int = Field(default=4000, ge=1, description="Steps of the autoencoder on single frames")
    frame_batch: int = Field(default=4, ge=1, description="Frames of a step")
    clip_steps: int = Field(default=1000, ge=1, description="Steps of its decoder on whole clips")
    clip_batch: int = Field(default=2, ge=1, description="Clips of such a step")
    match_steps: int = Field(default=200, ge=1, description="Steps of the image encoder")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and batches")


def make_unet() -> UNetSpatioTemporalConditionModel:
    """Return the embedded model's untrained UNet. Content moves by attention, and only among few large cells does it
    get far, so attention begins where the latents are halved once; only the temporal transformers know which frame is
    which."""
    return UNetSpatioTemporalConditionModel(
        sample_size=SIDE // 2 ** (len(WIDTHS) - 1),
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 64),
        num_attention_heads=(1, 2, 2),
        layers_per_block=1,
        down_block_types=("DownBlockSpatioTemporal", *("CrossAttnDownBlockSpatioTemporal",) * 2),
        up_block_types=(*("CrossAttnUpBlockSpatioTemporal",) * 2, "UpBlockSpatioTemporal"),
        cross_attention_dim=64,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=FRAMES,
    )


def make_scheduler() -> EulerDiscreteScheduler:
    """Return Stable Video Diffusion's sampler, over the noise levels that the embedded model learns."""
    return EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.02,
        sigma_max=80.0,
    )


def film_clips(scenes: Iterable[int], config: RenderConfig) -> Tensor:
    """Film scenes: uint8 [clips, frames, 3, SIDE, SIDE], the shots of a scene one after the other."""
    clips = [shot.frames for number in scenes for shot in film_scene(number, config)]
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)


def draw_clips(clips: Tensor, batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of clips without end, float [batch, length, 3, SIDE, SIDE] in -1..1, of `length` consecutive
    frames."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        picks = torch.randint(len(clips), (batch,), generator=generator)
        firsts = torch.randint(0, FRAMES - length + 1, (batch,), generator=generator)
        chosen = [clips[i, first : first + length] for i, first in zip(picks, firsts.tolist(), strict=True)]
        yield from_pixels(torch.stack(chosen))


def train_on_frames(
    clips: Tensor, config: EncodersConfig, progress: Progress | None = None
) -> AutoencoderKLTemporalDecoder:
    """Return an autoencoder that learned on single frames of clips; its latents have zero mean and unit deviation."""
    torch.manual_seed(config.seed)
    vae = new_autoencoder(WIDTHS, LATENT_CHANNELS)
    with leave_out_time(vae):
        frames = draw_clips(clips, config.frame_batch, 1, config.seed)
        vae = train_autoencoder(vae, frames, config.frame_steps, progress=progress)
    normalise_latents(vae, [from_pixels(clip[None]) for clip in clips[:: max(1, len(clips) // 64)]])
    return vae


def draw_frame_pairs(clips: Tensor, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of frames of the same shots without end, float [batch, 3, 224, 224], roughly normalised."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        picks = torch.randperm(len(clips), generator=generator)[:batch]
        frames = torch.randint(FRAMES, (2,), generator=generator).tolist()
        first, second = (_enlarge(clips[picks, frame]) for frame in frames)
        yield first, second


def _enlarge(frames: Tensor) -> Tensor:
    # CLIP's normalisation is close to -1..1 times two.
    return F.interpolate(from_pixels(frames), (224, 224), mode="bilinear") * 2


@torch.no_grad()
def measure_reconstruction(vae: AutoencoderKLTemporalDecoder, clips: Tensor) -> float:
    """Return the peak signal-to-noise ratio, in dB, of clips, uint8 [clips, frames, 3, H, W], after the autoencoder."""
    squared = []
    for clip in from_pixels(clips):
        shown = decode_clips(vae, encode_frames(vae, clip), len(clip)).clamp(-1, 1)
        squared.append((shown - clip).square().mean().item())
    return psnr(float(np.mean(squared)), peak=2)


def _make_reporter(name: str, every: int, kept: list[float] | None = None) -> Progress:
    def say(step: int, facts: dict[str, float]) -> None:
        if step % every == 0:
            log.info("%s: step %d, %s", name, step, ", ".join(f"{k} {v:.3f}" for k, v in facts.items()))
        if kept is not None and step % 10 == 0:
            kept.append(facts["loss"])

    return say


def train_decoder(
    vae: AutoencoderKLTemporalDecoder, clips: Tensor, config: EncodersConfig, progress: Progress | None = None
) -> AutoencoderKLTemporalDecoder:
    """Return an autoencoder whose decoder also learned on whole clips; its encoder is as it was."""
    batches = draw_clips(clips, config.clip_batch, FRAMES, config.seed + 1)
    trained = list(vae.decoder.parameters())
    return train_autoencoder(vae, batches, config.clip_steps, 6e-4, progress=progress, trained=trained)


def train_image_side(clips: Tensor, config: EncodersConfig) -> tuple[CLIPVisionModelWithProjection, float]:
    """Return an image encoder that learned to tell shots apart, and the share of pairs that it matched at the end."""
    matched: list[float] = []

    def keep_matched(step: int, facts: dict[str, float]) -> None:
        matched.append(facts["matched"])

    torch.manual_seed(config.seed)
    pairs = draw_frame_pairs(clips, 32, config.seed)
    encoder = train_image_encoder(new_image_encoder(), pairs, config.match_steps, progress=keep_matched)
    return encoder, float(np.mean(matched[-10:]))


def make_facts() -> ModelFacts:
    """Return the embedded model's native numbers."""
    return ModelFacts(
        frames=FRAMES, width=SIDE, height=SIDE, fps=FPS, motion_bucket=85, noise_aug=0.02, guidance=(1.0, 1.0)
    )


def build_base(run: Path, key: str, config: EncodersConfig, render: RenderConfig) -> pa.Table:
    """Train both encoders on rendered scenes and write them, with an untrained UNet, as a model folder below `run`."""
    learn, held = film_clips(range(config.scenes), render), film_clips(range(HELD, HELD + HELD_SCENES), render)
    losses: list[float] = []
    say = _make_reporter("autoencoder", 100, losses)
    vae = train_decoder(train_on_frames(learn, config, say), learn, config, say)
    encoder, matched = train_image_side(learn, config)
    torch.manual_seed(config.seed)
    name = f"base/{key}"
    with publish_folder(run / name) as aside:
        model = VideoModel(
            make_unet(), vae, encoder, new_feature_extractor(), make_scheduler(), {}, make_facts(), revision=""
        )
        save_model(model, aside)
    row = {
        "model": f"{name}/model_index.json",
        "autoencoder_psnr_db": measure_reconstruction(vae, held),
        "autoencoder_loss": losses,
        "image_encoder_matched": matched,
    }
    log.info("autoencoder: %.2f dB on held-out clips", row["autoencoder_psnr_db"])
    return make_table([row], SCHEMA)


@task(name="encoders")
def train_encoders(run: Path, config: EncodersConfig, render: RenderConfig) -> ManifestRef:
    """Make the base model below `run`: encoders trained on rendered scenes, and an untrained UNet."""
    inputs = [f"filmed {render.model_dump_json()}"]
    return find_or_compute(STEP, run, config, inputs, lambda key: build_base(run, key, config, render))
