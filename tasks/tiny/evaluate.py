"""What a model makes of pictures that it never saw: whether it keeps the picture and obeys the asked camera motion, and
how good later frames are.

Each held-out scene is rendered with each motion at a known speed, so that there is a true clip to compare with. PSNR is
in dB over frames of uint8, higher is better; "copy" is the PSNR of repeating the picture instead. The camera motion is
asked for by its word, never by regions, and measured on the decoded frames as curation measures it. Speeds are the mean
optical flow, in short sides per second.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.device import DTYPE_HELP, AskedPrecision, choose_precision, find_device
from models.generation.model_cache import get_model
from models.measures.camera import measure_motion
from models.measures.psnr import psnr
from models.memory.placement import place_for_sampling
from models.noise import draw_item_noise, stack_noise
from models.pictures import from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, motion_bucket, read_setting
from models.svd.sampling import decode_latents, sample_latents
from tasks.caching import Step, find_or_compute
from tasks.footage import Camera, Motion, Scene, compute_mean_flow, render_shot
from tasks.manifest import ManifestRef, make_table, read_rows

VERSION = 2

HELD_OUT = 10_000_000
"""Scenes from this seed on are never trained on."""

SUPERSAMPLED = 2
"""Scenes are rendered this many times larger than the model's pictures and then shrunk, as for training."""

MOST_DB = psnr(1e-6)
"""What a frame without any error is worth, so that means over frames are finite."""

SCHEMA = pa.schema(
    [
        pa.field("scene", pa.int32()),
        pa.field("asked", pa.string()),
        pa.field("measured", pa.string()),
        pa.field("speed_asked", pa.float64()),
        pa.field("speed_measured", pa.float64()),
        pa.field("reconstruction_error", pa.float64()),
        pa.field("errors", pa.list_(pa.float64())),
        pa.field("copy_errors", pa.list_(pa.float64())),
    ]
)

STEP = Step("evaluate", VERSION, SCHEMA)


class EvaluateConfig(BaseModel):
    """How many clips the figures are based on, and how they are sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int = Field(default=42, ge=1, description="Held-out scenes")
    motions: tuple[Motion, ...] = Field(
        default=("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out"),
        description="Camera motions asked for with each scene",
    )
    speed: float = Field(default=0.5, gt=0, description="Speed of the camera asked for, short sides per second")
    steps: int = Field(default=20, ge=1, description="Sampling steps")
    batch: int = Field(default=7, ge=1, description="Clips sampled together")
    seed: int = Field(default=0, ge=0, description="Seed of the noise")
    dtype: AskedPrecision = Field(default="auto", description=DTYPE_HELP)


def render_truth(scene: int, motion: Motion, speed: float, model: VideoModel) -> NDArray[np.uint8]:
    """Render held-out scene number `scene` with a motion, at the model's size: uint8 RGB [frames, height, width, 3]."""
    facts = model.facts
    size = (facts.width * SUPERSAMPLED, facts.height * SUPERSAMPLED)
    large = render_shot(Scene(HELD_OUT + scene), Camera.doing(motion, speed), facts.frames, facts.fps, size)
    blocks = large.reshape(facts.frames, facts.height, SUPERSAMPLED, facts.width, SUPERSAMPLED, 3)
    return blocks.mean((2, 4)).round().astype(np.uint8)


def measure_errors(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> list[float]:
    """Return the mean squared error of each frame, in squared grey levels."""
    return ((frames.astype(np.float32) - truth) ** 2).mean((1, 2, 3)).tolist()


def evaluate_batch(
    model: VideoModel, config: EvaluateConfig, asked: Sequence[tuple[int, Motion]]
) -> Iterator[dict[str, Any]]:
    """Generate a clip for each (scene, motion), compare it with the true one, and yield a row each."""
    facts = model.facts
    truths = [render_truth(scene, motion, config.speed, model) for scene, motion in asked]
    pictures = torch.stack([_make_tensor(truth[0]) for truth in truths])
    shape = model.latent_shape(facts.frames, facts.height, facts.width)
    noise = stack_noise(
        [
            draw_item_noise(config.seed, f"{scene} {motion}", 0, shape, (facts.height, facts.width))
            for scene, motion in asked
        ]
    )
    latents = sample_latents(
        model,
        pictures,
        noise.latents,
        noise.augmentation,
        motions=[motion for _, motion in asked],
        steps=config.steps,
        motion_buckets=[motion_bucket(compute_mean_flow(motion, config.speed)) for _, motion in asked],
    )
    times = [i / facts.fps for i in range(facts.frames)]
    for (scene, motion), truth, clip in zip(asked, truths, latents, strict=True):
        frames = decode_latents(model, clip)
        measured = measure_motion(frames, times)
        yield {
            "scene": scene,
            "asked": motion,
            "measured": measured.motion,
            "speed_asked": compute_mean_flow(motion, config.speed),
            "speed_measured": measured.magnitude,
            "reconstruction_error": float(np.mean(measure_errors(_reconstruct(model, truth), truth))),
            "errors": measure_errors(frames, truth),
            "copy_errors": measure_errors(np.repeat(truth[:1], len(truth), axis=0), truth),
        }


def compute_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of an evaluation, in dB, shares and counts; see the module's docstring."""
    errors, copies = np.array([r["errors"] for r in rows]), np.array([r["copy_errors"] for r in rows])
    return {
        "pictures": len({row["scene"] for row in rows}),
        "clips": len(rows),
        "autoencoder_psnr_db": _average_db([row["reconstruction_error"] for row in rows]),
        "first_frame_psnr_db": _average_db(errors[:, 0]),
        "last_frame_psnr_db": _average_db(errors[:, -1]),
        "copy_last_frame_psnr_db": _average_db(copies[:, -1]),
        "frame_psnr_db": [_average_db(column) for column in errors.T],
        "copy_frame_psnr_db": [_average_db(column) for column in copies.T],
        "obeyed": float(np.mean([row["asked"] == row["measured"] for row in rows])),
        "by_motion": {
            motion: _summarise_motion(rows, motion) for motion in dict.fromkeys(row["asked"] for row in rows)
        },
    }


def _summarise_motion(rows: Sequence[dict[str, Any]], motion: str) -> dict[str, Any]:
    those = [row for row in rows if row["asked"] == motion]
    errors, copies = np.array([r["errors"] for r in those]), np.array([r["copy_errors"] for r in those])
    return {
        "asked": len(those),
        "right": sum(row["measured"] == motion for row in those),
        "measured": dict(sorted(Counter(row["measured"] for row in those).items())),
        "speed_asked": float(np.mean([row["speed_asked"] for row in those])),
        "speed_measured": float(np.mean([row["speed_measured"] for row in those])),
        "last_frame_psnr_db": _average_db(errors[:, -1]),
        "copy_last_frame_psnr_db": _average_db(copies[:, -1]),
    }


def format_figures(found: dict[str, Any]) -> str:
    """Return the figures as text for people."""
    head = [
        f"{found['clips']} clips from {found['pictures']} pictures never trained on",
        f"autoencoder            {found['autoencoder_psnr_db']:6.2f} dB",
        f"first frame            {found['first_frame_psnr_db']:6.2f} dB against the picture",
        f"last frame             {found['last_frame_psnr_db']:6.2f} dB against the true one",
        f"  copying the picture  {found['copy_last_frame_psnr_db']:6.2f} dB",
        f"motion asked=measured  {100 * found['obeyed']:6.1f} %",
    ]
    rows = [
        f"  {motion:<10} {facts['right']:3d} of {facts['asked']:3d}   speed asked {facts['speed_asked']:.2f}, measured "
        f"{facts['speed_measured']:.2f}   last frame {facts['last_frame_psnr_db']:.1f} dB, copy "
        f"{facts['copy_last_frame_psnr_db']:.1f} dB   measured {json.dumps(facts['measured'])}"
        for motion, facts in found["by_motion"].items()
    ]
    return "\n".join([*head, *rows])


@task(name="evaluate")
def evaluate_model(run: Path, config: EvaluateConfig, model: str, device: str = "auto") -> ManifestRef:
    """Return a row for each clip that the model made of a held-out picture."""
    where = find_device(device)
    config = config.model_copy(update={"dtype": choose_precision(where, config.dtype)})
    loaded = get_model(model, choose_precision(where, config.dtype), where)

    def compute(_: str) -> pa.Table:
        with place_for_sampling(loaded, where) as ready:
            return make_table(_make_rows(ready, config), SCHEMA)

    return find_or_compute(STEP, run, config, [], compute, loaded.revision)


def read_figures(manifest: ManifestRef) -> dict[str, Any]:
    """Return the figures of an evaluation's manifest."""
    return compute_figures(read_rows(manifest))


def _make_rows(model: VideoModel, config: EvaluateConfig) -> list[dict[str, Any]]:
    asked: list[tuple[int, Motion]] = [(s, motion) for s in range(config.pictures) for motion in config.motions]
    batches = (asked[i : i + config.batch] for i in range(0, len(asked), config.batch))
    return [row for batch in batches for row in evaluate_batch(model, config, batch)]


def _reconstruct(model: VideoModel, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    latents = encode_frames(model.vae, torch.stack([_make_tensor(frame) for frame in clip]).to(model.device))
    return decode_latents(model, latents * read_setting(model.vae, "scaling_factor"))


def _make_tensor(frame: NDArray[np.uint8]) -> Tensor:
    return from_pixels(torch.from_numpy(frame).permute(2, 0, 1))


def _average_db(squared_errors: Sequence[float] | NDArray[np.floating]) -> float:
    return float(np.mean([psnr(error, most=MOST_DB) for error in squared_errors]))
