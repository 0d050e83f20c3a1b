"""Encoding clips to what training reads: latents, noised picture latents and image embeddings, stored as safetensors.

A clip is cut into windows of one length, in frames, at the model's rate; a frame is the one shown at its time. A source
slower than the model is read at its own rate, `fps`: held frames would teach that nothing moves. The size is that of
the bucket nearest to the film's shape (tasks/finetune/buckets.py). A picture is a window of one frame. `motion_score`
is the mean optical flow of the window, in short sides per second. The condition is the window's first frame with noise
of ln(sigma) ~ N(-3, 0.5^2) added before the autoencoder (SVD, appendix D), drawn `condition_draws` times, so that
training sees several. Latents are unscaled float16, in a file for each clip: a clip more or less changes no other's.
Memory does not grow with the number of windows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from models.errors import BadMedia
from models.generation.model_cache import get_model
from models.measures.camera import measure_motion
from models.pictures import Frames, from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, digest_encoders, embed_pictures
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute
from tasks.child_process import run_in_child
from tasks.finetune.buckets import choose_size
from tasks.finetune.windows import SEEN_WHOLE, Seen, WindowShape, place_windows, read_windows
from tasks.ledger import list_ours, remove
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish, read_rows
from tasks.media.canonical_picture import COMBED
from tasks.media.video import name_clip, name_demuxer
from tasks.source_files import read_as

VERSION = 4

NEEDS = ("clip_id", "video_id", "source", "start_s", "end_s", "fps")

PICTURE_NEEDS = ("width", "height", "bar_top", "bar_bottom", "bar_left", "bar_right", "combing")
"""What is read of a clip's picture where it was measured."""

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("window", pa.int32()),
        pa.field("start_s", pa.float64()),
        pa.field("fps", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("motion_score", pa.float64()),
        pa.field("latents", pa.string()),
        pa.field("row", pa.int32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("encode", VERSION, SCHEMA, files=("latents",))

LIMIT_S, LIMIT_FACTOR = 300.0, 60.0
"""Time limit for reading a clip, fixed and per second of it."""

WINDOWS_AT_ONCE = 4
"""Windows that are in memory at a time: one of 14 frames of 1024x576 is 25 MB."""

PICTURE_END_S = 1.0
"""The one frame of a picture is found before this time."""

SLOWER = 0.98
"""A source counts as slower than the model below this share of its rate: 29.97 is 30 frames a second."""


class LatentsConfig(BaseModel):
    """How clips become training examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows_per_clip: int = Field(default=4, ge=1, description="At most this many windows per clip, spread over it")
    frames: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        default=None, min_length=1, description="Lengths of windows: a clip has the longest that fits; the model's own"
    )
    condition_draws: int = Field(default=4, ge=1, description="Noised copies of each picture's latent")
    noise_log_mean: float = Field(default=-3.0, description="Mean of ln(sigma) of the picture's noise")
    noise_log_deviation: float = Field(default=0.5, ge=0, description="Deviation of ln(sigma) of the picture's noise")


@dataclass(frozen=True)
class ClipSpan:
    """A clip to encode: its name, its span in its source, in seconds, its frames per second, if they are known, what is
    known of its picture, and the size of that without bars, (width, height). A picture has no length."""

    clip_id: str
    start_s: float
    end_s: float
    fps: float | None = None
    seen: Seen = SEEN_WHOLE
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class SourceClips:
    """The clips of one source file to encode, in order of time; `digest` is that of the file's content, `encoders`
    names the model that encodes them; `container` is what probing found the file to be, if that is known."""

    source: Path
    digest: str
    clips: tuple[ClipSpan, ...]
    encoders: str = "tiny"
    container: str | None = None

    def key(self, clip: ClipSpan) -> str:
        """Return a digest of the content of one of the clips."""
        said = [self.digest, clip.clip_id, clip.start_s, clip.end_s, clip.fps, *clip.seen, clip.size]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def make_seen(clip: Mapping[str, Any], video: Mapping[str, Any]) -> Seen:
    """Return what is known of a clip's picture, from its row with PICTURE_NEEDS and that of its video, where they have
    them."""
    top, bottom, left, right = (clip.get(name) or 0 for name in PICTURE_NEEDS[2:6])
    combed = (clip["combing"] or 0) >= COMBED if "combing" in clip else None
    return Seen(video.get("stream"), combed, (top, bottom, left, right))


def find_size(clip: Mapping[str, Any], seen: Seen) -> tuple[int, int] | None:
    """Return the width and the height of a clip's picture without its bars, from its row; None where it has none."""
    width, height = clip.get("width"), clip.get("height")
    if not width or not height:
        return None
    top, bottom, left, right = seen.bars
    return width - left - right, height - top - bottom


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


def encode_clip(
    root: Path, key: str, group: SourceClips, clip: ClipSpan, model: VideoModel, config: LatentsConfig
) -> pa.Table:
    """Encode a clip to `latents/KEY.safetensors` below `root`; return a row for each window, or one with its error."""
    item = name_clip(group.source, clip.start_s, clip.end_s)
    name, seed = f"latents/{key}.safetensors", int(group.key(clip)[:12], 16)
    own = {"clip_id": clip.clip_id, "attempt": 1}

    def encode() -> list[dict[str, Any]]:
        shape, starts = choose_windows(model, clip, config, item)
        parts, scores = [], []
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            windows = _read_windows(root, group, clip, starts[first : first + WINDOWS_AT_ONCE], shape, item)
            parts.append(encode_windows(model, windows, config, seed + first))
            scores += [measure_score(window, shape.fps) for window in windows]
        with publish(root / name) as aside:
            save_file({part: torch.cat([each[part] for each in parts]) for part in parts[0]}, aside)
        places = ({"window": i, "start_s": start, "row": i} for i, start in enumerate(starts))
        same = shape._asdict() | {"latents": name}
        return [own | at | same | {"motion_score": score} for at, score in zip(places, scores, strict=True)]

    return make_table(tried(encode, lambda failure: [own | failure], "encoding", item), SCHEMA)


def choose_windows(
    model: VideoModel, clip: ClipSpan, config: LatentsConfig, item: str
) -> tuple[WindowShape, list[float]]:
    """Return the shape of a clip's windows, and when they start (s); raises BadMedia where it is too short for any."""
    facts, length_s = model.facts, clip.end_s - clip.start_s
    fps = facts.fps if clip.fps is None or clip.fps >= SLOWER * facts.fps else clip.fps
    width, height = choose_size(clip.size, facts.width, facts.height, model.size_unit)
    if length_s == 0:
        return WindowShape(1, facts.fps, width, height), [clip.start_s]
    lengths = sorted(config.frames or (facts.frames,), reverse=True)
    for frames in lengths:
        if starts := place_windows(clip.start_s, clip.end_s, frames, fps, config.windows_per_clip):
            return WindowShape(frames, fps, width, height), starts
    least = lengths[-1]
    raise BadMedia(
        f"{item}: {length_s:.2f} s is too short: {least} frames take {least / fps:.2f} s. --encode.frames asks for "
        "shorter windows."
    )


def measure_score(window: Frames, fps: float) -> float:
    """Measure the mean optical flow of a window, in short sides per second; a picture has none."""
    return measure_motion(window, [i / fps for i in range(len(window))]).magnitude if len(window) > 1 else 0.0


def _read_windows(
    root: Path, group: SourceClips, clip: ClipSpan, starts: Sequence[float], shape: WindowShape, item: str
) -> list[Frames]:
    """Read windows in a child process, from no earlier than a frame before the first of them."""
    margin = 2 / (clip.fps or 1.0)
    end_s = min(clip.end_s, starts[-1] + shape.frames / shape.fps) if shape.frames > 1 else PICTURE_END_S
    span, limit_s = (max(clip.start_s, starts[0] - margin), end_s), LIMIT_S + LIMIT_FACTOR * (clip.end_s - clip.start_s)
    demuxer = name_demuxer(group.container)
    with read_as(root, group.source, group.digest) as path:
        return run_in_child(
            read_windows, path, starts, span, item, shape, demuxer, clip.seen, limit_s=limit_s, item=item
        )


@task(name="encode")
def encode_clips(root: Path, config: LatentsConfig, sources: list[SourceClips]) -> list[ManifestRef]:
    """Encode the clips of each source to latents, below the dataset's `root`; return a manifest for each clip."""
    return [made for group in sources for made in encode_source(root, config, group)]


def encode_source(root: Path, config: LatentsConfig, group: SourceClips) -> list[ManifestRef]:
    """Return the encoded clips of a source: each found, or made. They depend on the model's encoders and size only."""
    model = get_model(group.encoders)
    facts = model.facts
    revision = f"{digest_encoders(model)}-{facts.frames}x{facts.width}x{facts.height}@{facts.fps}"

    def encode(clip: ClipSpan) -> ManifestRef:
        make = partial(encode_clip, root, group=group, clip=clip, model=model, config=config)
        return find_or_compute(STEP, root, config, [group.key(clip)], make, revision)

    return [encode(clip) for clip in group.clips]


def remove_orphans(root: Path) -> list[Path]:
    """Remove the latents below the dataset's `root` that no manifest names, as a killed run leaves them; return
    them."""
    named = {
        row["latents"] for path in root.glob("manifests/encode/[!.]*.parquet") for row in read_rows(path, ("latents",))
    }
    orphans = [path for path in list_ours(root / "latents") if path.relative_to(root).as_posix() not in named]
    for path in orphans:
        remove(path)
    return orphans
