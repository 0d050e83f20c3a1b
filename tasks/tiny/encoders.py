"""The embedded model's autoencoder and image encoder, trained from scratch on the rendered footage.

The autoencoder learns on single frames, then its latents are brought to unit deviation, then it learns on whole clips,
so that its temporal layers see motion. The image encoder learns to distinguish the shots.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from models.measures.psnr import psnr
from models.pictures import from_pixels
from models.svd.autoencoder import (
    Progress,
    decode_clips,
    encode_frames,
    new_autoencoder,
    normalise_latents,
    train_autoencoder,
)
from models.svd.image_encoder import new_feature_extractor, new_image_encoder, train_image_encoder
from models.svd.model import ModelFacts, VideoModel, save_model
from models.svd.regions import SLIDING
from tasks.caching import Step, find_or_compute
from tasks.manifest import ManifestRef, make_table, publish_folder, read_rows
from tasks.media.video import read_frames

VERSION = 1

SIDE, FRAMES, FPS = 64, 8, 7.0
"""The embedded model's picture, clip and rate."""

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

    clips: int = Field(default=1000, ge=8, description="Clips kept in memory to learn from")
    frame_steps: int = Field(default=1800, ge=1, description="Steps of the autoencoder on single frames")
    clip_steps: int = Field(default=400, ge=1, description="Steps of the autoencoder on whole clips")
    crop: int = Field(default=32, ge=16, description="Side of the random squares it learns on, in pixels")
    match_steps: int = Field(default=200, ge=1, description="Steps of the image encoder")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and batches")


def make_unet() -> UNetSpatioTemporalConditionModel:
    """Return the embedded model's untrained UNet, with attention at every level, because only the temporal transformers
    know which frame is which."""
    return UNetSpatioTemporalConditionModel(
        sample_size=SIDE // 4,
        block_out_channels=(32, 64),
        num_attention_heads=(1, 2),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
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


def load_clips(dataset: Path, limit: int) -> Tensor:
    """Load shots of the rendered dataset, evenly spread, in order: uint8 [clips, frames, 3, SIDE, SIDE]."""
    wanted: dict[str, list[tuple[float, float]]] = {}
    rows = read_rows(dataset / "clips.parquet", ("source", "start_s", "end_s"))
    for row in rows[:: max(1, len(rows) // limit)][:limit]:
        wanted.setdefault(row["source"], []).append((row["start_s"], row["end_s"]))
    clips = [clip for source, spans in wanted.items() for clip in _read_shots(dataset / source, spans)]
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)


def _read_shots(path: Path, spans: list[tuple[float, float]]) -> Iterator[np.ndarray]:
    def small(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    frames = [(float(time), small(frame.to_ndarray(format="rgb24"))) for time, frame in read_frames(path)]
    for start, end in spans:
        yield np.stack([f for t, f in frames if start - 1e-6 <= t < end - 1e-6])


def draw_squares(clips: Tensor, config: EncodersConfig, batch: int, length: int) -> Iterator[Tensor]:
    """Yield random squares without end, float [batch, length, 3, crop, crop] in -1..1, of `length` consecutive
    frames."""
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        picks = torch.randint(len(clips), (batch,), generator=generator)
        first = int(torch.randint(0, FRAMES - length + 1, (), generator=generator))
        top, left = torch.randint(0, SIDE - config.crop + 1, (2,), generator=generator).tolist()
        square = clips[picks, first : first + length, :, top : top + config.crop, left : left + config.crop]
        yield from_pixels(square)


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


def build_base(dataset: Path, run: Path, key: str, config: EncodersConfig) -> pa.Table:
    """Train both encoders on the dataset and write them, with an untrained UNet, as a model folder below
    `run`."""
    torch.manual_seed(config.seed)
    clips = load_clips(dataset, config.clips)
    learn, held = clips[: -len(clips) // 20], clips[-len(clips) // 20 :]
    losses: list[float] = []
    say = _make_reporter("autoencoder", 100, losses)
    vae = train_autoencoder(new_autoencoder(), draw_squares(learn, config, 8, 1), config.frame_steps, progress=say)
    normalise_latents(vae, [from_pixels(clip[None]) for clip in learn[:32]])
    batches = draw_squares(learn, config, 2, FRAMES)
    vae = train_autoencoder(vae, batches, config.clip_steps, learning_rate=6e-4, progress=say)
    matched: list[float] = []

    def keep_matched(step: int, facts: dict[str, float]) -> None:
        matched.append(facts["matched"])

    encoder = train_image_encoder(
        new_image_encoder(), draw_frame_pairs(learn, 32, config.seed), config.match_steps, progress=keep_matched
    )
    facts = ModelFacts(
        frames=FRAMES,
        width=SIDE,
        height=SIDE,
        fps=FPS,
        motion_bucket=85,
        noise_aug=0.02,
        guidance=(1.0, 1.0),
        by_regions=tuple(SLIDING),
    )
    name = f"base/{key}"
    with publish_folder(run / name) as aside:
        model = VideoModel(
            make_unet(), vae, encoder, new_feature_extractor(), make_scheduler(), words={}, facts=facts, revision=""
        )
        save_model(model, aside)
    row = {
        "model": f"{name}/model_index.json",
        "autoencoder_psnr_db": measure_reconstruction(vae, held),
        "autoencoder_loss": losses,
        "image_encoder_matched": float(np.mean(matched[-10:])),
    }
    log.info("autoencoder: %.2f dB on held-out clips", row["autoencoder_psnr_db"])
    return make_table([row], SCHEMA)


@task(name="encoders")
def train_encoders(run: Path, config: EncodersConfig, dataset: Path, clips: ManifestRef) -> ManifestRef:
    """Make the base model below `run`: encoders trained on the dataset, and an untrained UNet."""
    return find_or_compute(STEP, run, config, [clips], lambda key: build_base(dataset, run, key, config))
