"""From the rows of a job list to resolved jobs: every setting decided, from the row, the run, the model or a default.

A list is a folder of pictures, a table, or a ComfyUI workflow. What was asked and cannot be honoured, and does not
change what is meant, is said in `ignored`; what changes it is a reason not to make the job.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.calibration import load_calibration
from models.card import ModelCard, read_card, rounded_size
from models.device import DTYPE_HELP, AskedPrecision, device_named, precision_on
from models.errors import BadInput, ReelmillError
from models.lora import load_lora
from models.pictures import PICTURE_SUFFIXES, Background, Fit
from models.regions import told_as, words_in
from models.svd import motion_bucket
from tasks.listing import Listing, TableRow, locate, read_listing
from tasks.manifest import file_digest
from tasks.workflow import read_workflow

WORKFLOW_SUFFIX = ".json"


class JobsConfig(BaseModel):
    """What a job is made with: a table's row may say otherwise, and a setting given here overrides a workflow's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        default=None, description="The model's folder, or 'tiny' for the embedded model, which is also the default"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="The run's seed, 0 if not given; each item draws its own noise from it",
    )
    takes: int = Field(default=1, ge=1, le=64, description="Clips of each job, each from its own noise")
    motion: str | None = Field(default=None, description="Camera motion asked of every clip, for example pan_left")
    motion_strength: float | None = Field(
        default=None, ge=0, le=1000, description="Its speed: short sides, log of magnification, or degrees per second"
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps, 25 if not given")
    fps: float | None = Field(
        default=None, gt=1, le=240, description="Frames per second; as the model was trained if not given"
    )
    width: int | None = Field(default=None, ge=8, le=8192, description="Width in pixels; the model's own if not given")
    height: int | None = Field(
        default=None, ge=8, le=8192, description="Height in pixels; the model's own if not given"
    )
    frames: int | None = Field(
        default=None, ge=2, le=1000, description="Frames of a clip; the model's own if not given"
    )
    motion_bucket: int | None = Field(
        default=None, ge=0, le=255, description="Amount of motion; by its strength, or the model's own, if not given"
    )
    calibration: Path | None = Field(
        default=None, description="File of `reelmill calibrate`: the bucket for a strength is as the model was measured"
    )
    guidance: tuple[float, float] | None = Field(default=None, description="Guidance at the first and last frame")
    noise_aug: float | None = Field(
        default=None, ge=0, le=10, description="Deviation of the noise added to the picture"
    )
    lora: str | None = Field(default=None, description="LoRA file put on the model for every clip")
    lora_strength: float | None = Field(default=None, ge=-10, le=10, description="The LoRA's effect, 1 as trained")
    dtype: AskedPrecision = Field(default="auto", description=DTYPE_HELP)
    fit: Fit = Field(default="crop", description="How a picture comes to the model's size")
    background: Background = Field(
        default="white", description="What shows through transparent pictures and beside padded ones"
    )


class JobLine(BaseModel):
    """A row of a job table: these are the columns it may have, but for `ignored`, which a workflow's jobs bring."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    image: str = Field(min_length=1)
    key: str | None = None
    prefix: str | None = None
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    model: str | None = None
    motion: str | None = None
    motion_strength: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=1, le=1000)
    fps: float | None = Field(default=None, gt=1, le=240)
    width: int | None = Field(default=None, ge=8, le=8192)
    height: int | None = Field(default=None, ge=8, le=8192)
    frames: int | None = Field(default=None, ge=2, le=1000)
    motion_bucket: int | None = Field(default=None, ge=0, le=255)
    guidance_min: float | None = Field(default=None, ge=0, le=100)
    guidance_max: float | None = Field(default=None, ge=0, le=100)
    noise_aug: float | None = Field(default=None, ge=0, le=10)
    lora: str | None = None
    lora_strength: float | None = Field(default=None, ge=-10, le=10)
    ignored: tuple[str, ...] = ()


COLUMNS = tuple(name for name in JobLine.model_fields if name != "ignored")

DEFAULTS: Mapping[str, Any] = {"model": "tiny", "seed": 0, "steps": 25, "lora_strength": 1.0}
"""Where neither a row nor the run says anything, and the model has no number of its own."""

FLOW_PER_STRENGTH = {"zoom_in": 0.38, "zoom_out": 0.38, "roll": 0.38 * math.pi / 180}
"""Mean optical flow, in short sides per second, of a motion of strength 1: a square's points are 0.38 sides from its
middle on average. Pans and tilts move every point by their own strength."""


def read_list(jobs: Path, images: Path | None) -> tuple[Listing, bool]:
    """The rows of a job list, and whether it is a workflow, each of whose jobs runs over `images` if they are given.

    Raises BadInput for a list or a workflow that cannot be read.
    """
    if jobs.suffix.lower() == WORKFLOW_SUFFIX and not jobs.is_dir():
        if not jobs.is_file():
            raise BadInput(f"{jobs}: no such folder or file.")
        made = [{**job.values, "ignored": job.ignored} for job in read_workflow(jobs)]
        if images is None:
            return Listing(jobs.parent, [TableRow(values) for values in made]), True
        pictures = read_listing(images, PICTURE_SUFFIXES, "image", COLUMNS)
        rows = [TableRow({**values, **row.values}, row.problem) for values in made for row in pictures.rows]
        return Listing(pictures.folder, rows), True
    if images is not None:
        raise BadInput(f"{images}: --images goes with a ComfyUI workflow, and {jobs} is none (a .json file).")
    return read_listing(jobs, PICTURE_SUFFIXES, "image", COLUMNS), False


class Asking:
    """Turns rows of a listing into resolved jobs; a file is read once, however many rows name it.

    `home` is the folder that models and LoRAs of rows are named from. What a row says goes before what the run says,
    unless the row is a `workflow`'s: a flag that was given is meant to change what stands in the workflow.
    """

    def __init__(self, listing: Listing, home: Path, config: JobsConfig, workflow: bool = False) -> None:
        self.listing, self.home, self.config, self.workflow = listing, home, config, workflow
        self._digest = cache(file_digest)
        self._card = cache(read_card)
        self._calibration = cache(load_calibration)
        self._lora = cache(lambda path: (load_lora(path)[1], file_digest(path)))

    def job(self, number: int, row: TableRow) -> dict[str, Any]:
        """The manifest row of job `number` but for its picture; where it cannot be made, with the reason."""
        image = _printable(str(row.values.get("image") or ""))
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
        model = self._model_name(line)
        name = safe_name(line.key or (f"{line.prefix}-{path.stem}" if line.prefix else path.stem))
        source = {"name": name, "image": str(path), "image_sha256": digest, "priority": line.priority or 0}
        return source | {"key": line.key or digest, "model": model} | self._settings(line, self._card(model))

    def _model_name(self, line: JobLine) -> str:
        """The model of a row: "tiny", a folder as the command line names it, or one as a row names it, from `home`."""
        name = self._pick("model", line.model)
        if name == "tiny" or name != line.model:
            return name
        names = (name, name.removesuffix(".safetensors"))
        folder = next((f for n in names if ((f := self.home / n) / "model_index.json").is_file()), None)
        if folder is None:
            raise BadInput(
                f"{line.image}: model {name}: there is no folder of that model in {self.home}; give --model."
            )
        return str(folder.resolve())

    def _settings(self, line: JobLine, card: ModelCard) -> dict[str, Any]:
        facts, ignored = card.facts, list(line.ignored)
        asked = self._pick("width", line.width, facts.width), self._pick("height", line.height, facts.height)
        size = rounded_size(*asked, card.multiple)
        if size != asked:
            ignored.append(
                f"size {asked[0]}x{asked[1]}: made as {size[0]}x{size[1]}, for sides must divide by {card.multiple}."
            )
        low, high = self.config.guidance or (None, None)
        return {
            **{n: self._pick(n, getattr(line, n)) for n in ("seed", "steps", "motion_strength")},
            **{n: self._pick(n, getattr(line, n), getattr(facts, n)) for n in ("fps", "noise_aug", "frames")},
            "motion_bucket": self._bucket(line, card),
            "guidance_min": self._first(line.guidance_min, low, facts.guidance[0]),
            "guidance_max": self._first(line.guidance_max, high, facts.guidance[1]),
            "width": size[0],
            "height": size[1],
            "model_revision": card.revision,
            "dtype": precision_on(device_named("auto"), self.config.dtype),
            "ignored": ignored or None,
            **self._motion_and_lora(line, card),
        }

    def _bucket(self, line: JobLine, card: ModelCard) -> int:
        """The motion bucket asked for; or that for the strength asked for; or the model's own."""
        given = self._pick("motion_bucket", line.motion_bucket)
        strength, motion = self._pick("motion_strength", line.motion_strength), self._pick("motion", line.motion)
        if given is not None or strength is None:
            return _first(given, card.facts.motion_bucket)
        # Standing still is no motion that a calibration measures.
        if self.config.calibration and motion != "static":
            return self._calibration(self.config.calibration, card.revision).bucket(motion, strength)
        return motion_bucket(strength * FLOW_PER_STRENGTH.get(motion, 1.0))

    def _motion_and_lora(self, line: JobLine, card: ModelCard) -> dict[str, Any]:
        motion, path = self._pick("motion", line.motion), self._lora_path(line)
        lineages: dict[str, Any] = {}
        made_by_lora: tuple[str, ...] = ()
        chosen: dict[str, Any] = {}
        if card.facts.lineage:
            lineages["model"] = _short(card.facts.lineage)
        if path:
            facts, digest = self._lora(path)
            made_by_lora = tuple((facts.lineage.get("train") or {}).get("motions") or ())
            lineages["lora"] = _short(facts.lineage)
            strength = self._pick("lora_strength", line.lora_strength)
            chosen = {"lora": str(path), "lora_sha256": digest, "lora_strength": strength}
        if motion is None and len(made_by_lora) == 1:
            motion = made_by_lora[0]
        # A motion LoRA learns, and so is used, without the word for its motion.
        word = None if motion in made_by_lora else told_as(motion, card.facts.by_regions)
        _check_word(word, card.words)
        lineage = json.dumps(lineages, sort_keys=True) if lineages else None
        return chosen | {"motion": motion, "word": word, "lineage": lineage}

    def _lora_path(self, line: JobLine) -> Path | None:
        """A row names a LoRA from its list's folder, the command line from where it is called."""
        rows = (self.home / line.lora).resolve() if line.lora else None
        return self._first(rows, Path(self.config.lora).resolve() if self.config.lora else None)

    def _pick(self, name: str, own: Any, native: Any = None) -> Any:
        """A setting: the row's or the run's, whichever goes first; or the model's; or the default."""
        return self._first(own, getattr(self.config, name), _first(native, DEFAULTS.get(name)))

    def _first(self, own: Any, run: Any, native: Any = None) -> Any:
        return _first(run, own, native) if self.workflow else _first(own, run, native)


def _check_word(word: str | None, known: frozenset[str]) -> None:
    if unknown := [part for part in words_in(word) if part not in known]:
        names, first = ", ".join(sorted(known)) or "none", unknown[0]
        raise BadInput(f"motion {first!r}: the model does not know it by name (it knows: {names}); give a LoRA for it.")


def _parse(row: TableRow) -> JobLine:
    if row.problem:
        raise BadInput(row.problem)
    try:
        return JobLine.model_validate(dict(row.values))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"column {first['loc'][0]}: {first['msg'].lower()}, not {first.get('input')!r}.") from error


def _printable(text: str) -> str:
    """Text that a table can hold: halves of characters, which JSON can write, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


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
