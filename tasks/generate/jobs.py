"""Jobs: a folder of pictures or a table becomes a row per clip to make, every setting resolved, before any is made.

A row that cannot be made says why: its picture is missing, broken or outside the table's folder, a value is out of
range, or it asks for the same clip as a row before it.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from prefect import task
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import BadInput, ReelmillError
from models.loaded import model_folder
from models.lora import load_lora
from models.pictures import PICTURE_SUFFIXES, Background, Fit, prepare_picture
from models.svd import ModelFacts, load_facts, load_words, weights_digest
from tasks.caching import Step, cached
from tasks.listing import Listing, TableRow, locate, read_listing
from tasks.manifest import ERROR_FIELDS, ManifestRef, file_digest, publish, table_of

VERSION = 1

SETTINGS: tuple[pa.Field, ...] = (
    pa.field("seed", pa.int64()),
    pa.field("take", pa.int32()),
    pa.field("motion", pa.string()),
    pa.field("word", pa.string()),
    pa.field("steps", pa.int32()),
    pa.field("fps", pa.float64()),
    pa.field("motion_bucket", pa.int32()),
    pa.field("guidance_min", pa.float64()),
    pa.field("guidance_max", pa.float64()),
    pa.field("noise_aug", pa.float64()),
    pa.field("frames", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("model_revision", pa.string()),
    pa.field("lora_sha256", pa.string()),
    pa.field("lora_strength", pa.float64()),
)
"""What decides a clip, beside its picture. `motion` is what is asked and will be measured; `word` is what the model is
told of it, null where a LoRA alone is to make it."""

SCHEMA = pa.schema(
    [
        pa.field("job", pa.int32()),
        pa.field("name", pa.string()),
        pa.field("image", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("key", pa.string()),
        pa.field("item_key", pa.string()),
        pa.field("picture", pa.string()),
        pa.field("picture_sha256", pa.string()),
        *SETTINGS,
        pa.field("model", pa.string()),
        pa.field("lora", pa.string()),
        pa.field("lineage", pa.string()),
        pa.field("status", pa.string()),
        *ERROR_FIELDS,
    ]
)
"""`key` names the item's noise; `item_key` the clip: the same one for the same picture, settings and weights."""

STEP = Step("jobs", VERSION, SCHEMA, files=("picture",))

log = logging.getLogger("reelmill")


class JobsConfig(BaseModel):
    """What a job is made with, where its own row does not say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="tiny", description="The model's folder, or 'tiny' for the embedded model")
    seed: int = Field(default=0, ge=0, lt=2**63, description="The run's seed; each item draws its own noise from it")
    takes: int = Field(default=1, ge=1, le=64, description="Clips of each job, each from its own noise")
    motion: str | None = Field(default=None, description="Camera motion asked of every clip, for example pan_left")
    steps: int = Field(default=25, ge=1, le=1000, description="Denoising steps")
    fps: float | None = Field(
        default=None, gt=1, le=240, description="Frames per second; as the model was trained if not given"
    )
    motion_bucket: int | None = Field(
        default=None, ge=0, le=255, description="Amount of motion; the model's own if not given"
    )
    guidance: tuple[float, float] | None = Field(default=None, description="Guidance at the first and last frame")
    noise_aug: float | None = Field(
        default=None, ge=0, le=10, description="Deviation of the noise added to the picture"
    )
    lora: str | None = Field(default=None, description="LoRA file put on the model for every clip")
    lora_strength: float = Field(default=1.0, ge=-10, le=10, description="The LoRA's effect, 1 as trained")
    fit: Fit = Field(default="crop", description="How a picture comes to the model's size")
    background: Background = Field(
        default="white", description="What shows through transparent pictures and beside padded ones"
    )


class JobLine(BaseModel):
    """A row of a job table: these are the columns it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    image: str = Field(min_length=1)
    key: str | None = None
    motion: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=1, le=1000)
    fps: float | None = Field(default=None, gt=1, le=240)
    motion_bucket: int | None = Field(default=None, ge=0, le=255)
    guidance_min: float | None = Field(default=None, ge=0, le=100)
    guidance_max: float | None = Field(default=None, ge=0, le=100)
    noise_aug: float | None = Field(default=None, ge=0, le=10)
    lora: str | None = None
    lora_strength: float | None = Field(default=None, ge=-10, le=10)


@dataclass(frozen=True)
class ModelCard:
    """What jobs need of a model: its native numbers, the motions it knows by name, the digest of its weights."""

    facts: ModelFacts
    words: frozenset[str]
    revision: str


def read_card(name: str) -> ModelCard:
    """The facts of a model folder, without loading its weights; raises BadInput or BadModel."""
    folder = model_folder(name)
    return ModelCard(load_facts(folder), frozenset(load_words(folder)), weights_digest(folder))


class Asking:
    """Turns rows of a listing into resolved jobs; a file is read once, however many rows name it."""

    def __init__(self, listing: Listing, config: JobsConfig, card: ModelCard) -> None:
        self.listing, self.config, self.card = listing, config, card
        self._digest = cache(file_digest)
        self._lora = cache(lambda path: (load_lora(path)[1], file_digest(path)))

    def job(self, number: int, row: TableRow) -> dict[str, Any]:
        """The manifest row of job `number` but for its picture; where it cannot be made, with the reason."""
        image = str(row.values.get("image") or "")
        known = {"job": number, "name": safe_name(Path(image).stem), "image": image or None, "attempt": 1}
        try:
            return known | self._resolve(row) | {"status": "ready"}
        except ReelmillError as error:
            return known | failed(error)
        except OSError as error:
            return known | failed(BadInput(f"{image}: cannot be read ({error.strerror})."))

    def _resolve(self, row: TableRow) -> dict[str, Any]:
        line = _parse(row)
        path = locate(self.listing.folder, line.image)
        digest = self._digest(path)
        source = {"name": safe_name(line.key or path.stem), "image": str(path), "image_sha256": digest}
        return source | {"key": line.key or digest} | self._settings(line) | {"model": self.config.model}

    def _settings(self, line: JobLine) -> dict[str, Any]:
        config, facts = self.config, self.card.facts
        low, high = config.guidance or facts.guidance
        return {
            "seed": _first(line.seed, config.seed),
            "steps": _first(line.steps, config.steps),
            "fps": _first(line.fps, config.fps, facts.fps),
            "motion_bucket": _first(line.motion_bucket, config.motion_bucket, facts.motion_bucket),
            "guidance_min": _first(line.guidance_min, low),
            "guidance_max": _first(line.guidance_max, high),
            "noise_aug": _first(line.noise_aug, config.noise_aug, facts.noise_aug),
            "frames": facts.frames,
            "width": facts.width,
            "height": facts.height,
            "model_revision": self.card.revision,
            **self._motion_and_lora(line),
        }

    def _motion_and_lora(self, line: JobLine) -> dict[str, Any]:
        motion, path = line.motion or self.config.motion, self._lora_path(line)
        lineages: dict[str, Any] = {}
        made_by_lora: tuple[str, ...] = ()
        chosen: dict[str, Any] = {}
        if self.card.facts.lineage:
            lineages["model"] = _short(self.card.facts.lineage)
        if path:
            facts, digest = self._lora(path)
            made_by_lora = tuple((facts.lineage.get("train") or {}).get("motions") or ())
            lineages["lora"] = _short(facts.lineage)
            strength = _first(line.lora_strength, self.config.lora_strength)
            chosen = {"lora": str(path), "lora_sha256": digest, "lora_strength": strength}
        if motion is None and len(made_by_lora) == 1:
            motion = made_by_lora[0]
        # A motion LoRA learns, and so is used, without the word for its motion.
        word = None if motion in made_by_lora else motion
        self._check_word(word)
        lineage = json.dumps(lineages, sort_keys=True) if lineages else None
        return chosen | {"motion": motion, "word": word, "lineage": lineage}

    def _lora_path(self, line: JobLine) -> Path | None:
        """A table names a LoRA relative to its own folder, the command line relative to where it is called."""
        if line.lora:
            return (self.listing.folder / line.lora).resolve()
        return Path(self.config.lora).resolve() if self.config.lora else None

    def _check_word(self, word: str | None) -> None:
        if word is not None and word not in self.card.words:
            known = ", ".join(sorted(self.card.words)) or "none"
            raise BadInput(
                f"motion {word!r}: the model does not know it by name (it knows: {known}); give a LoRA for it."
            )


def _parse(row: TableRow) -> JobLine:
    if row.problem:
        raise BadInput(row.problem)
    try:
        return JobLine.model_validate(dict(row.values))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"column {first['loc'][0]}: {first['msg'].lower()}, not {first.get('input')!r}.") from error


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _short(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """A lineage with long lists replaced by how many they hold: it is repeated in every row and every video."""
    return {k: len(v) if isinstance(v, list) and len(v) > 16 else v for k, v in lineage.items()}


def failed(error: ReelmillError) -> dict[str, Any]:
    """The columns of a job that cannot be made."""
    return {"status": "failed", "error_code": error.code, "error_message": str(error), "attempt": 1}


def safe_name(text: str) -> str:
    """Text as a part of a file name: letters, digits, '-', '_' and '.', at most 60, never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60].strip("-.") or "item"


def with_picture(root: Path, row: Mapping[str, Any], fit: Fit, background: Background) -> dict[str, Any]:
    """The row with its picture at the model's size, written below `root` if it is not there; failed if it cannot be."""
    recipe = [row["image_sha256"], row["width"], row["height"], fit, background, VERSION]
    name = f"pictures/{_digest(recipe)[:32]}.png"
    try:
        if not (root / name).is_file():
            pixels = prepare_picture(Path(row["image"]), row["width"], row["height"], fit, background)
            with publish(root / name) as aside:
                Image.fromarray(pixels).save(aside, format="PNG")
        with Image.open(root / name) as picture:
            content = hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
    except ReelmillError as error:
        return {**row, **failed(error)}
    return {**row, "picture": name, "picture_sha256": content}


def take_rows(row: Mapping[str, Any], takes: int) -> list[dict[str, Any]]:
    """A job's rows, one for each take, each with the key of its clip; one row where the job cannot be made."""
    if row["status"] != "ready":
        return [dict(row)]
    rows = [{**row, "take": take} for take in range(takes)]
    names = [f.name for f in SETTINGS]
    return [r | {"item_key": _digest([r["key"], r["picture_sha256"], *(r.get(n) for n in names)])[:32]} for r in rows]


def mark_duplicates(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, those that ask for the clip of an earlier row marked so."""
    seen: dict[str, int] = {}
    for row in rows:
        first = seen.setdefault(row.get("item_key") or f"job {row['job']}", row["job"])
        if first == row["job"]:
            yield dict(row)
        else:
            reason = (
                f"{row['name']}: asks for the same clip as job {first}; give it another seed or key for another clip."
            )
            yield {**row, "status": "duplicate", "error_code": "duplicate", "error_message": reason}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@task(name="read jobs")
def read_jobs(root: Path, config: JobsConfig, jobs: Path) -> ManifestRef:
    """The jobs at `jobs` as a manifest below `root`, with their pictures; raises BadInput or BadModel."""
    listing = read_listing(jobs, PICTURE_SUFFIXES, "image", tuple(JobLine.model_fields))
    card = read_card(config.model)
    asking = Asking(listing, config, card)
    asked = [asking.job(number, row) for number, row in enumerate(listing.rows)]

    def compute(key: str) -> pa.Table:
        log.debug("jobs: %d rows of %s", len(asked), jobs)
        pictured = (
            with_picture(root, row, config.fit, config.background) if row["status"] == "ready" else row for row in asked
        )
        rows = mark_duplicates(taken for row in pictured for taken in take_rows(row, config.takes))
        return table_of(list(rows), SCHEMA)

    return cached(STEP, root, config, [_digest(asked)], compute, card.revision)
