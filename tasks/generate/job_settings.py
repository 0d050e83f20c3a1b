"""What jobs are asked with: the settings of a run, the columns of a table's row, and the rows of a list.

A list is a folder of pictures, a table, a text with a prompt on each line, or a ComfyUI workflow.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.device import DTYPE_HELP, AskedPrecision
from models.errors import BadInput
from models.generation.long_clips import Way
from models.pictures import PICTURE_SUFFIXES, Background, Fit
from models.weights.names import MODEL_HELP
from tasks.generate.comfyui_jobs import read_workflow
from tasks.item_lists import Listing, TableRow, read_listing

WORKFLOW_SUFFIX = ".json"

LONGEST_TEXT = 10_000
"""Characters of a prompt."""


Guidance = Annotated[float, Field(ge=0, le=100)]


class JobsConfig(BaseModel):
    """What a job is made with: a table's row may say otherwise, and a setting given here overrides a workflow's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(default=None, description=f"The model: {MODEL_HELP}, which is also the default")
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="The run's seed, 0 if not given; each item draws its own noise from it",
    )
    takes: int = Field(default=1, ge=1, le=64, description="Clips of each job, each from its own noise")
    prompt: str | None = Field(default=None, description="Text of every clip; a row's own goes before it")
    negative_prompt: str | None = Field(default=None, description="Text of what no clip is to show")
    picture_model: str | None = Field(
        default=None,
        description="A text-to-image model, named alike: it draws the picture where only a text is given",
    )
    motion: str | None = Field(default=None, description="Camera motion asked of every clip, for example pan_left")
    motion_strength: float | None = Field(
        default=None, ge=0, le=1000, description="Its speed: short sides, log of magnification, or degrees per second"
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps, the family's own if not given")
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
    longer: Way | None = Field(
        default=None,
        description="How a clip of more frames than the model's own is made: by windows over time, which share the "
        "picture (if not given), or as a chain of clips that ends where it stops being good",
    )
    motion_bucket: int | None = Field(
        default=None, ge=0, le=255, description="Amount of motion; by its strength, or the model's own, if not given"
    )
    calibration: Path | None = Field(
        default=None, description="File of `reelmill calibrate`: the bucket for a strength is as the model was measured"
    )
    guidance: tuple[Guidance, Guidance] | None = Field(
        default=None, description="Guidance at the first and last frame, as 1,3"
    )
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

    image: str | None = Field(default=None, min_length=1)
    prompt: str | None = Field(default=None, min_length=1, max_length=LONGEST_TEXT)
    negative_prompt: str | None = Field(default=None, max_length=LONGEST_TEXT)
    picture_model: str | None = None
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
    longer: Way | None = None
    motion_bucket: int | None = Field(default=None, ge=0, le=255)
    guidance_min: Guidance | None = None
    guidance_max: Guidance | None = None
    noise_aug: float | None = Field(default=None, ge=0, le=10)
    lora: str | None = None
    lora_strength: float | None = Field(default=None, ge=-10, le=10)
    ignored: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        """Raises ValueError for true and false: no column has them, and pydantic takes them for 1 and 0."""
        if isinstance(value, bool):
            raise ValueError("input should be no truth value")
        return value


COLUMNS = tuple(name for name in JobLine.model_fields if name != "ignored")


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
    return read_listing(jobs, PICTURE_SUFFIXES, "image", COLUMNS, instead="prompt"), False
