"""Jobs: pictures, texts, a table or a ComfyUI workflow become a row per clip to make, resolved before any is made.

A row that cannot be made says why: its picture is missing, broken or outside its folder, its model unknown, a value out
of range, or it asks for the same clip as another row. What was asked for and is not honoured is named in `ignored`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from prefect import task

from models.generation.calibration import load_calibration, read_calibration
from models.generation.card import read_card
from models.pictures import (
    Background,
    Fit,
    count_pictures,
    describe_foreign_picture,
    open_picture,
    read_foreign_picture,
)
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute, make_key, make_lineage
from tasks.child_process import Child
from tasks.generate.job_columns import COLUMNS, KEYED, In, fields_of, file_key, in_, item_key
from tasks.generate.job_resolver import Asking
from tasks.generate.job_settings import JobsConfig, read_list
from tasks.ledger import remove
from tasks.limits import get_limits
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish, read_rows, write_manifest
from tasks.source_files import read_as

T = TypeVar("T")

VERSION = 3

SETTINGS = (*KEYED[2:], *(name for name in in_(In.CLIP) if name not in KEYED))
"""What decides a clip, beside its picture and its noise. `motion` and `motion_strength` (short sides per second; zoom:
natural log of magnification per second; roll: degrees per second) are what is asked and will be measured; `word` is
what the model is told of it, null where a LoRA alone is to make it. `picture_model_revision`: of the model that draws
the picture from the texts; without one the texts are the clip's own. `longer`: how a clip past the model's own length
is made, "windows" or "chain" (which may end before `frames`); null where it is made at once. `dtype`: the numbers that
the UNet works in, which change a clip more than rounding does."""

_NAMES = ("job", "name", "image", "image_sha256", "key", "item_key", "picture", "picture_sha256", "fit", "background",
          *SETTINGS)  # fmt: skip

SCHEMA = pa.schema(
    [
        *fields_of(*_NAMES),
        *fields_of(*(name for name, column in COLUMNS.items() if column.type and name not in _NAMES)),
        *ERROR_FIELDS,
    ]
)
"""`key` names the item's noise; `item_key` the clip: the same for the same picture, settings and weights. `fit` and
`background` are how the picture came to the model's size. Rows are in the order they are to be made in, the highest
`priority` first; `job` is a row's place in the list as it was given."""

STEP = Step("jobs", VERSION, SCHEMA, files=("picture",))

PLACES = ("image", "model", "picture_model", "lora")
"""Where a job's files lie: their content is in its keys, and where they lie is not."""

WAITING = Step("waiting", VERSION, SCHEMA)
"""The jobs with what a run left undone marked so: what its table is collected from. The next run removes it."""

PICTURE_LIMIT_S = 60.0
"""Time limit for reading one picture."""

log = logging.getLogger("reelmill")


def add_picture(root: Path, row: Mapping[str, Any], fit: Fit, background: Background, child: Child) -> dict[str, Any]:
    """Return the row with its picture at the model's size, read in the child process and written below `root` if it is
    not there; failed if it cannot be.

    A row without a picture stays as it is: its model takes a text, or its picture is yet to be drawn.
    """
    if row["image"] is None:
        return dict(row)
    return tried(
        lambda: {**row, **_prepare(root, row, fit, background, child)},
        lambda failure: {**row, "status": "failed", **failure},
        "reading",
        Path(row["image"]).name,
    )


def _prepare(root: Path, row: Mapping[str, Any], fit: Fit, background: Background, child: Child) -> dict[str, Any]:
    recipe = [row["image_sha256"], row["width"], row["height"], fit, background, VERSION]
    name = f"pictures/{_digest(recipe)[:32]}.png"
    content, path = _digest_content(root / name), Path(row["image"])

    def read(call: Callable[..., T], *arguments: Any) -> T:
        with read_as(root, path, row["image_sha256"]) as held:
            return child.run(call, held, *arguments, limit_s=PICTURE_LIMIT_S, item=path.name)

    if content is None:
        size = (row["width"], row["height"])
        pixels, many = read(read_foreign_picture, *size, fit, background, get_limits().pixels)
        with publish(root / name) as aside:
            Image.fromarray(pixels).save(aside, format="PNG")
        content = hashlib.sha256(pixels.tobytes()).hexdigest()
    else:
        many = read(count_pictures)
    said = [f"{row['name']}: all but the first of its {many} pictures."] if many > 1 else []
    ignored = [*(row["ignored"] or ()), *said] or None
    prepared = {"picture": name, "picture_sha256": content, "fit": fit, "background": background}
    converted = read(describe_foreign_picture)
    return {**prepared, "ignored": ignored, "converted": [converted] if converted else None}


def _digest_content(path: Path) -> str | None:
    """Return the digest of a prepared picture's pixels; None where there is none, or a damaged one."""
    try:
        with open_picture(path) as picture:
            return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
    except (OSError, SyntaxError, ValueError):
        return None


def make_take_rows(row: Mapping[str, Any], takes: int) -> list[dict[str, Any]]:
    """Return a job's rows, one for each take, each with the key of its clip; one row where the job cannot be made."""
    if row["status"] != "ready":
        return [dict(row)]
    rows = [{**row, "take": take} for take in range(takes)]
    return [r | {"item_key": item_key(r)} for r in rows]


def mark_duplicates(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows; those that ask for the clip of an earlier row are marked as duplicates."""
    seen: dict[str, int] = {}
    for row in rows:
        first = seen.setdefault(file_key(row) or f"job {row['job']}", row["job"])
        if first == row["job"]:
            yield dict(row)
        else:
            reason = f"{row['name']}: asks for the same clip as job {first}; give it another seed, key or prefix."
            yield {**row, "status": "duplicate", "error_code": "duplicate", "error_message": reason}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def put_off(root: Path, jobs: ManifestRef, made: Sequence[Sequence[ManifestRef]], reason: str | None) -> ManifestRef:
    """Return the jobs, with those that `reason` kept from being made marked "waiting"; `jobs` itself where there are
    none.

    `made` has the manifests of each step in turn: done is what the last one reached, and what failed before.
    """
    *before, last = ([row for ref in refs for row in read_rows(ref, ("item_key", "error_code"))] for refs in made)
    rows = read_rows(jobs)
    done = {row["item_key"] for step in before for row in step if row["error_code"]} | {r["item_key"] for r in last}
    left = [row for row in rows if row["status"] == "ready" and row["item_key"] not in done]
    if not left:
        return jobs
    for row in left:
        said = (
            f"{row['name']}: not made, {(reason or 'the run was stopped').rstrip('.')}. Run the same command to resume."
        )
        row |= {"status": "waiting", "error_code": "not_started", "error_message": said}
    lineage = make_lineage(WAITING, None, [jobs.digest])
    return write_manifest(WAITING.path(root, make_key(lineage)), make_table(rows, SCHEMA), lineage)


def check_models(config: JobsConfig) -> None:
    """Raise BadModel or BadInput when the model or the calibration of a whole run cannot be used, whether a row uses it
    or not.

    Without a model for all, each row has its own, and its weights are checked against the calibration.
    """
    card = read_card(config.model) if config.model else None
    if config.calibration and card:
        load_calibration(config.calibration, card.revision)
    elif config.calibration:
        read_calibration(config.calibration)


@task(name="read jobs")
def read_jobs(
    root: Path, config: JobsConfig, jobs: Path, images: Path | None = None, only: Collection[str] | None = None
) -> ManifestRef:
    """Write the jobs at `jobs` as a manifest below `root`, with their pictures; raises BadInput or BadModel.

    `images`: pictures that a workflow runs over instead of its own. `only`: names of the pictures to make, if not all.
    """
    check_models(config)
    listing, workflow = read_list(jobs, images)
    asking = Asking(listing, jobs if jobs.is_dir() else jobs.parent, config, workflow)
    wanted = (row for row in listing.rows if only is None or row.values.get("image") in only)
    asked = [asking.job(number, row) for number, row in enumerate(wanted)]
    asked.sort(key=lambda row: -row.get("priority", 0))

    def compute(key: str) -> pa.Table:
        log.debug("jobs: %d rows of %s", len(asked), jobs)
        with Child() as child:
            add = partial(add_picture, root, fit=config.fit, background=config.background, child=child)
            pictured = [add(row) if row["status"] == "ready" else row for row in asked]
        rows = mark_duplicates(taken for row in pictured for taken in make_take_rows(row, config.takes))
        return make_table(list(rows), SCHEMA)

    revisions = sorted({row["model_revision"] for row in asked if row["status"] == "ready"})
    # A calibration decides on nothing but the buckets, which stand in the rows.
    settings = config.model_copy(update=dict.fromkeys(("calibration", *PLACES)))
    content = [{name: value for name, value in row.items() if name not in PLACES} for row in asked]
    find = partial(find_or_compute, STEP, root, settings, [_digest(content)], compute, " ".join(revisions) or None)
    made = find()
    if made.cached and _list_places(read_rows(made)) != _list_places(asked):
        remove(made.path)
        return find()
    return made


def _list_places(rows: Iterable[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    return {(row["job"], *(row.get(name) for name in PLACES)) for row in rows}
