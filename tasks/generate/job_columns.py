"""Every setting and column of a job, declared once: its type, range, description and default, and where it goes.

The settings of a run, the columns of a table, the jobs' manifest and its keys, the inputs of a ComfyUI workflow, the
sidecar of a clip, the table of outputs, the gallery and the help are made of this declaration. What a setting does is
the business of the step that uses it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator

from models.device import DTYPE_HELP, AskedPrecision
from models.generation.long_clips import Way
from models.given_files import read_comma
from models.pictures import Background, Fit
from models.weights.names import MODEL_HELP

LONGEST_TEXT = 10_000
"""Characters of a prompt."""


class In(Flag):
    """Where a column goes."""

    RUN = auto()
    """It is a setting of a run: a flag, a line of YAML, a field of Prefect's form."""
    ROW = auto()
    """A table of jobs may have it, and a row's goes before the run's."""
    CLIP = auto()
    """It decides the clip: it is in the item's key, and the sidecar says it."""
    FILE = auto()
    """It decides a clip's file and not its frames: the sidecar says it, and rows that differ in it share latents."""
    OUTPUTS = auto()
    """The table of outputs keeps it under its own name."""


ASKED = In.RUN | In.ROW

ITSELF = In(0)
"""It goes nowhere but into the jobs' manifest."""

SETTING = ASKED | In.CLIP | In.OUTPUTS


@dataclass(frozen=True)
class Column:
    """Where a column of JobColumns goes; without a `type` it is only asked, and resolved into others.

    `shown` is how the gallery says it among a clip's facts: a text with a place for the value, or a text for each
    value. `nodes` are the inputs of ComfyUI's nodes that set it, as KIND.INPUT. Where nothing says otherwise, it is as
    the column that it `follows`.
    """

    type: pa.DataType | None
    where: In = ITSELF
    shown: str | Mapping[str, str] | None = None
    nodes: tuple[str, ...] = ()
    follows: str | None = None

    def said(self, value: Any) -> str:
        """Return the text that the gallery says a value with."""
        return self.shown[value] if isinstance(self.shown, Mapping) else self.shown or "{}"


Guidance = Annotated[float, Field(ge=0, le=100)]

_CONDITIONING = "SVD_img2vid_Conditioning"


class JobColumns(BaseModel):
    """A job, as a row of a table asks for it and as the jobs' manifest has it; in the order of the table of outputs.

    The descriptions of what only a row has are said in brackets after its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    job: Annotated[int | None, Column(pa.int32())] = Field(default=None, description="its place in the list")
    name: Annotated[str | None, Column(pa.string())] = Field(default=None, description="of its files")
    image: Annotated[str | None, Column(pa.string(), In.ROW)] = Field(
        default=None, min_length=1, description="the picture's file, from the table's own folder"
    )
    item_key: Annotated[str | None, Column(pa.string())] = Field(default=None, description="names the clip")
    prefix: Annotated[str | None, Column(pa.string(), In.ROW | In.FILE)] = Field(
        default=None, description="of the file's name"
    )
    seed: Annotated[int | None, Column(pa.int64(), SETTING, "seed <b>{}</b>")] = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="The run's seed, 0 if not given; each item draws its own noise from it",
    )
    takes: Annotated[int, Column(None, In.RUN)] = Field(
        default=1, ge=1, le=64, description="Clips of each job, each from its own noise"
    )
    take: Annotated[int | None, Column(pa.int32(), In.CLIP)] = Field(default=None, description="which of the takes")
    motion: Annotated[str | None, Column(pa.string(), ASKED | In.CLIP)] = Field(
        default=None, description="Camera motion asked of every clip, for example pan_left"
    )
    motion_strength: Annotated[float | None, Column(pa.float64(), ASKED | In.CLIP)] = Field(
        default=None,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="Its speed: short sides, log of magnification, or degrees per second",
    )
    steps: Annotated[int | None, Column(pa.int32(), SETTING, "<b>{}</b> steps", ("KSampler.steps",))] = Field(
        default=None, ge=1, le=1000, description="Denoising steps, the family's own if not given"
    )
    fps: Annotated[float | None, Column(pa.float64(), SETTING, "<b>{}</b> frames a second")] = Field(
        default=None, gt=1, le=240, description="Frames per second; as the model was trained if not given"
    )
    playback_fps: Annotated[
        float | None,
        Column(
            pa.float64(),
            ASKED | In.FILE | In.OUTPUTS,
            "played at <b>{}</b> a second",
            (
                "CreateVideo.fps",
                "SaveWEBM.fps",
                "SaveAnimatedWEBP.fps",
                "SaveAnimatedPNG.fps",
                "VHS_VideoCombine.frame_rate",
            ),
            follows="fps",
        ),
    ] = Field(
        default=None,
        gt=0,
        le=240,
        description="Frames per second that the file plays at, which the model is not told; those of fps if not given",
    )
    motion_bucket: Annotated[
        int | None, Column(pa.int32(), SETTING, "bucket <b>{}</b>", (f"{_CONDITIONING}.motion_bucket_id",))
    ] = Field(
        default=None, ge=0, le=255, description="Amount of motion; by its strength, or the model's own, if not given"
    )
    calibration: Annotated[Path | None, Column(None, In.RUN)] = Field(
        default=None, description="File of `reelmill calibrate`: the bucket for a strength is as the model was measured"
    )
    guidance: Annotated[tuple[Guidance, Guidance] | None, Column(None, In.RUN)] = Field(
        default=None, description="Guidance at the first and last frame, as 1,3"
    )
    guidance_min: Annotated[Guidance | None, Column(pa.float64(), In.ROW | In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="at the first frame"
    )
    guidance_max: Annotated[Guidance | None, Column(pa.float64(), In.ROW | In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="at the last frame"
    )
    noise_aug: Annotated[
        float | None, Column(pa.float64(), SETTING, nodes=(f"{_CONDITIONING}.augmentation_level",))
    ] = Field(default=None, ge=0, le=10, description="Deviation of the noise added to the picture")
    frames: Annotated[int | None, Column(pa.int32(), SETTING, nodes=(f"{_CONDITIONING}.video_frames",))] = Field(
        default=None, ge=2, le=1000, description="Frames of a clip; the model's own if not given"
    )
    longer: Annotated[
        Way | None,
        Column(pa.string(), SETTING, {"windows": "by windows over time", "chain": "as a chain of clips"}),
    ] = Field(
        default=None,
        description="How a clip of more frames than the model's own is made: by windows over time, which share the "
        "picture (if not given), or as a chain of clips that ends where it stops being good",
    )
    width: Annotated[int | None, Column(pa.int32(), SETTING, nodes=(f"{_CONDITIONING}.width",))] = Field(
        default=None, ge=8, le=8192, description="Width in pixels; the model's own if not given"
    )
    height: Annotated[int | None, Column(pa.int32(), SETTING, nodes=(f"{_CONDITIONING}.height",))] = Field(
        default=None, ge=8, le=8192, description="Height in pixels; the model's own if not given"
    )
    image_sha256: Annotated[str | None, Column(pa.string(), In.OUTPUTS)] = Field(
        default=None, description="of the picture's file"
    )
    picture: Annotated[str | None, Column(pa.string(), In.OUTPUTS)] = Field(
        default=None, description="the picture at the model's size, a file of the run's folder"
    )
    picture_sha256: Annotated[str | None, Column(pa.string())] = Field(default=None, description="of its pixels")
    fit: Annotated[Fit, Column(pa.string(), In.RUN | In.OUTPUTS)] = Field(
        default="crop", description="How a picture comes to the model's size"
    )
    background: Annotated[Background, Column(pa.string(), In.RUN | In.OUTPUTS)] = Field(
        default="white", description="What shows through transparent pictures and beside padded ones"
    )
    key: Annotated[str | None, Column(pa.string(), In.ROW | In.OUTPUTS)] = Field(
        default=None, description="names the noise"
    )
    word: Annotated[str | None, Column(pa.string(), In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="what the model is told of the motion; null where a LoRA alone is to make it"
    )
    model: Annotated[str | None, Column(pa.string(), ASKED | In.OUTPUTS)] = Field(
        default=None, description=f"The model: {MODEL_HELP}, which is also the default"
    )
    family: Annotated[str | None, Column(pa.string(), In.CLIP | In.OUTPUTS, "{}")] = Field(
        default=None, description="of the model"
    )
    prompt: Annotated[str | None, Column(pa.string(), SETTING)] = Field(
        default=None, max_length=LONGEST_TEXT, description="Text of every clip; a row's own goes before it"
    )
    negative_prompt: Annotated[str | None, Column(pa.string(), SETTING)] = Field(
        default=None, max_length=LONGEST_TEXT, description="Text of what no clip is to show"
    )
    picture_model: Annotated[str | None, Column(pa.string(), ASKED | In.OUTPUTS)] = Field(
        default=None,
        description="A text-to-image model, named alike: it draws the picture where only a text is given",
    )
    picture_model_revision: Annotated[str | None, Column(pa.string(), In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="of the model that draws the picture; without one the texts are the clip's own"
    )
    model_revision: Annotated[str | None, Column(pa.string(), In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="of the model"
    )
    lora: Annotated[
        str | None, Column(pa.string(), ASKED | In.OUTPUTS, "LoRA <b>{}</b>", ("LoraLoaderModelOnly.lora_name",))
    ] = Field(default=None, description="LoRA file put on the model for every clip")
    lora_sha256: Annotated[str | None, Column(pa.string(), In.CLIP | In.OUTPUTS)] = Field(
        default=None, description="of the LoRA's file"
    )
    lora_strength: Annotated[
        float | None,
        Column(pa.float64(), SETTING, "LoRA's strength <b>{}</b>", ("LoraLoaderModelOnly.strength_model",)),
    ] = Field(default=None, ge=-10, le=10, description="The LoRA's effect, 1 as trained")
    dtype: Annotated[AskedPrecision, Column(pa.string(), In.RUN | In.CLIP | In.OUTPUTS)] = Field(
        default="auto", description=DTYPE_HELP
    )
    lineage: Annotated[str | None, Column(pa.string(), In.OUTPUTS)] = Field(
        default=None, description="what the model and the LoRA learned from"
    )
    priority: Annotated[int | None, Column(pa.int32(), In.ROW | In.OUTPUTS)] = Field(
        default=None, ge=-(2**31), lt=2**31, description="the highest first"
    )
    ignored: Annotated[tuple[str, ...], Column(pa.list_(pa.string()), In.OUTPUTS)] = Field(
        default=(), description="what was asked and is not honoured"
    )
    converted: Annotated[tuple[str, ...], Column(pa.list_(pa.string()), In.OUTPUTS)] = Field(
        default=(), description="how the colours of the picture became sRGB"
    )
    further: Annotated[str | None, Column(pa.string(), In.FILE)] = Field(
        default=None, description="what the table's further columns say, as a JSON object"
    )
    status: Annotated[str | None, Column(pa.string())] = Field(default=None, description="ready, failed or duplicate")

    @field_validator("*", mode="before")
    @classmethod
    def _read_comma(cls, value: Any, info: ValidationInfo) -> Any:
        """Return a number's text with a decimal point."""
        return read_comma(value) if COLUMNS[str(info.field_name)].type == pa.float64() else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        """Raise ValueError for true and false: no column has them, and pydantic takes them for 1 and 0."""
        if isinstance(value, bool):
            raise ValueError("must be a number or a text")
        return value


COLUMNS: Mapping[str, Column] = {
    name: next(each for each in info.metadata if isinstance(each, Column))
    for name, info in JobColumns.model_fields.items()
}

KEYED = (
    "key", "picture_sha256", "seed", "take", "motion", "motion_strength", "word", "steps", "fps", "motion_bucket",
    "guidance_min", "guidance_max", "noise_aug", "frames", "longer", "width", "height", "family", "prompt",
    "negative_prompt", "picture_model_revision", "model_revision", "lora_sha256", "lora_strength", "dtype",
)  # fmt: skip
"""What every item's key is made of, in the order in which it is: one that changed would make every clip again. A newer
setting is in the keys of those clips alone that it changes."""

Row = Mapping[str, Any]

View = TypeVar("View", bound=type[BaseModel])


def settings_of_run(view: View) -> View:
    """Return a class that stands for a subclass of JobColumns as a model of the run's settings alone."""
    fields: dict[str, Any] = {
        n: (JobColumns.model_fields[n].annotation, JobColumns.model_fields[n]) for n in in_(In.RUN)
    }
    config = ConfigDict(frozen=True, extra="forbid")
    named = {"__doc__": view.__doc__, "__module__": view.__module__}
    return cast(View, create_model(view.__name__, __config__=config, **named, **fields))


def in_(where: In) -> tuple[str, ...]:
    """Return the names of the columns that go there."""
    return tuple(name for name, column in COLUMNS.items() if where in column.where)


def fields_of(*names: str) -> tuple[pa.Field, ...]:
    """Return columns as fields of a schema."""
    return tuple(pa.field(name, COLUMNS[name].type) for name in names)


def inputs_of(kind: str) -> dict[str, str]:
    """Return the inputs of a kind of ComfyUI's nodes that set a column, by the column."""
    own = [(name, *node.split(".")) for name, column in COLUMNS.items() for node in column.nodes]
    return {name: entry for name, of, entry in own if of == kind}


def spoken_columns(*apart: str) -> str:
    """Return the names of what a table may have but for those `apart`, each that is no setting of a run with what it
    is."""
    names = [name for name in in_(In.ROW) if name not in apart]
    *first, last = [n if n in in_(In.RUN) else f"{n} ({JobColumns.model_fields[n].description})" for n in names]
    return f"{', '.join(first)} and {last}"


def decided(row: Row, where: In) -> dict[str, Any]:
    """Return what a row says otherwise than the rows of before there were these settings: those that are newer than
    KEYED, and that it does not leave as they are anyway."""
    newer = {name: COLUMNS[name].follows for name in in_(where) if name not in KEYED}
    return {n: row[n] for n, same in newer.items() if row.get(n) is not None and row[n] != row.get(same or "")}


def item_key(row: Row) -> str:
    """Return what names a clip: the same for the same noise, picture, settings and weights."""
    return _digest([*(row.get(name) for name in KEYED), *decided(row, In.CLIP).items()])


def file_key(row: Row) -> str:
    """Return what names a clip's file, in any format: the clip's key where nothing is asked of the file; "" where
    there is no clip."""
    clip, own = row.get("item_key") or "", decided(row, In.FILE)
    return _digest([clip, own]) if own and clip else clip


def without_defaults(said: Row) -> dict[str, Any]:
    """Return what a file's sidecar says, without what of it decided nothing: files of before are found by that."""
    left_out = {*in_(In.FILE)} - {*decided(said, In.FILE)}
    return {name: value for name, value in said.items() if name not in left_out}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
