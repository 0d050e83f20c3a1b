"""The rendered footage as the embedded model's UNet reads it: latents in float16, a file for every few scenes.

Latents of the frames, [shots, frames, channels, h, w]; and of both ends of each shot, which begin it forwards and
backwards: the picture's latent with noise of ln(sigma) ~ N(-3, 0.5^2) added to the picture (SVD, appendix D), its sigma
and its embedding, [shots, 2, ...]. The autoencoder encodes each frame alone, so a shot backwards has its latents
backwards. `forwards` and `backwards` are the motions it shows, null where that way is not learned from; `flow` is their
mean optical flow in short sides per second.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from prefect import task
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from models.device import has_half_arithmetic
from models.generation.model_cache import get_model
from models.pictures import from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, digest_encoders, embed_pictures
from tasks.caching import Step, find_or_compute
from tasks.manifest import ManifestRef, make_table, publish
from tasks.tiny.render import RenderConfig, Shot, film_scene

VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("scene", pa.int32()),
        pa.field("forwards", pa.string()),
        pa.field("backwards", pa.string()),
        pa.field("flow", pa.float64()),
        pa.field("latents", pa.string()),
        pa.field("row", pa.int32()),
    ]
)

STEP = Step("latents", VERSION, SCHEMA, files=("latents",))

NOISE_LOG_MEAN, NOISE_LOG_DEVIATION = -3.0, 0.5


class FootageConfig(RenderConfig):
    """How much footage the UNet learns from, and how it is filmed."""

    scenes: int = Field(default=2500, ge=1, description="Scenes that are filmed")
    scenes_per_file: int = Field(default=25, ge=1, description="Scenes whose latents share a file")


@torch.no_grad()
def encode_shots(model: VideoModel, shots: Sequence[Shot], seed: int) -> dict[str, Tensor]:
    """Return what training reads of shots, by name, in float16: see the module's docstring."""
    frames = from_pixels(torch.stack([torch.from_numpy(shot.frames) for shot in shots]).permute(0, 1, 4, 2, 3))
    ends = frames[:, [0, -1]]
    generator = torch.Generator().manual_seed(seed)
    sigmas = (NOISE_LOG_MEAN + NOISE_LOG_DEVIATION * torch.randn(ends.shape[:2], generator=generator)).exp()
    noised = ends + sigmas[..., None, None, None] * torch.randn(ends.shape, generator=generator)
    parts = {
        "latents": _encode_each(model, frames),
        "pictures": _encode_each(model, noised),
        "sigmas": sigmas,
        "embeddings": embed_pictures(model, ends.flatten(0, 1)).unflatten(0, ends.shape[:2]),
    }
    return {name: part.half().contiguous() for name, part in parts.items()}


def _encode_each(model: VideoModel, clips: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=has_half_arithmetic()):
        return torch.stack([encode_frames(model.vae, clip) for clip in clips])


def encode_file(root: Path, key: str, first: int, model: VideoModel, config: FootageConfig) -> pa.Table:
    """Film the scenes from `first` on and encode them to `latents/KEY.safetensors` below `root`; return a row for each
    shot."""
    name = f"latents/{key}.safetensors"
    numbers = range(first, min(first + config.scenes_per_file, config.scenes))
    shots = [(number, shot) for number in numbers for shot in film_scene(number, config)]
    with publish(root / name) as aside:
        save_file(encode_shots(model, [shot for _, shot in shots], config.seed + first), aside)
    rows = [
        {"scene": number, "forwards": shot.forwards, "backwards": shot.backwards, "flow": shot.flow, "row": row}
        for row, (number, shot) in enumerate(shots)
    ]
    return make_table([row | {"latents": name} for row in rows], SCHEMA)


@task(name="latents")
def encode_files(root: Path, config: FootageConfig, firsts: list[tuple[Path, int]]) -> list[ManifestRef]:
    """Film and encode the files that begin at these scenes, each by the encoders of the model named beside it."""
    return [_encode_once(root, config, model, first) for model, first in firsts]


def _encode_once(root: Path, config: FootageConfig, folder: Path, first: int) -> ManifestRef:
    model = get_model(str(folder))
    return find_or_compute(
        STEP,
        root,
        config,
        [f"scene {first}"],
        lambda key: encode_file(root, key, first, model, config),
        digest_encoders(model),
    )
