"""Calibration: clips are generated over motion buckets and motions, and the motion in them is measured.

strength_measured: the speed of the motion asked for, in its own unit (models/generation/calibration.py), negative where
the camera went the other way; flow: mean optical flow, short sides per second. Pictures are rendered scenes that no
training saw, so that every checkpoint is measured on the same ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import DTYPE_HELP, AskedPrecision, choose_precision, find_device
from models.generation.calibration import dump_calibration, make_calibration
from models.generation.model_cache import get_model
from models.measures.camera import CameraMotion, measure_motion, speed_along
from models.memory.placement import place_for_sampling
from models.noise import draw_item_noise
from models.pictures import from_pixels
from models.svd.model import VideoModel
from models.svd.regions import choose_word
from models.svd.sampling import decode_latents, sample_latents
from tasks.caching import Step, find_or_compute
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish_json, read_rows

VERSION = 2

FIRST_SCENE = 20_000_000
"""Scenes from here on are used for this alone."""

SCHEMA = pa.schema(
    [
        pa.field("scene", pa.int32()),
        pa.field("motion", pa.string()),
        pa.field("motion_bucket", pa.int32()),
        pa.field("motion_measured", pa.string()),
        pa.field("strength_measured", pa.float64()),
        pa.field("flow", pa.float64()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("calibrate", VERSION, SCHEMA)

FILE = "calibration.json"


class CalibrateConfig(BaseModel):
    """Which clips the calibration is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default=(10, 40, 80, 120, 160, 200, 240), min_length=1, description="Motion buckets tried"
    )
    pictures: int = Field(default=4, ge=1, description="Rendered pictures, each tried with every bucket and motion")
    motions: tuple[str, ...] | None = Field(
        default=None, description="Camera motions asked for by name; all that the model knows but static if not given"
    )
    steps: int = Field(default=15, ge=1, le=1000, description="Denoising steps")
    seed: int = Field(default=0, ge=0, description="Seed of the noise")
    dtype: AskedPrecision = Field(default="auto", description=DTYPE_HELP)


def list_motions(model: VideoModel, config: CalibrateConfig) -> list[str | None]:
    """Return the motions to measure: those asked for, or those that the model knows, and none."""
    known = {*model.words, *model.facts.by_regions} - {"static"}
    return [None, *(sorted(known) if config.motions is None else config.motions)]


def measure_own_speed(motion: str | None, measured: CameraMotion) -> float:
    """Return the measured speed of a motion in its own unit, positive when it is the motion; the mean flow for none."""
    if motion is None:
        return measured.magnitude
    return speed_along(motion, float(getattr(measured, motion.partition("_")[0])))


def render_picture(model: VideoModel, scene: int) -> NDArray[np.uint8]:
    """Render a picture of the model's size."""
    size = (model.facts.width, model.facts.height)
    return render_shot(Scene(FIRST_SCENE + scene, movers=0), Camera(), 1, size=size)[0]


def measure_clip(
    model: VideoModel, config: CalibrateConfig, scene: int, motion: str | None, bucket: int
) -> dict[str, Any]:
    """Make one clip and return its row; its noise depends on the scene alone, so that buckets are compared on the same
    noise."""
    facts = model.facts
    shape = model.latent_shape(facts.frames, facts.height, facts.width)
    noise = draw_item_noise(config.seed, f"calibration {scene}", 0, shape, (facts.height, facts.width))
    picture = from_pixels(torch.from_numpy(render_picture(model, scene)).permute(2, 0, 1)).contiguous()[None]
    asked = [choose_word(motion, facts.by_regions)]
    latents = sample_latents(
        model, picture, noise.latents[None], noise.augmentation[None], asked, config.steps, motion_buckets=[bucket]
    )
    found = measure_motion(decode_latents(model, latents[0]), [i / facts.fps for i in range(facts.frames)])
    return {
        "scene": scene,
        "motion": motion,
        "motion_bucket": bucket,
        "motion_measured": found.motion,
        "strength_measured": measure_own_speed(motion, found),
        "flow": found.magnitude,
        "attempt": 1,
    }


def format_table(responses: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Format the table for a person: a line for each motion."""
    lines = [f"{'motion':<12}" + "".join(f"{bucket:>8}" for bucket in next(iter(responses.values()))["buckets"])]
    lines += [f"{name:<12}" + "".join(f"{speed:8.3f}" for speed in each["speeds"]) for name, each in responses.items()]
    return "\n".join(lines)


@task(name="calibrate")
def calibrate_model(root: Path, config: CalibrateConfig, model: str, device: str = "auto") -> ManifestRef:
    """Measure a row for each clip, and write the table that jobs use, as calibration.json below `root`."""
    where = find_device(device)
    config = config.model_copy(update={"dtype": choose_precision(where, config.dtype)})
    loaded = get_model(model, choose_precision(where, config.dtype), where)

    def compute(_: str) -> pa.Table:
        asked = [
            (scene, motion, bucket)
            for motion in list_motions(loaded, config)
            for bucket in sorted(set(config.buckets))
            for scene in range(config.pictures)
        ]
        with place_for_sampling(loaded, where) as ready:
            return make_table([measure_clip(ready, config, *each) for each in asked], SCHEMA)

    made = find_or_compute(STEP, root, config, [], compute, loaded.revision)
    publish_json(root / FILE, dump_calibration(make_calibration(loaded.revision, read_rows(made))))
    return made
