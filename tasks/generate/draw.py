"""Drawing: a text-to-image model makes the pictures of jobs that have only a text, for models that need a picture.

A picture depends on its text, the run's seed and the job's key, its size, the model that draws it and the precision it
works in; the takes of a job share one. It is kept by its content below pictures/, and its manifest records what made
it. The device is not part of that: it changes the last bits only, and is recorded in the row, as is the memory plan.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.device import (
    AskedPrecision,
    DeviceName,
    Precision,
    choose_precision,
    find_device,
    format_device,
)
from models.errors import ReelmillError
from models.families.family import Request
from models.families.text_to_picture import KINDS, STEPS
from models.generation import by_family
from models.generation.model_cache import unload_drawers
from tasks.attempts import ItemCall, error_columns, failure_of
from tasks.caching import Step, make_key, make_lineage
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish, read_manifest, read_rows, write_manifest

VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("drawing", pa.string()),
        pa.field("picture", pa.string()),
        pa.field("picture_sha256", pa.string()),
        pa.field("plan", pa.string()),
        pa.field("too_large", pa.list_(pa.string())),
        pa.field("device", pa.string()),
        *ERROR_FIELDS,
    ]
)
"""`drawing` names what is drawn; `picture_sha256` is of the pixels, as in the jobs. `plan` says how the memory was
used, `too_large` which plans ran out of it before, `device` on what GPU, or `cpu`."""

STEP = Step("draw", VERSION, SCHEMA, files=("picture",))

NEEDS = ("status", "name", "picture_model", "picture_model_revision", "key", "seed", "prompt", "negative_prompt",
         "width", "height")  # fmt: skip


_GUIDANCES = ", ".join(f"{kind.guidance:g} of a {name}" for name, kind in KINDS.items())


class DrawConfig(BaseModel):
    """How pictures are drawn from texts, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=STEPS, ge=1, le=1000, description="Denoising steps of a drawn picture")
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description=f"How strictly a drawn picture follows its text; if not given, {_GUIDANCES}",
    )
    dtype: AskedPrecision = Field(
        default="auto",
        description="Numbers that the networks but the autoencoder draw in; auto: float16 on a CUDA GPU, float32 "
        "anywhere else",
    )
    device: DeviceName | None = Field(
        default=None, description="Where pictures are drawn, as auto, cpu, cuda, cuda:N or mps; if not given, as clips"
    )

    @property
    def where(self) -> torch.device:
        """Return the device; raises BadInput where this machine does not have it."""
        return find_device(self.device or "auto")


class Drawing(BaseModel):
    """What decides one picture, beside the model that draws it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    seed: int
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance: float | None
    dtype: Precision


Ask = tuple[ManifestRef, str]
"""The jobs' manifest, and the name of a picture that some of them need."""


def make_drawing(config: DrawConfig, job: Mapping[str, Any]) -> Drawing:
    """Return what is to be drawn for a job that needs it."""
    own = {name: job[name] for name in ("key", "seed", "prompt", "negative_prompt", "width", "height")}
    dtype = choose_precision(config.where, config.dtype)
    return Drawing(**own, steps=config.steps, guidance=config.guidance, dtype=dtype)


def name_of(config: DrawConfig, job: Mapping[str, Any]) -> str:
    """Return the key of the manifest of a job's picture."""
    return make_key(make_lineage(STEP, make_drawing(config, job), [], job["picture_model_revision"]))


def list_jobs_to_draw(config: DrawConfig, jobs: ManifestRef) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the jobs that can be made and whose pictures are drawn, each with its picture's name."""
    for row in read_rows(jobs, NEEDS):
        if row["status"] == "ready" and row["picture_model"]:
            yield name_of(config, row), row


def list_pictures_to_draw(config: DrawConfig, jobs: ManifestRef) -> list[Ask]:
    """Return what `draw_pictures` takes: each picture that the jobs need, once."""
    return [(jobs, name) for name in dict(list_jobs_to_draw(config, jobs))]


def draw_picture(root: Path, config: DrawConfig, job: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Draw a job's picture and write it below `root`; return its manifest row. Raises BadInput or BadModel."""
    drawing = make_drawing(config, job)
    request = Request(
        seed=drawing.seed,
        item_key=drawing.key,
        frames=1,
        width=drawing.width,
        height=drawing.height,
        prompt=drawing.prompt,
        negative=drawing.negative_prompt,
        steps=drawing.steps,
        guidance=drawing.guidance,
    )
    device, model = config.where, (job["picture_model"], job["picture_model_revision"])
    pixels, plan, too_large = by_family.draw_picture(*model, request, drawing.dtype, device)
    path = f"pictures/drawn-{name}.png"
    with publish(root / path) as aside:
        Image.fromarray(pixels).save(aside, format="PNG")
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    memory = {"plan": str(plan), "too_large": [str(each) for each in too_large], "device": format_device(device)}
    return {"drawing": name, "picture": path, "picture_sha256": digest, "attempt": 1} | memory


def _draw(root: Path, config: DrawConfig, job: Mapping[str, Any], name: str) -> ManifestRef:
    """Return the manifest of one picture; where it fails, a row with the reason, kept apart."""
    drawing, revision = make_drawing(config, job), job["picture_model_revision"]

    def compute(key: str) -> pa.Table:
        return make_table([draw_picture(root, config, job, key)], SCHEMA)

    def failure(error: Exception) -> dict[str, Any]:
        named = isinstance(error, ReelmillError)
        why = error_columns(error, job["name"]) if named else failure_of(error, job["name"], "drawing")
        return {"drawing": name, **why}

    return ItemCall(STEP, root, drawing, (), revision).tried(compute, failure)


@task(name="draw")
def draw_pictures(root: Path, config: DrawConfig, asks: list[Ask]) -> list[ManifestRef]:
    """Draw the pictures asked for; return a manifest for each, in their order. What is already there stays. Models that
    drew leave the GPU for those that make clips."""
    jobs = {name: row for ref in dict(asks) for name, row in list_jobs_to_draw(config, ref)}
    try:
        return [_draw(root, config, jobs[name], name) for _, name in asks]
    finally:
        unload_drawers()


@task(name="jobs with drawn pictures")
def add_drawn_pictures(root: Path, config: DrawConfig, jobs: ManifestRef, drawn: Sequence[ManifestRef]) -> ManifestRef:
    """Return the jobs with the pictures that were drawn for them. A job whose picture failed fails with its reason, and
    one whose picture is not drawn yet waits."""
    table, pictures = read_manifest(jobs), {row["drawing"]: row for ref in drawn for row in read_rows(ref)}
    rows = [_add_picture(row, config, pictures) for row in table.to_pylist()]
    step = Step("drawn", VERSION, table.schema)
    lineage = make_lineage(step, config, [jobs.digest, *(ref.digest for ref in drawn)])
    return write_manifest(step.path(root, make_key(lineage)), make_table(rows, table.schema), lineage)


def _add_picture(row: dict[str, Any], config: DrawConfig, pictures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if row["status"] != "ready" or not row["picture_model"]:
        return row
    made = pictures.get(name_of(config, row))
    if made is None:
        said = f"{row['name']}: its picture is not drawn yet. Run the same command to resume."
        return row | {"status": "waiting", "error_code": "not_started", "error_message": said}
    if made["error_code"]:
        return row | {"status": "failed"} | {field.name: made[field.name] for field in ERROR_FIELDS}
    return row | {"picture": made["picture"], "picture_sha256": made["picture_sha256"]}
