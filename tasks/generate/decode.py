"""Decoding: latents become frames, which are measured against what was asked and parked until they are encoded.

first_frame_psnr and last_frame_psnr: peak signal-to-noise ratio in dB of that frame against the picture, at most 100;
the first says whether the clip shows the picture, the last how far it has drifted or moved from it. A clip without a
picture has neither, and its other meters compare with its own first frame. Camera motion is measured as curation
measures it (models/measures/camera.py), in short sides per second. The other meters are those of
models/measures/meters.py: a curve with a value for each frame (`..._curve`), the worst of it, and `good_until`, the
number of frames before the first lasting fault, which `good_until_reason` names.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import DEVICE_HELP, DeviceName, device_named
from models.errors import ReelmillError
from models.measures.camera import measure_motion
from models.measures.meters import good_until, measure_meters
from models.pictures import Picture
from tasks.attempts import failure_of
from tasks.caching import Step, cached, find, key_of, lineage_of
from tasks.generate.clip_frames import DECODED_BY, decode_clip, park, parked_at
from tasks.generate.meter_columns import METERS
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of, write_manifest
from tasks.video import Frames

VERSION = 1

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

FAILED = Step("decode_failed", VERSION, SCHEMA)
"""Where failures are kept, apart: they count attempts, and the next run tries again."""


class DecodeConfig(BaseModel):
    """Where clips are decoded, which their keys do not depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceName = Field(default="auto", description=DEVICE_HELP)


class ClipSettings(BaseModel):
    """What decides a clip's meters beside its latents and its picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_key: str
    fps: float


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one size, at most 100."""
    error = np.square(a.astype(np.float64) - b).mean()
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0


def measure_clip(frames: Frames, picture: Picture | None, fps: float) -> dict[str, Any]:
    """The meters of a clip, uint8 RGB [frames, height, width, 3], made from `picture`; needs two frames or more.

    A clip of a text alone is held against its own first frame.
    """
    moved = measure_motion(frames, [i / fps for i in range(len(frames))])
    meters = measure_meters(frames, frames[0] if picture is None else picture)
    good = good_until(meters)
    return {
        "first_frame_psnr": None if picture is None else psnr(frames[0], picture),
        "last_frame_psnr": None if picture is None else psnr(frames[-1], picture),
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


def measured_clip(
    root: Path, job: Mapping[str, Any], sample: Mapping[str, Any], key: str, device: torch.device
) -> dict[str, Any]:
    """Decode and measure one clip, and park its frames below `root` by `key`: its manifest row."""
    frames, plan, too_large = decode_clip(root, job, sample, device)
    meters = measure_clip(frames, _picture(root, job), job["fps"])
    park(parked_at(root, key), frames)
    memory = {"decode_plan": str(plan), "decode_too_large": [str(each) for each in too_large]}
    return {"item_key": job["item_key"], "attempt": 1, **memory, **meters}


def _picture(root: Path, job: Mapping[str, Any]) -> Picture | None:
    if job["picture"] is None:
        return None
    with Image.open(root / job["picture"]) as picture:
        return np.asarray(picture)


def _decode(root: Path, config: DecodeConfig, job: Mapping[str, Any], sample: Mapping[str, Any]) -> ManifestRef:
    """The manifest of one clip; where it fails, a row with the reason, kept apart."""
    settings = ClipSettings(item_key=job["item_key"], fps=job["fps"])
    inputs, revision = [sample["latents_sha256"], job["picture_sha256"] or "no picture"], job["model_revision"]

    def compute(key: str) -> pa.Table:
        return table_of([measured_clip(root, job, sample, key, device_named(config.device))], SCHEMA)

    failed = lineage_of(FAILED, settings, inputs, revision)
    failed_at = FAILED.path(root, key_of(failed))
    try:
        made = cached(STEP, root, settings, inputs, compute, revision)
    except (ReelmillError, RuntimeError, ValueError, OSError, MemoryError) as error:
        return write_manifest(failed_at, table_of([_failure(root, job, failed_at, error)], SCHEMA), failed)
    failed_at.unlink(missing_ok=True)
    return made


def sampled(jobs: ManifestRef, samples: Iterable[ManifestRef]) -> list[tuple[ManifestRef, ManifestRef]]:
    """What `decode_jobs` takes, for those of `samples` that have latents."""
    return [(jobs, ref) for ref in samples if read_rows(ref, ("latents",))[0]["latents"]]


def _failure(root: Path, job: Mapping[str, Any], path: Path, error: Exception) -> dict[str, Any]:
    before = find(FAILED, root, path.stem)
    attempt = read_rows(before)[0]["attempt"] + 1 if before else 1
    return {"item_key": job["item_key"], **failure_of(error, job["name"], "decoding"), "attempt": attempt}


@task(name="decode")
def decode_jobs(root: Path, config: DecodeConfig, items: list[tuple[ManifestRef, ManifestRef]]) -> list[ManifestRef]:
    """The measured clips of sampled items, each given as the jobs' manifest and its own with latents: a manifest for
    each. Their frames are parked."""
    jobs = {row["item_key"]: row for ref in dict(items) for row in read_rows(ref, NEEDS) if row["status"] == "ready"}
    return [_decode(root, config, jobs[row["item_key"]], row) for _, ref in items for row in read_rows(ref)]
