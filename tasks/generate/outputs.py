"""The table of a run: outputs.parquet, a row for every job and take, its state and all that made it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from prefect import task

from models.measures.camera import speed_along
from tasks.further_columns import COLUMN, append
from tasks.generate.job_columns import In, fields_of, file_key, in_
from tasks.generate.meter_columns import METERS
from tasks.manifest import ERROR_FIELDS, Lineage, ManifestRef, make_table, read_rows, write_manifest

VERSION = 2

JOB_COLUMNS: tuple[pa.Field, ...] = fields_of(*in_(In.OUTPUTS))

SAMPLE_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("latents", pa.string()),
    pa.field("latents_sha256", pa.string()),
    pa.field("plan", pa.string()),
    pa.field("too_large", pa.list_(pa.string())),
    pa.field("device", pa.string()),
)

VIDEO_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("video", pa.string()),
    pa.field("video_sha256", pa.string()),
    pa.field("sidecar", pa.string()),
    pa.field("frames_kept", pa.int32()),
    pa.field("encode_plan", pa.string()),
    pa.field("encode_too_large", pa.list_(pa.string())),
)

CLIP_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("decode_plan", pa.string()),
    pa.field("decode_too_large", pa.list_(pa.string())),
    *METERS,
)

CHOICE_COLUMNS: tuple[pa.Field, ...] = (
    pa.field("chosen", pa.bool_()),
    pa.field("score", pa.float64()),
    pa.field("passed", pa.bool_()),
    pa.field("reasons", pa.list_(pa.string())),
)

OWN_UNIT = {"pan": "camera_pan", "tilt": "camera_tilt", "zoom": "camera_zoom", "roll": "camera_roll"}
"""The column with the speed of each kind of motion, in the unit in which its strength is asked."""

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
        pa.field("strength_asked", pa.float64()),
        pa.field("strength_measured", pa.float64()),
        *CHOICE_COLUMNS,
        *VIDEO_COLUMNS,
        *CLIP_COLUMNS,
        *SAMPLE_COLUMNS,
        *JOB_COLUMNS,
        *ERROR_FIELDS,
    ]
)
"""status: "ok", "duplicate", "failed" or "waiting"; stage: the step that failed ("jobs", "sample", "decode" or
"encode"). Paths of what was made are relative to the table's folder; `image`, `lora` and `model` are where they were
given.
Strengths are in the motion's own unit (short sides per second; zoom: natural log of magnification per second; roll:
degrees per second), and the measured one is negative where the camera went the other way. `chosen`: of a job's
takes, the one to use."""

FILE = "outputs.parquet"

Rows = Mapping[str, Mapping[str, Any]]


def measure_strength(motion: str | None, clip: Mapping[str, Any]) -> float | None:
    """Return how fast a clip's camera made the motion asked for, in that motion's unit; the mean flow where none was
    asked for."""
    if motion is None or motion == "static":
        return clip.get("motion_score")
    speed = clip.get(OWN_UNIT.get(motion.partition("_")[0], ""))
    return None if speed is None else speed_along(motion, speed)


class Stages(NamedTuple):
    """What the steps made of the jobs: each by item key, but videos by the file's."""

    samples: Rows
    clips: Rows
    choices: Rows
    videos: Rows


def make_output_row(job: Mapping[str, Any], made: Stages) -> dict[str, Any]:
    """Return one job's row."""
    known = (field.name for field in (*JOB_COLUMNS, *ERROR_FIELDS))
    names = ("job", "take", "name", "image", "item_key", "status", COLUMN, *known)
    row = {name: job[name] for name in names}
    row |= {"motion_asked": job["motion"], "strength_asked": job.get("motion_strength")}
    if job["status"] != "ready":
        return row | {"stage": "jobs"}
    sample, clip, choice = (rows.get(job["item_key"], {}) for rows in (made.samples, made.clips, made.choices))
    video = made.videos.get(file_key(job), {})
    for step, columns in ((sample, SAMPLE_COLUMNS), (clip, CLIP_COLUMNS), (video, VIDEO_COLUMNS)):
        row |= {f.name: step.get(f.name) for f in columns}
    if video.get("video"):
        row |= {f.name: choice.get(f.name) for f in CHOICE_COLUMNS}
        return row | {"status": "ok", "stage": None, "strength_measured": measure_strength(job["motion"], clip)}
    steps = (("encode", video), ("decode", clip), ("sample", sample))
    stage, faulty = next(((name, own) for name, own in steps if own.get("error_code")), steps[-1])
    return row | {"status": "failed", "stage": stage} | {f.name: faulty.get(f.name) for f in ERROR_FIELDS}


def make_output_rows(
    jobs: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]],
    clips: Iterable[Mapping[str, Any]],
    videos: Iterable[Mapping[str, Any]],
    choices: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Yield a row for every job and take, in the order of the jobs, whatever the order of the others."""
    by_item = ({row["item_key"]: row for row in rows} for rows in (samples, clips, choices))
    made = Stages(*by_item, videos={file_key(row): row for row in videos})
    rows = (make_output_row(job, made) for job in jobs)
    return sorted(rows, key=lambda row: (row["job"], row["take"] or 0))


def add_further_takes(
    jobs: Sequence[Mapping[str, Any]], further: Iterable[Mapping[str, Any]], samples: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the jobs asked for, and those of the `further` takes that were tried."""
    tried = {row["item_key"] for row in samples} - {row["item_key"] for row in jobs}
    return [*jobs, *(row for row in further if row["status"] == "ready" and row["item_key"] in tried)]


@task(name="collect outputs")
def collect_outputs(
    root: Path,
    jobs: ManifestRef,
    samples: Sequence[ManifestRef],
    clips: Sequence[ManifestRef],
    videos: Sequence[ManifestRef],
    choices: ManifestRef | None = None,
    further: ManifestRef | None = None,
) -> ManifestRef:
    """Write outputs.parquet below `root` from the manifests of the run; `further` has takes past those asked for."""
    sampled, decoded, encoded = ([row for ref in refs for row in read_rows(ref)] for refs in (samples, clips, videos))
    chosen, more = (read_rows(ref) if ref else [] for ref in (choices, further))
    optional = [ref for ref in (choices, further) if ref]
    inputs = (jobs.digest, *(ref.digest for ref in (*samples, *clips, *videos, *optional)))
    rows = make_output_rows(add_further_takes(read_rows(jobs), more, sampled), sampled, decoded, encoded, chosen)
    return write_manifest(root / FILE, make_output_table(rows), Lineage(step="outputs", version=VERSION, inputs=inputs))


def make_output_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table of SCHEMA, and what the jobs' further columns say in columns of their names."""
    packed = [row.pop(COLUMN, None) for row in rows]
    return append(make_table(rows, SCHEMA), packed)
