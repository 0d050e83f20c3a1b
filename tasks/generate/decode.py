"""Decoding: latents become frames, which are measured against what was asked and parked until they are encoded.

first_frame_psnr and last_frame_psnr: peak signal-to-noise ratio in dB of that frame against the picture, at most 100;
the first says whether the clip shows the picture, the last how far it has drifted or moved from it. A clip without a
picture has neither, and its other meters compare with its own first frame. Camera motion is measured as curation
measures it (models/measures/camera.py), in short sides per second. The other meters are those of
models/measures/meters.py: a curve with a value for each frame (`..._curve`), the worst of it, and `good_until`, the
number of frames before the first lasting fault, which `good_until_reason` names.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import DEVICE_HELP, DeviceName, find_device
from models.measures.camera import measure_motion
from models.measures.meters import count_good_frames, measure_meters
from models.measures.psnr import mean_squared_error, psnr
from models.pictures import Frames, Picture, open_picture
from tasks.attempts import ItemCall, failure_of
from tasks.caching import Step
from tasks.generate.clip_frames import DECODED_BY, decode_clip, locate_parked, park
from tasks.generate.meter_columns import METERS
from tasks.ledger import resolve_inside
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_rows

VERSION = 2

NEEDS = ("status", "item_key", "name", "picture", "picture_sha256", "model", "model_revision", *DECODED_BY)

SCHEMA = pa.schema(
    [
        pa.field("item_key", pa.string()),
        pa.field("decode_plan", pa.string()),
        pa.field("decode_too_large", pa.list_(pa.string())),
        *METERS,
        *ERROR_FIELDS,
    ]
)

STEP = Step("decode", VERSION, SCHEMA)
"""It does not name the file of parked frames: a clip that was measured and encoded needs no frames any more."""

MOST_DB = 100.0
"""What a frame that is the picture itself is worth, so that a column of ratios has a mean."""


class DecodeConfig(BaseModel):
    """Where clips are decoded; their keys do not depend on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceName = Field(default="auto", description=DEVICE_HELP)


class DecodeSettings(BaseModel):
    """What decides a clip's meters beside its latents and its picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_key: str
    fps: float


def measure_clip(frames: Frames, picture: Picture | None, fps: float) -> dict[str, Any]:
    """Measure the meters of a clip, uint8 RGB [frames, height, width, 3], made from `picture`; needs two frames or
    more.

    A clip of a text alone is compared with its own first frame.
    """
    moved = measure_motion(frames, [i / fps for i in range(len(frames))])
    meters = measure_meters(frames, frames[0] if picture is None else picture)
    good = count_good_frames(meters)
    return {
        "first_frame_psnr": None if picture is None else psnr(mean_squared_error(frames[0], picture), most=MOST_DB),
        "last_frame_psnr": None if picture is None else psnr(mean_squared_error(frames[-1], picture), most=MOST_DB),
        "motion_measured": moved.motion,
        "camera_strength": moved.strength,
        "camera_pan": moved.pan,
        "camera_tilt": moved.tilt,
        "camera_zoom": moved.zoom,
        "camera_roll": moved.roll,
        "object_motion": moved.object_motion,
        "motion_score": moved.magnitude,
        **meters.summary(),
        "good_until": good.frames,
        "good_until_reason": good.reason,
        **{f"{name}_curve": curve for name, curve in meters.curves().items()},
    }


def decode_and_measure(
    root: Path, job: Mapping[str, Any], sample: Mapping[str, Any], key: str, device: torch.device
) -> dict[str, Any]:
    """Decode and measure one clip, and park its frames below `root` by `key`; return its manifest row."""
    frames, plan, too_large = decode_clip(root, job, sample, device)
    meters = measure_clip(frames, _read_picture(root, job), job["fps"])
    park(locate_parked(root, key), frames)
    memory = {"decode_plan": str(plan), "decode_too_large": [str(each) for each in too_large]}
    return {"item_key": job["item_key"], "attempt": 1, **memory, **meters}


def _read_picture(root: Path, job: Mapping[str, Any]) -> Picture | None:
    if job["picture"] is None:
        return None
    with open_picture(resolve_inside(root, job["picture"])) as picture:
        return np.asarray(picture)


def _decode(root: Path, config: DecodeConfig, job: Mapping[str, Any], sample: Mapping[str, Any]) -> ManifestRef:
    """Return the manifest of one clip; where it fails, a row with the reason, kept apart."""
    settings = DecodeSettings(item_key=job["item_key"], fps=job["fps"])
    inputs = (sample["latents_sha256"], job["picture_sha256"] or "no picture")

    def compute(key: str) -> pa.Table:
        return make_table([decode_and_measure(root, job, sample, key, find_device(config.device))], SCHEMA)

    def failure(error: Exception) -> dict[str, Any]:
        return {"item_key": job["item_key"], **failure_of(error, job["name"], "decoding")}

    call = ItemCall(STEP, root, settings, inputs, job["model_revision"], failure_has_own_key=True)
    return call.tried(compute, failure)


def pair_samples(jobs: ManifestRef, samples: Iterable[ManifestRef]) -> list[tuple[ManifestRef, ManifestRef]]:
    """Return what `decode_jobs` takes, for those of `samples` that have latents."""
    return [(jobs, ref) for ref in samples if read_rows(ref, ("latents",))[0]["latents"]]


@task(name="decode")
def decode_jobs(root: Path, config: DecodeConfig, items: list[tuple[ManifestRef, ManifestRef]]) -> list[ManifestRef]:
    """Decode and measure sampled items, each given as the jobs' manifest and its own with latents; return a manifest
    for each. Their frames are parked."""
    jobs = {row["item_key"]: row for ref in dict(items) for row in read_rows(ref, NEEDS) if row["status"] == "ready"}
    return [_decode(root, config, jobs[row["item_key"]], row) for _, ref in items for row in read_rows(ref)]
