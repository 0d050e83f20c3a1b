"""Decoding: latents become an mp4 that says where it comes from, and the clip is measured against what was asked.

first_frame_psnr and last_frame_psnr: peak signal-to-noise ratio in dB of that frame against the picture, at most 100;
the first says whether the clip shows the picture, the last how far it has drifted or moved from it; both are null where
there is no picture, and the other meters compare with the first frame then. Camera motion is
measured as curation measures it (models/camera.py), in short sides per second. The other meters are those of
models/meters.py: a curve with a value for each frame (`..._curve`), the worst of it, and `good_until`, the number of
frames before the first lasting fault, which `good_until_reason` names.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.camera import measure_motion
from models.errors import BadMedia, ReelmillError
from models.families.making import decode_job
from models.meters import good_until, measure_meters
from models.pictures import Picture
from tasks.caching import Step, cached, find, key_of, lineage_of
from tasks.manifest import (
    ERROR_FIELDS,
    ManifestRef,
    file_digest,
    publish_json,
    read_lineage,
    read_rows,
    table_of,
    write_manifest,
)
from tasks.measured import METERS
from tasks.video import Frames, write_video

VERSION = 1

SETTINGS = ("key", "seed", "take", "motion", "word", "steps", "fps", "motion_bucket", "guidance_min", "guidance_max",
            "noise_aug", "frames", "width", "height", "family", "prompt", "negative_prompt", "picture_model_revision",
            "model_revision", "lora_sha256", "lora_strength")  # fmt: skip

NEEDS = (
    "item_key",
    "name",
    "image",
    "image_sha256",
    "picture",
    "picture_sha256",
    "picture_model",
    "model",
    "lora",
    "lineage",
    *SETTINGS,
)

SCHEMA = pa.schema(
    [
        pa.field("item_key", pa.string()),
        pa.field("video", pa.string()),
        pa.field("video_sha256", pa.string()),
        pa.field("sidecar", pa.string()),
        pa.field("frames_kept", pa.int32()),
        pa.field("decode_plan", pa.string()),
        pa.field("decode_too_large", pa.list_(pa.string())),
        *METERS,
        *ERROR_FIELDS,
    ]
)

STEP = Step("decode", VERSION, SCHEMA, files=("video", "sidecar"))

FAILED = Step("decode_failed", VERSION, SCHEMA)
"""Where failures are kept, apart: they count attempts, and the next run tries again."""

TAG = "reelmill"
"""The mp4 metadata tag that holds the clip's provenance as JSON."""


class DecodeConfig(BaseModel):
    """How clips are encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crf: int = Field(default=16, ge=0, le=51, description="H.264 quality, 0 best, 51 smallest")
    trim: bool = Field(default=False, description="Whether a clip ends where it stops being good")


class ClipSettings(BaseModel):
    """What decides one mp4 beside its latents and its picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crf: int
    trim: bool
    name: str
    provenance: dict[str, Any]


def provenance_of(job: Mapping[str, Any], sample: Mapping[str, Any], sample_version: int) -> dict[str, Any]:
    """Everything needed to make the clip again, by names and digests: no path of this machine."""
    own = {name: job[name] for name in ("item_key", "image_sha256", "picture_sha256", *SETTINGS)}
    files = ("image", "model", "picture_model", "lora")
    names = {name: Path(job[name]).name for name in files if job[name]}
    made = {"latents_sha256": sample["latents_sha256"], "batch": sample["batch"], "sample_version": sample_version}
    return {**names, **own, **made, "lineage": json.loads(job["lineage"] or "{}")}


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


def frames_kept(made: int, good: int, trim: bool) -> int:
    """How many frames of a clip are written: all, or the good ones; two at least, so that it stays a video."""
    return max(good, min(made, 2)) if trim else made


def load_latents(path: Path, digest: str) -> Tensor:
    """Latents [frames, channels, h, w] whose values have that digest; raises BadMedia when the file was changed."""
    try:
        latents = load_file(path)["latents"]
    except (SafetensorError, OSError, KeyError) as error:
        raise BadMedia(
            f"{path.name}: these latents cannot be read ({error}). Delete the file and run again."
        ) from error
    if hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest() != digest:
        raise BadMedia(f"{path.name}: these latents are not the ones that were sampled. Delete the file and run again.")
    return latents


def make_clip(
    root: Path, job: Mapping[str, Any], sample: Mapping[str, Any], clip: ClipSettings, key: str
) -> dict[str, Any]:
    """Decode, measure and write one clip and its sidecar below `root`, named by `key`: its manifest row."""
    latents = load_latents(root / sample["latents"], sample["latents_sha256"])
    frames, plan, too_large = decode_job(job, latents, root)
    meters = measure_clip(frames, _picture(root, job), job["fps"])
    video, sidecar = (f"videos/{clip.name}-{key[:10]}{suffix}" for suffix in (".mp4", ".json"))
    tags = {TAG: json.dumps(clip.provenance, sort_keys=True)}
    kept = frames_kept(len(frames), meters["good_until"], clip.trim)
    write_video(root / video, frames[:kept], job["fps"], crf=clip.crf, tags=tags)
    publish_json(root / sidecar, clip.provenance | {"measured": meters})
    made = {"video": video, "video_sha256": file_digest(root / video), "sidecar": sidecar, "frames_kept": kept}
    memory = {"decode_plan": str(plan), "decode_too_large": [str(each) for each in too_large]}
    return {"item_key": job["item_key"], "attempt": 1, **made, **memory, **meters}


def _picture(root: Path, job: Mapping[str, Any]) -> Picture | None:
    if job["picture"] is None:
        return None
    with Image.open(root / job["picture"]) as picture:
        return np.asarray(picture)


def _decode(root: Path, config: DecodeConfig, job: Mapping[str, Any], samples: ManifestRef) -> ManifestRef:
    """The manifest of one clip; where it fails, a row with the reason, kept apart."""
    sample = read_rows(samples)[0]
    provenance = provenance_of(job, sample, read_lineage(samples.path).version)
    clip = ClipSettings(crf=config.crf, trim=config.trim, name=job["name"], provenance=provenance)
    inputs, revision = [sample["latents_sha256"], job["picture_sha256"] or "no picture"], job["model_revision"]

    def compute(key: str) -> pa.Table:
        return table_of([make_clip(root, job, sample, clip, key)], SCHEMA)

    try:
        return cached(STEP, root, clip, inputs, compute, revision)
    except (ReelmillError, RuntimeError, ValueError, OSError, MemoryError) as error:
        lineage = lineage_of(FAILED, clip, inputs, revision)
        path = FAILED.path(root, key_of(lineage))
        return write_manifest(path, table_of([_failure(root, job, path, error)], SCHEMA), lineage)


def sampled(jobs: ManifestRef, samples: Iterable[ManifestRef]) -> list[tuple[ManifestRef, ManifestRef]]:
    """What `decode_jobs` takes, for those of `samples` that have latents."""
    return [(jobs, ref) for ref in samples if read_rows(ref, ("latents",))[0]["latents"]]


def _failure(root: Path, job: Mapping[str, Any], path: Path, error: Exception) -> dict[str, Any]:
    before = find(FAILED, root, path.stem)
    known = isinstance(error, ReelmillError)
    return {
        "item_key": job["item_key"],
        "error_code": error.code if known else "decoding_failed",
        "error_message": str(error) if known else f"{job['name']}: decoding failed ({error}).",
        "attempt": read_rows(before)[0]["attempt"] + 1 if before else 1,
    }


@task(name="decode")
def decode_jobs(root: Path, config: DecodeConfig, items: list[tuple[ManifestRef, ManifestRef]]) -> list[ManifestRef]:
    """The videos of sampled items, each given as the jobs' manifest and its own with latents: a manifest for each."""
    jobs = {row["item_key"]: row for ref in dict(items) for row in read_rows(ref, ("status", *NEEDS)) if _ready(row)}
    return [_decode(root, config, jobs[row["item_key"]], ref) for _, ref in items for row in read_rows(ref)]


def _ready(row: Mapping[str, Any]) -> bool:
    return row["status"] == "ready"
