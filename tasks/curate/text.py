"""Text: how much of a clip's picture, inside its black bars, is covered by text, in its first, middle and last stored
frame.

`text_area` is the mean over these frames, and `text_area_max` the maximum, of the share of the picture, 0 to 1, covered
by the union of the text boxes; `text_boxes` is the largest number of boxes in one of them. `text_static_area` is the
share covered by boxes that stay in place in all of these frames, as watermarks and subtitles do. Source: Stable Video
Diffusion (arXiv 2311.15127, C.4), whose detector CRAFT is the engine `easyocr`; `rapidocr` comes with its own weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.measures.craft import find_craft_boxes
from models.measures.text_boxes import find_text_boxes, read_weights_revision
from models.pictures import Frames
from models.weights.hub_cache import ModelName, find_model
from tasks import clip_measures
from tasks.caching import Step
from tasks.curate.video_manifests import ClipRow, VideoManifests, make_clip_rows, measure_video, see_inside_bars
from tasks.manifest import ManifestRef
from tasks.media.frame_store import load_first_middle_last

VERSION = 3

NEEDS = {
    "scan": ("frame_store",),
    "split": ("clip_id", "start_pts", "end_pts", "width", "height"),
    "look": ("clip_id", "bar_top", "bar_bottom", "bar_left", "bar_right"),
}

SCHEMA = clip_measures.make_step_schema(clip_measures.TEXT)

STEP = Step("text", VERSION, SCHEMA)

MASK_SIDE = 1024
"""Longer side of the mask in which boxes are united, in pixels."""

STAYS = 0.7
"""Two boxes are in the same place when this share of the smaller one is inside the other."""

READS = {
    "rapidocr": ("working_side", "min_score", "max_line"),
    "easyocr": ("canvas_side", "text_threshold", "link_threshold", "low_text"),
}
"""The settings that each engine reads."""

Boxes = NDArray[np.floating]
"""Corners [boxes, corners, 2], (x, y) in pixels."""


class TextConfig(BaseModel):
    """What counts as text; see models/measures/text_boxes.py (rapidocr) and models/measures/craft.py (easyocr)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Literal["rapidocr", "easyocr"] = Field(
        default="rapidocr", description="The detector: rapidocr's, with its own weights, or easyocr's CRAFT."
    )
    working_side: int = Field(
        default=256, ge=32, description="rapidocr: short side of the pictures it sees, in pixels."
    )
    min_score: float = Field(default=0.66, ge=0.3, le=1, description="rapidocr: minimum mean probability of text.")
    max_line: float = Field(
        default=0.5, gt=0, le=1, description="rapidocr: thickest line of text, in short sides; thicker ones are shapes."
    )
    craft_weights: ModelName = Field(default="craft.safetensors", description="easyocr: CRAFT's weights.")
    canvas_side: int = Field(
        default=1280, ge=32, description="easyocr: longest side of the pictures it sees, in pixels."
    )
    text_threshold: float = Field(default=0.7, ge=0, le=1, description="easyocr: minimum peak score of a text.")
    link_threshold: float = Field(default=0.4, ge=0, le=1, description="easyocr: minimum score of a link of letters.")
    low_text: float = Field(default=0.4, ge=0, le=1, description="easyocr: minimum score inside a text.")


def list_models(config: TextConfig) -> dict[str, str]:
    """Return the models that the settings ask for, by the setting that names them."""
    return {"craft_weights": config.craft_weights} if config.engine == "easyocr" else {}


def measure_union(boxes: Boxes, height: int, width: int) -> float:
    """Return the share, 0 to 1, of a height x width picture that boxes [boxes, corners, 2] cover together.

    Corners are (x, y) in pixels; what is outside the picture does not count, and overlaps count once.
    """
    scale = MASK_SIDE / max(height, width)
    mask = np.zeros((round(height * scale), round(width * scale)), np.uint8)
    for box in boxes:
        # fillPoly takes fixed-point corners and counts a pixel whose centre it touches.
        corners = np.round((box * scale - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1, shift=4)
    return float(mask.mean())


def find_static_boxes(found: Sequence[Boxes]) -> Boxes:
    """Return the boxes of the middle frame that have a box in the same place in every other frame."""
    middle = found[len(found) // 2]
    stays = [all(any(_is_same_place(box, other) for other in boxes) for boxes in found) for box in middle]
    return middle[np.array(stays, bool)]


def _is_same_place(box: NDArray[np.floating], other: NDArray[np.floating]) -> bool:
    """Return whether the smaller of two boxes [corners, 2] is mostly inside the other; the other may be a longer
    text."""
    first, second = box.astype(np.float32), other.astype(np.float32)
    shared, _ = cv2.intersectConvexConvex(first, second)
    return shared >= STAYS * min(cv2.contourArea(first), cv2.contourArea(second)) > 0


def describe_text(found: Sequence[Boxes], height: int, width: int) -> dict[str, Any]:
    """Return the measured columns from the boxes on each of a clip's frames, height x width."""
    areas = [measure_union(boxes, height, width) for boxes in found]
    return {
        "text_area": float(np.mean(areas)),
        "text_area_max": max(areas),
        "text_static_area": measure_union(find_static_boxes(found), height, width),
        "text_boxes": max(len(boxes) for boxes in found),
    }


def find_boxes(frames: Frames, config: TextConfig) -> list[Boxes]:
    """Find the boxes in each of uint8 RGB frames [frames, height, width, 3], by the engine that is asked for."""
    if config.engine == "rapidocr":
        limits = {"min_score": config.min_score, "max_line": config.max_line}
        return [find_text_boxes(frame, config.working_side, **limits) for frame in frames]
    thresholds = (config.text_threshold, config.link_threshold, config.low_text)
    weights = find_model(config.craft_weights).path
    return list(find_craft_boxes(weights, frames, config.canvas_side, *thresholds))


def measure_clip(store: Path, clip: ClipRow, config: TextConfig) -> dict[str, Any]:
    """Measure one clip of the split, from its frames in `store`; return its columns."""
    frames = see_inside_bars(clip, load_first_middle_last(store, clip["start_pts"], clip["end_pts"]))
    return describe_text(find_boxes(frames, config), *frames.shape[1:3])


def resolve_settings(config: TextConfig) -> tuple[TextConfig, str]:
    """Return the settings that the engine reads, the others at their defaults, and the revision of its weights."""
    read = TextConfig(**config.model_dump(include={"engine", *READS[config.engine]}))
    if config.engine == "rapidocr":
        return read, read_weights_revision()
    revision = find_model(config.craft_weights).revision
    return read.model_copy(update={"craft_weights": revision}), revision


@task(name="text")
def find_text(root: Path, config: TextConfig, videos: Sequence[VideoManifests]) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos."""
    settings, revision = resolve_settings(config)

    def measure(store: Path, clips: Sequence[ClipRow]) -> list[dict[str, Any]]:
        return make_clip_rows(clips, lambda clip: measure_clip(store, clip, config), "text")

    return [measure_video(STEP, root, settings, NEEDS, video, measure, revision) for video in videos]
