"""Text: how much of a clip's picture is covered by text, in its first, middle and last stored frame.

`text_area` is the mean over these frames, and `text_area_max` the largest, of the share of the picture, 0 to 1, covered
by the union of the text boxes; `text_boxes` is the largest number of boxes on one of them. Source: Stable Video
Diffusion (arXiv 2311.15127, C.4), with rapidocr's detector in the place of CRAFT.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.errors import ReelmillError
from models.text_boxes import find_text_boxes, weights_revision
from tasks.caching import Step, cached
from tasks.frames import first_middle_last
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of

VERSION = 1

NEEDS_OF_SCAN = ("frame_store",)

NEEDS = ("clip_id", "start_pts", "end_pts")
"""Columns of the split that this step reads."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("text_area", pa.float32()),
        ("text_area_max", pa.float32()),
        ("text_boxes", pa.int32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("text", VERSION, SCHEMA)

MASK_SIDE = 1024
"""Longer side of the mask in which boxes are united, in pixels."""


class TextConfig(BaseModel):
    """What counts as text; see models/text_boxes.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    working_side: int = Field(default=256, ge=32, description="Short side of the pictures in which text is looked for.")
    min_score: float = Field(default=0.66, ge=0.3, le=1, description="Least mean probability of text in a box.")
    max_line: float = Field(
        default=0.5, gt=0, le=1, description="Thickest line of text, in short sides; thicker is a shape."
    )


def union_area(boxes: NDArray[np.floating], height: int, width: int) -> float:
    """The share, 0 to 1, of a height x width picture that boxes [boxes, corners, 2] cover together.

    Corners are (x, y) in pixels; what lies outside the picture does not count, and overlaps count once.
    """
    scale = MASK_SIDE / max(height, width)
    mask = np.zeros((round(height * scale), round(width * scale)), np.uint8)
    for box in boxes:
        # fillPoly takes fixed-point corners and counts a pixel whose centre it touches.
        corners = np.round((box * scale - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1, shift=4)
    return float(mask.mean())


def columns_of(areas: list[float], counts: list[int]) -> dict[str, Any]:
    """The measured columns from each frame's area and number of boxes."""
    return {"text_area": float(np.mean(areas)), "text_area_max": max(areas), "text_boxes": max(counts)}


def measure_clip(store: Path, clip: dict[str, Any], config: TextConfig) -> dict[str, Any]:
    """The row of one clip of the split, from its frames in `store`; nulls and the reason when it cannot be measured."""
    row = {"clip_id": clip["clip_id"], "attempt": 1}
    try:
        frames = first_middle_last(store, clip["start_pts"], clip["end_pts"])
        found = [find_text_boxes(frame, **config.model_dump()) for frame in frames]
        areas = [union_area(boxes, *frame.shape[:2]) for boxes, frame in zip(found, frames, strict=True)]
        return row | columns_of(areas, [len(boxes) for boxes in found])
    except ReelmillError as error:
        return row | {"error_code": error.code, "error_message": str(error)}


def measure_video(root: Path, config: TextConfig, scan: ManifestRef, split: ManifestRef) -> ManifestRef:
    """The text of one video's clips below `root`: found, or measured."""

    def compute(_: str) -> pa.Table:
        stores = [root / row["frame_store"] for row in read_rows(scan, NEEDS_OF_SCAN) if row["frame_store"]]
        rows = [measure_clip(store, clip, config) for store in stores for clip in read_rows(split, NEEDS)]
        return table_of(rows, SCHEMA)

    return cached(STEP, root, config, [scan, split], compute, weights_revision())


@task(name="text", cache_policy=NO_CACHE)
def find_text(root: Path, config: TextConfig, videos: list[tuple[ManifestRef, ManifestRef]]) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos, each given by its scan and its split."""
    return [measure_video(root, config, scan, split) for scan, split in videos]
