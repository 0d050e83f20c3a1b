"""The table of a run: outputs.parquet, a row for every job and take, what became of it and all that made it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from tasks.manifest import ERROR_FIELDS, Lineage, ManifestRef, read_rows, table_of, write_manifest

VERSION = 1

JOB_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("seed", pa.int64()),
    pa.field("steps", pa.int32()),
    pa.field("fps", pa.float64()),
    pa.field("motion_bucket", pa.int32()),
    pa.field("guidance_min", pa.float64()),
    pa.field("guidance_max", pa.float64()),
    pa.field("noise_aug", pa.float64()),
    pa.field("frames", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("image_sha256", pa.string()),
    pa.field("picture", pa.string()),
    pa.field("key", pa.string()),
    pa.field("word", pa.string()),
    pa.field("model", pa.string()),
    pa.field("model_revision", pa.string()),
    pa.field("lora", pa.string()),
    pa.field("lora_sha256", pa.string()),
    pa.field("lora_strength", pa.float64()),
    pa.field("lineage", pa.string()),
)

SAMPLE_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("latents", pa.string()),
    pa.field("latents_sha256", pa.string()),
)

CLIP_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("video", pa.string()),
    pa.field("video_sha256", pa.string()),
    pa.field("sidecar", pa.string()),
    pa.field("first_frame_psnr", pa.float64()),
    pa.field("last_frame_psnr", pa.float64()),
    pa.field("motion_measured", pa.string()),
    pa.field("camera_strength", pa.float64()),
    pa.field("camera_pan", pa.float64()),
    pa.field("camera_tilt", pa.float64()),
    pa.field("camera_zoom", pa.float64()),
    pa.field("camera_roll", pa.float64()),
    pa.field("object_motion", pa.float64()),
    pa.field("motion_score", pa.float64()),
)

SCHEMA = pa.schema(
    [
        pa.field("job", pa.int32()),
        pa.field("take", pa.int32()),
        pa.field("name", pa.string()),
        pa.field("status", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("image", pa.string()),
        pa.field("item_key", pa.string()),
        pa.field("motion_asked", pa.string()),
        *CLIP_COLUMNS,
        *SAMPLE_COLUMNS,
        *JOB_COLUMNS,
        *ERROR_FIELDS,
    ]
)
"""status: "ok", "duplicate" or "failed"; stage: the step that failed ("jobs", "sample" or "decode"). Paths of what was
made are relative to the table's folder; `image`, `lora` and `model` are where they were given."""

FILE = "outputs.parquet"

Rows = Mapping[str, Mapping[str, Any]]


def output_row(job: Mapping[str, Any], samples: Rows, clips: Rows) -> dict[str, Any]:
    """One job's row; `samples` and `clips` are by item key."""
    names = ("job", "take", "name", "image", "item_key", "status", *(f.name for f in (*JOB_COLUMNS, *ERROR_FIELDS)))
    row = {name: job[name] for name in names} | {"motion_asked": job["motion"]}
    if job["status"] != "ready":
        return row | {"stage": "jobs"}
    sample, clip = samples.get(job["item_key"], {}), clips.get(job["item_key"], {})
    row |= {f.name: sample.get(f.name) for f in SAMPLE_COLUMNS} | {f.name: clip.get(f.name) for f in CLIP_COLUMNS}
    if clip.get("video"):
        return row | {"status": "ok", "stage": None}
    stage, faulty = ("decode", clip) if sample.get("latents") else ("sample", sample)
    return row | {"status": "failed", "stage": stage} | {f.name: faulty.get(f.name) for f in ERROR_FIELDS}


def output_rows(
    jobs: Iterable[Mapping[str, Any]], samples: Iterable[Mapping[str, Any]], clips: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row for every job and take, in the order of the jobs, whatever the order of the others."""
    by_key = [{row["item_key"]: row for row in rows} for rows in (samples, clips)]
    rows = (output_row(job, *by_key) for job in jobs)
    return sorted(rows, key=lambda row: (row["job"], row["take"] or 0))


@task(name="collect outputs")
def collect_outputs(
    root: Path, jobs: ManifestRef, samples: Sequence[ManifestRef], clips: Sequence[ManifestRef]
) -> ManifestRef:
    """Write outputs.parquet below `root` from the manifests of the run."""
    sampled, decoded = ([row for ref in refs for row in read_rows(ref)] for refs in (samples, clips))
    inputs = (jobs.digest, *(ref.digest for ref in (*samples, *clips)))
    rows = output_rows(read_rows(jobs), sampled, decoded)
    return write_manifest(root / FILE, table_of(rows, SCHEMA), Lineage(step="outputs", version=VERSION, inputs=inputs))
