"""Encoding clips to what training reads: latents, noised picture latents and image embeddings, stored as safetensors.

A clip is cut into windows of the model's length and rate; a frame is the one shown at its time. The condition is the
window's first frame with noise of ln(sigma) ~ N(-3, 0.5^2) added before the autoencoder (SVD, appendix D), drawn
`condition_draws` times, so that training sees several. Each kept clip is decoded once. Latents are unscaled float16.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from models.generation.model_cache import get_model
from models.pictures import Frames, from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, digest_encoders, embed_pictures
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute
from tasks.canonical_picture import COMBED
from tasks.child_process import run_in_child
from tasks.finetune.windows import SEEN_WHOLE, Seen, WindowShape, read_windows
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish
from tasks.source_files import read_as
from tasks.video import name_clip, name_demuxer

VERSION = 2

NEEDS = ("clip_id", "video_id", "source", "start_s", "end_s")

PICTURE_NEEDS = ("bar_top", "bar_bottom", "bar_left", "bar_right", "combing")
"""What is read of a clip's picture where it was measured."""

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("window", pa.int32()),
        pa.field("start_s", pa.float64()),
        pa.field("latents", pa.string()),
        pa.field("row", pa.int32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("encode", VERSION, SCHEMA, files=("latents",))

LIMIT_S, LIMIT_FACTOR = 300.0, 60.0
"""Time limit for reading a clip, fixed and per second of it."""


class LatentsConfig(BaseModel):
    """How clips become training examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows_per_clip: int = Field(default=4, ge=1, description="At most this many windows per clip, spread over it")
    condition_draws: int = Field(default=4, ge=1, description="Noised copies of each picture's latent")
    noise_log_mean: float = Field(default=-3.0, description="Mean of ln(sigma) of the picture's noise")
    noise_log_deviation: float = Field(default=0.5, ge=0, description="Deviation of ln(sigma) of the picture's noise")


@dataclass(frozen=True)
class ClipSpan:
    """A clip to encode: its name, its span in its source, in seconds, and what is known of its picture."""

    clip_id: str
    start_s: float
    end_s: float
    seen: Seen = SEEN_WHOLE


@dataclass(frozen=True)
class SourceClips:
    """The kept clips of one source file, in order of time; `digest` is that of the file's content, `encoders` names the
    model that encodes them; `container` is what probing found the file to be, if that is known."""

    source: Path
    digest: str
    clips: tuple[ClipSpan, ...]
    encoders: str = "tiny"
    container: str | None = None

    def key(self) -> str:
        """Return a digest of the content and the spans."""
        spans = [(c.clip_id, c.start_s, c.end_s, *c.seen) for c in self.clips]
        return hashlib.sha256(json.dumps([self.digest, spans]).encode()).hexdigest()


def make_seen(clip: Mapping[str, Any], video: Mapping[str, Any]) -> Seen:
    """Return what is known of a clip's picture, from its row with PICTURE_NEEDS and that of its video, where they have
    them."""
    top, bottom, left, right = (clip.get(name) or 0 for name in PICTURE_NEEDS[:4])
    combed = (clip["combing"] or 0) >= COMBED if "combing" in clip else None
    return Seen(video.get("stream"), combed, (top, bottom, left, right))


def add_noise(pictures: Tensor, config: LatentsConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures [batch, 3, H, W] with `condition_draws` draws of noise, [batch, draws, 3, H, W], and the sigmas
    [batch, draws]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(pictures), config.condition_draws)
    log_sigma = config.noise_log_mean + config.noise_log_deviation * torch.randn(shape, generator=generator)
    noise = torch.randn(*shape, *pictures.shape[1:], generator=generator)
    sigma = log_sigma.exp()
    return pictures[:, None] + sigma[:, :, None, None, None] * noise, sigma


@torch.no_grad()
def encode_windows(model: VideoModel, windows: Sequence[NDArray[np.uint8]], config: LatentsConfig, seed: int) -> dict:
    """Return what training reads of windows, uint8 RGB [frames, H, W, 3] each: float16 tensors by name."""
    parts: dict[str, list[Tensor]] = {"latents": [], "pictures": [], "sigmas": [], "embeddings": []}
    for index, window in enumerate(windows):
        frames = from_pixels(torch.from_numpy(window).permute(0, 3, 1, 2))
        noised, sigma = add_noise(frames[:1], config, seed + index)
        parts["latents"].append(encode_frames(model.vae, frames))
        parts["pictures"].append(encode_frames(model.vae, noised[0]))
        parts["sigmas"].append(sigma[0])
        parts["embeddings"].append(embed_pictures(model, frames[:1])[0])
    return {name: torch.stack(tensors).half().contiguous() for name, tensors in parts.items()}


def encode_source(root: Path, key: str, group: SourceClips, model: VideoModel, config: LatentsConfig) -> pa.Table:
    """Encode a source's clips to `latents/KEY.safetensors` below `root`; return a row for each window or failed
    clip."""
    name = f"latents/{key}.safetensors"
    rows: list[dict[str, Any]] = []
    windows: list[NDArray[np.uint8]] = []
    for clip in group.clips:
        own, read = _read_clip(root, clip, group, model, config)
        place = ({"latents": name, "row": len(windows) + number} if read else {} for number in range(len(own)))
        rows += [{"clip_id": clip.clip_id, "attempt": 1, **row, **at} for row, at in zip(own, place, strict=True)]
        windows += read

    def write() -> list[dict[str, Any]]:
        if windows:
            with publish(root / name) as aside:
                save_file(encode_windows(model, windows, config, seed=int(group.key()[:12], 16)), aside)
        return rows

    def failed(failure: dict[str, str]) -> list[dict[str, Any]]:
        return [{"clip_id": clip.clip_id, "attempt": 1, **failure} for clip in group.clips]

    return make_table(tried(write, failed, "encoding", str(group.source)), SCHEMA)


def _read_clip(
    root: Path, clip: ClipSpan, group: SourceClips, model: VideoModel, config: LatentsConfig
) -> tuple[list[dict[str, Any]], list[Frames]]:
    """Return the columns of a clip's windows and their frames, or those of its failure and none."""
    facts, item = model.facts, name_clip(group.source, clip.start_s, clip.end_s)
    shape = WindowShape(facts.frames, facts.fps, facts.width, facts.height)
    limit_s = LIMIT_S + LIMIT_FACTOR * (clip.end_s - clip.start_s)

    def read() -> tuple[list[dict[str, Any]], list[Frames]]:
        with read_as(root, group.source, group.digest):
            found = run_in_child(
                read_windows,
                group.source,
                (clip.start_s, clip.end_s),
                item,
                shape,
                config.windows_per_clip,
                name_demuxer(group.container),
                clip.seen,
                limit_s=limit_s,
                item=item,
            )
        return [{"window": i, "start_s": start} for i, (start, _) in enumerate(found)], [each for _, each in found]

    return tried(read, lambda failure: ([failure], []), "reading", item)


@task(name="encode")
def encode_clips(root: Path, config: LatentsConfig, sources: list[SourceClips]) -> list[ManifestRef]:
    """Encode the clips of each source to latents, below the dataset's `root`."""
    return [encode_cached(root, config, group) for group in sources]


def encode_cached(root: Path, config: LatentsConfig, group: SourceClips) -> ManifestRef:
    """Return the encoded clips of one source: found, or made. They depend on the model's encoders and its size only."""
    model = get_model(group.encoders)
    facts = model.facts
    revision = f"{digest_encoders(model)}-{facts.frames}x{facts.width}x{facts.height}@{facts.fps}"
    return find_or_compute(
        STEP, root, config, [group.key()], lambda key: encode_source(root, key, group, model, config), revision
    )
