"""Encoding: a clip's frames become a file in the format asked for, with a sidecar, and both carry its provenance.

The frames are those that decoding parked; where they are gone, the latents are decoded again. `video` is a file, or a
folder of pictures; `video_sha256` is of its content. `frames_kept` counts the frames in it. `encode_plan` records how
memory was used, `encode_too_large` which plans ran out of it before (tasks/generate/encode_formats.py).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import DEVICE_HELP, DeviceName, find_device
from models.pictures import Frames
from models.weights.names import format_name
from tasks.attempts import ItemCall, failure_of
from tasks.caching import Step
from tasks.generate.clip_frames import decode_clip, locate_parked, open_parked
from tasks.generate.clip_tags import digest_content
from tasks.generate.encode_formats import ClipLook, Format, make_look, write_clip
from tasks.generate.job_columns import KEYED, In, decided, fields_of, file_key, in_, without_defaults
from tasks.generate.meter_columns import METERS
from tasks.ledger import remove
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish_json, read_lineage, read_rows

VERSION = 3

SETTINGS = ("key", *KEYED[2:], *(name for name in in_(In.CLIP) + in_(In.FILE) if name not in KEYED))

PICTURE = ("image_sha256", "picture_sha256", "fit", "background")

NEEDS = (
    "status",
    "item_key",
    "name",
    "image",
    "picture",
    "model",
    "picture_model",
    "lora",
    "lineage",
    *PICTURE,
    *SETTINGS,
)

SCHEMA = pa.schema(
    [
        pa.field("item_key", pa.string()),
        pa.field("video", pa.string()),
        pa.field("video_sha256", pa.string()),
        pa.field("sidecar", pa.string()),
        pa.field("frames_kept", pa.int32()),
        pa.field("encode_plan", pa.string()),
        pa.field("encode_too_large", pa.list_(pa.string())),
        *fields_of(*in_(In.FILE)),
        *ERROR_FIELDS,
    ]
)

STEP = Step("encode", VERSION, SCHEMA, files=("video", "sidecar"))

ClipManifests = tuple[ManifestRef, ManifestRef, ManifestRef]
"""The jobs' manifest, and a clip's own of sampling and of decoding."""


class EncodeConfig(BaseModel):
    """How clips are written, and where frames that are gone are decoded again; the keys do not depend on the latter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format = Field(default="h264", description="Format of the clips: mp4 by three codecs, or pictures")
    crf: int | None = Field(default=None, ge=0, le=63, description="Quality, 0 best; the format's own if not given")
    trim: bool = Field(default=False, description="Whether a clip ends where it stops being good")
    device: DeviceName = Field(default="auto", description=DEVICE_HELP)


class EncodeSettings(BaseModel):
    """What decides one file beside its frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    provenance: dict[str, Any]


def collect_provenance(
    job: Mapping[str, Any], sample: Mapping[str, Any], sample_version: int, look: ClipLook, trim: bool
) -> dict[str, Any]:
    """Return everything needed to make the clip again, by names and digests: no path of this machine."""
    own = {name: job[name] for name in ("item_key", *PICTURE, *SETTINGS)}
    files = ("image", "lora", "model", "picture_model")
    names = {name: _name_source(job, name) for name in files if job[name]}
    made = {
        "latents_sha256": sample["latents_sha256"],
        "batch": sample["batch"],
        "sample_version": sample_version,
        "device": sample["device"],
    }
    written = {"format": look.format, "encoder": look.encoder, "crf": look.crf, "trim": trim}
    return {**names, **own, **made, **written, "lineage": json.loads(job["lineage"] or "{}")}


def _name_source(job: Mapping[str, Any], name: str) -> str:
    """Return a file or a model by its own name; a model of the hub by its id and commit."""
    return format_name(job[name], job.get(f"{name}_revision") or "")


def count_kept_frames(made: int, good: int, trim: bool) -> int:
    """Return how many frames of a clip are written: all, or the good ones; at least two, so that it stays a video."""
    return max(good, min(made, 2)) if trim else made


def open_frames(
    root: Path, job: Mapping[str, Any], sample: Mapping[str, Any], decoded_key: str, device: DeviceName
) -> Frames:
    """Return a clip's frames, parked by its decoding manifest's key, or decoded again."""
    frames = open_parked(locate_parked(root, decoded_key))
    return decode_clip(root, job, sample, find_device(device)).frames if frames is None else frames


def write_files(
    root: Path, frames: Frames, look: ClipLook, fps: float, clip: EncodeSettings, measured: Mapping[str, Any], key: str
) -> dict[str, Any]:
    """Write a clip and its sidecar below `root`, named by its job, its take and `key`, which keeps names apart that
    differ only in case; with its provenance in both. Return their columns."""
    name = f"videos/{clip.name}-take{clip.provenance['take']}-{key[:10]}"
    video, sidecar = f"{name}{look.suffix}", f"{name}.json"
    plan, too_large = write_clip(root / video, frames, fps, look, json.dumps(clip.provenance, sort_keys=True))
    publish_json(root / sidecar, clip.provenance | {"measured": dict(measured)})
    made = {"video": video, "video_sha256": digest_content(root / video), "sidecar": sidecar}
    return {**made, "frames_kept": len(frames), "encode_plan": plan, "encode_too_large": too_large}


def _encode(
    root: Path, config: EncodeConfig, look: ClipLook, job: Mapping[str, Any], samples: ManifestRef, clips: ManifestRef
) -> ManifestRef:
    """Return the manifest of one file; where it fails, a row with the reason, kept apart."""
    sample, clip, decoded_key = read_rows(samples)[0], read_rows(clips)[0], clips.path.stem
    provenance = collect_provenance(job, sample, read_lineage(samples.path).version, look, config.trim)
    settings = EncodeSettings(name=job["name"], provenance=without_defaults(provenance))
    said = settings.model_copy(update={"provenance": provenance})

    def compute(key: str) -> pa.Table:
        frames = open_frames(root, job, sample, decoded_key, config.device)
        kept = frames[: count_kept_frames(len(frames), clip["good_until"], config.trim)]
        meters = {field.name: clip[field.name] for field in METERS}
        made = write_files(root, kept, look, job["playback_fps"] or job["fps"], said, meters, key)
        return make_table([{"item_key": job["item_key"], "attempt": 1, **decided(job, In.FILE), **made}], SCHEMA)

    def failure(error: Exception) -> dict[str, Any]:
        return {"item_key": job["item_key"], **decided(job, In.FILE), **failure_of(error, job["name"], "encoding")}

    call = ItemCall(STEP, root, settings, (decoded_key,), job["model_revision"], failure_has_own_key=True)
    made = call.tried(compute, failure)
    if made.path.stem == call.key:
        remove(locate_parked(root, decoded_key))
    return made


def pair_measured(
    jobs: ManifestRef, samples: Iterable[ManifestRef], clips: Iterable[ManifestRef]
) -> list[ClipManifests]:
    """Return what `encode_jobs` takes, for those of `clips` that were decoded from `samples`."""
    latents = {row["item_key"]: ref for ref in samples for row in read_rows(ref, ("item_key",))}
    rows = [(ref, read_rows(ref, ("item_key", "error_code"))[0]) for ref in clips]
    return [(jobs, latents[row["item_key"]], ref) for ref, row in rows if row["error_code"] is None]


@lru_cache(maxsize=2)
def _read_ready_files(path: Path, _: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Read what is asked for at every clip: the jobs of each item key, by the key of the file; the digest tells two
    manifests at one path apart."""
    files: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in read_rows(path, NEEDS):
        if row["status"] == "ready":
            files.setdefault(row["item_key"], {})[file_key(row)] = row
    return files


@task(name="encode")
def encode_jobs(root: Path, config: EncodeConfig, items: Sequence[ClipManifests]) -> list[ManifestRef]:
    """Encode measured clips to files; return a manifest for each. Frames that were parked for them are removed."""
    look = make_look(config.format, config.crf)
    files: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for path, digest in dict.fromkeys((ref.path, ref.digest) for ref, *_ in items):
        files |= _read_ready_files(path, digest)
    keys = [read_rows(clips, ("item_key",))[0]["item_key"] for *_, clips in items]
    return [
        _encode(root, config, look, job, *refs)
        for key, (_, *refs) in zip(keys, items, strict=True)
        for job in files[key].values()
    ]
