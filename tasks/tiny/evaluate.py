"""What a model makes of pictures that it never saw, measured on the part of the picture that is still in view.

Each held-out scene is rendered with each motion at a known speed, so there is a true clip to compare with, and it is
known exactly which pixels of a frame the picture already showed: what moves into view can only be guessed, and a flat
guess scores better than a sharp one. So errors count where the picture is still in view, beside those of whole frames.
Beside the model are two that need none: "copy" repeats the picture, "oracle" moves its pixels as the camera does. Each
scene is filmed without and with shapes that move, which no picture tells. The camera motion is asked for as generation
asks for it, in one take, and measured on the decoded frames as curation measures it. Errors are mean squared errors of
uint8; speeds are short sides per second, of the average pixel.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import DTYPE_HELP, AskedPrecision, choose_precision, find_device
from models.generation.model_cache import get_model
from models.measures.camera import CameraMotion, measure_motion
from models.memory.placement import place_for_sampling
from models.pictures import Frames
from models.svd.autoencoder import encode_frames
from models.svd.model import VideoModel, read_setting
from models.svd.sampling import decode_latents
from tasks.caching import Step, find_or_compute
from tasks.footage import Motion, compute_mean_flow
from tasks.manifest import ManifestRef, make_table
from tasks.tiny.held_out import (
    MOVERS,
    Asked,
    find_in_view,
    make_tensor,
    measure_errors,
    move_pixels,
    render_truth,
    sample_asked,
    trace_clip,
)

VERSION = 3

SCHEMA = pa.schema(
    [
        pa.field("scene", pa.int32()),
        pa.field("movers", pa.bool_()),
        pa.field("asked", pa.string()),
        pa.field("measured", pa.string()),
        pa.field("copy_measured", pa.string()),
        pa.field("true_measured", pa.string()),
        pa.field("speed_asked", pa.float64()),
        pa.field("speed_measured", pa.float64()),
        pa.field("reconstruction_error", pa.float64()),
        pa.field("in_view", pa.list_(pa.float64())),
        *(pa.field(f"{kind}errors", pa.list_(pa.float64())) for kind in ("", "seen_", "copy_", "oracle_")),
    ]
)

STEP = Step("evaluate", VERSION, SCHEMA)


class EvaluateConfig(BaseModel):
    """How many clips the figures are based on, and how they are sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int = Field(default=60, ge=1, description="Held-out scenes")
    motions: tuple[Motion, ...] = Field(
        default=("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll"),
        description="Camera motions asked for with each scene",
    )
    movers: tuple[bool, ...] = Field(
        default=(False, True), min_length=1, description="Scenes without shapes that move, with them, or both"
    )
    speed: float = Field(default=0.5, gt=0, description="Speed of the camera asked for, short sides per second")
    steps: int = Field(default=20, ge=1, description="Sampling steps")
    batch: int = Field(default=10, ge=1, description="Clips sampled together")
    seed: int = Field(default=0, ge=0, description="Seed of the noise")
    dtype: AskedPrecision = Field(default="auto", description=DTYPE_HELP)


def evaluate_batch(
    model: VideoModel, config: EvaluateConfig, motion: Motion, scenes: Sequence[tuple[int, bool]]
) -> Iterator[dict[str, Any]]:
    """Generate a clip with a motion for each scene, without or with movers, compare it with the true one, and yield a
    row each."""
    truths = [render_truth(scene, motion, config.speed, model, MOVERS * moving) for scene, moving in scenes]
    names = [f"{scene} {motion}{' with movers' * moving}" for scene, moving in scenes]
    asked = Asked(motion, config.speed, config.steps, config.seed)
    latents = sample_asked(model, asked, names, [truth[0] for truth in truths])
    places = trace_clip(motion, config.speed, model)
    for (scene, moving), truth, clip in zip(scenes, truths, latents, strict=True):
        own = {"scene": scene, "movers": moving, "asked": motion}
        speed = {"speed_asked": compute_mean_flow(motion, config.speed)}
        # Of the first motion's clips alone: those of the others show the same.
        coded = _reconstruct(model, truth) if motion == config.motions[0] else None
        yield (
            own
            | speed
            | _compare(model, decode_latents(model, clip), truth, places)
            | {"reconstruction_error": None if coded is None else float(np.mean(measure_errors(coded, truth)))}
        )


def _compare(model: VideoModel, frames: Frames, truth: Frames, places: NDArray[np.float32]) -> dict[str, Any]:
    seen, copy = find_in_view(places), np.repeat(truth[:1], len(truth), axis=0)
    measured = _measure(model, frames)
    return {
        "measured": measured.motion,
        "copy_measured": _measure(model, copy).motion,
        "true_measured": _measure(model, truth).motion,
        "speed_measured": measured.strength,
        "in_view": seen.mean((1, 2)).tolist(),
        "errors": measure_errors(frames, truth),
        "seen_errors": measure_errors(frames, truth, seen),
        "copy_errors": measure_errors(copy, truth, seen),
        "oracle_errors": measure_errors(move_pixels(truth[0], places), truth, seen),
    }


def _measure(model: VideoModel, frames: Frames) -> CameraMotion:
    return measure_motion(frames, [i / model.facts.fps for i in range(len(frames))])


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


def _make_rows(model: VideoModel, config: EvaluateConfig) -> list[dict[str, Any]]:
    scenes = [(scene, moving) for moving in config.movers for scene in range(config.pictures)]
    batches = [scenes[i : i + config.batch] for i in range(0, len(scenes), config.batch)]
    return [
        row for motion in config.motions for batch in batches for row in evaluate_batch(model, config, motion, batch)
    ]


def _reconstruct(model: VideoModel, clip: Frames) -> Frames:
    latents = encode_frames(model.vae, torch.stack([make_tensor(frame) for frame in clip]).to(model.device))
    return decode_latents(model, latents * read_setting(model.vae, "scaling_factor"))
