"""Encoding clips to what training reads: latents, noised picture latents and image embeddings, stored as safetensors.

A clip is cut into windows of the model's length and rate; a frame is the one shown at its time. The condition is the
window's first frame with noise of ln(sigma) ~ N(-3, 0.5^2) added before the autoencoder (SVD, appendix D), drawn
`condition_draws` times, so that training sees several. Each kept clip is decoded once. Latents are unscaled float16.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from models.errors import BadMedia, ReelmillError
from models.generation.model_cache import get_model
from models.pictures import from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, digest_encoders, embed_pictures
from tasks.attempts import error_columns
from tasks.caching import Step, find_or_compute
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish
from tasks.video import make_upright, read_frames

VERSION = 1

NEEDS = ("clip_id", "video_id", "source", "start_s", "end_s")

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


class LatentsConfig(BaseModel):
    """How clips become training examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows_per_clip: int = Field(default=4, ge=1, description="At most this many windows per clip, spread over it")
    condition_draws: int = Field(default=4, ge=1, description="Noised copies of each picture's latent")
    noise_log_mean: float = Field(default=-3.0, description="Mean of ln(sigma) of the picture's noise")
    noise_log_deviation: float = Field(default=0.5, ge=0, description="Deviation of ln(sigma) of the picture's noise")


@dataclass(frozen=True)
class ClipSpan:
    """A clip to encode: its name and its span in its source, in seconds."""

    clip_id: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class SourceClips:
    """The kept clips of one source file, in order of time; `digest` is that of the file's content, `encoders` names the
    model that encodes them."""

    source: Path
    digest: str
    clips: tuple[ClipSpan, ...]
    encoders: str = "tiny"

    def key(self) -> str:
        """Return a digest of the content and the spans."""
        spans = [(c.clip_id, c.start_s, c.end_s) for c in self.clips]
        return hashlib.sha256(json.dumps([self.digest, spans]).encode()).hexdigest()


def place_windows(start_s: float, end_s: float, frames: int, fps: float, at_most: int) -> list[float]:
    """Return the start times, in seconds, of up to `at_most` windows of `frames` frames that fit a span without
    overlapping, spread evenly over it; none when the span is too short."""
    length = frames / fps
    # Half a frame of slack: the last frame of a window is still shown when the next would come.
    count = min(at_most, int((end_s - start_s + 0.5 / fps) / length))
    if count < 1:
        return []
    slack = max(end_s - start_s - count * length, 0.0)
    return [start_s + i * length + slack * (i + 0.5) / count for i in range(count)]


def find_shown(times: Sequence[Fraction | float], wanted: Sequence[float]) -> list[int]:
    """Return the index of the frame shown at each wanted time: the last at or before it, else the first."""
    # A microsecond of grace: a start in float seconds may round to just before the frame it names.
    found = np.searchsorted(np.array([float(t) for t in times]), np.array(wanted) + 1e-6, side="right") - 1
    return [max(int(i), 0) for i in found]


def cover(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Shrink or enlarge RGB [h, w, 3] to cover width x height, then crop the middle."""
    h, w = frame.shape[:2]
    scale = max(width / w, height / h)
    size = (max(width, round(w * scale)), max(height, round(h * scale)))
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return resized[top : top + height, left : left + width].astype(np.uint8, copy=False)


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


def _read_windows(
    clip: ClipSpan, source: Path, model: VideoModel, config: LatentsConfig
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    facts = model.facts
    starts = place_windows(clip.start_s, clip.end_s, facts.frames, facts.fps, config.windows_per_clip)
    if not starts:
        needed = facts.frames / facts.fps
        raise BadMedia(
            f"{clip.clip_id}: {clip.end_s - clip.start_s:.2f} s is too short: the model needs at least {needed:.2f} s."
        )
    times, frames = [], []
    for time, frame in read_frames(source, clip.start_s, clip.end_s):
        times.append(time)
        frames.append(cover(make_upright(frame), facts.width, facts.height))
    if not frames:
        raise BadMedia(f"{clip.clip_id}: no frame is shown between {clip.start_s:.2f} and {clip.end_s:.2f} s.")
    for start in starts:
        chosen = find_shown(times, [start + i / facts.fps for i in range(facts.frames)])
        yield start, np.stack([frames[i] for i in chosen])


def encode_source(root: Path, key: str, group: SourceClips, model: VideoModel, config: LatentsConfig) -> pa.Table:
    """Encode a source's clips to `latents/KEY.safetensors` below `root`; return a row for each window or failed
    clip."""
    name = f"latents/{key}.safetensors"
    rows: list[dict[str, Any]] = []
    windows: list[NDArray[np.uint8]] = []
    for clip in group.clips:
        try:
            for index, (start, window) in enumerate(_read_windows(clip, group.source, model, config)):
                place = {"latents": name, "row": len(windows)}
                rows.append({"clip_id": clip.clip_id, "window": index, "start_s": start, **place, "attempt": 1})
                windows.append(window)
        except ReelmillError as error:
            rows.append({"clip_id": clip.clip_id, **error_columns(error), "attempt": 1})
    if windows:
        with publish(root / name) as aside:
            save_file(encode_windows(model, windows, config, seed=int(group.key()[:12], 16)), aside)
    return make_table(rows, SCHEMA)


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
