"""The tuning panel: what a page needs to decide on a dataset's clips again, without a server, as `reelmill select`
does.

Numbers go into the page as typed arrays in base64, one value per clip; pictures only of some clips, spread over each
axis and dense around its current limit. With more clips than `TUNED`, the panel has an even sample of them, and the
page says so.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.measures.camera import MOTIONS
from tasks.keep_rules import (
    AXES,
    LENGTH,
    PRESETS,
    REASONS,
    RULES,
    Axis,
    SelectConfig,
    codes,
    floats,
    limits_of,
    seconds_of,
)
from tasks.pages.dataset import Dataset
from tasks.pages.page import clock, file_name
from tasks.pages.sheets import Reel

TUNED = 200_000
"""The largest number of clips whose numbers go into a page, 50 bytes each."""

MARKS = (0.125, 0.25, 0.5)
"""Quantiles that the Stable Video Diffusion paper tried, offered as marks."""

PREVIEW_FRAMES, PREVIEW_SIDE = 4, 128

NEAR_SHARE = 0.5
"""The share of an axis' previews that is next to its current limit; the others cover its whole range."""

UNMEASURED = 255
"""The number of a camera motion that is null."""


def panel(dataset: Dataset, reel: Reel, previews: int) -> dict[str, Any]:
    """Return what the panel's script works on, ready for JSON; `previews` is the number of clips with pictures for each
    axis."""
    rows = np.unique(np.linspace(0, max(len(dataset.clips) - 1, 0), min(len(dataset.clips), TUNED)).astype(np.int64))
    clips = dataset.clips.take(pa.array(rows))
    config = SelectConfig.model_validate(dict(dataset.thresholds))
    arrays = arrays_of(clips)
    used = [axis for axis in (LENGTH, *AXES) if np.isfinite(arrays[axis.column]).any()]
    shown = chosen(clips, arrays, used, config, previews)
    pictures = [preview for row in shown if (preview := _preview(clips, row, reel))]
    return {
        "folder": str(dataset.root.resolve()),
        "clips": len(dataset.clips),
        "columns": {name: packed(values) for name, values in arrays.items()},
        "axes": [for_page(axis) for axis in AXES],
        "cards": [for_page(axis) for axis in used],
        "reasons": REASONS,
        "titles": {reason: rule.title for reason, rule in RULES.items()},
        "motions": MOTIONS,
        "marks": MARKS,
        "config": config.model_dump(mode="json"),
        "presets": {name: preset().model_dump(mode="json") for name, preset in PRESETS.items()},
        "previews": pictures,
    }


def for_page(axis: Axis) -> dict[str, Any]:
    """Return an axis as the script reads it: what it judges, and the title and unit of its card."""
    unit = f"{axis.measure.unit}, at {'most' if axis.upper else 'least'}"
    judged = {name: getattr(axis, name) for name in ("reason", "column", "limit", "quantile", "upper")}
    return judged | {"optional": bool(axis.measure.absent), "title": axis.slider, "unit": unit}


def arrays_of(clips: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the columns that the rules read, as arrays; NaN, -1 or UNMEASURED for null."""
    nothing = np.full(len(clips), np.nan, np.float32)
    names = dict.fromkeys(axis.column for axis in AXES) | {"change": None}
    measured = {name: floats(clips, name) if name in clips.column_names else nothing for name in names}
    motions = [MOTIONS.index(name) if name in MOTIONS else UNMEASURED for name in clips["camera_motion"].to_pylist()]
    pixels = clips["width"].fill_null(0).to_numpy() * clips["height"].fill_null(0).to_numpy()
    return {name: values.astype(np.float32) for name, values in measured.items()} | {
        "seconds": seconds_of(clips),
        "group": codes(clips, "dedup_group").astype(np.int32),
        "shot": codes_in_order(codes(clips, "video_id", "shot_start_pts")),
        "pixels": pixels.astype(np.int32),
        "sharp": np.nan_to_num(measured["sharpness"].astype(np.float64)),
        "camera": np.array(motions, np.uint8),
    }


def codes_in_order(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Renumber the values from 0, in the same order."""
    return np.unique(values, return_inverse=True)[1].ravel().astype(np.int32)


def packed(values: NDArray[Any]) -> dict[str, str]:
    """Return an array for a page: the name of its type, little endian, and its bytes in base64."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return {"type": little.dtype.str, "bytes": base64.b64encode(little.tobytes()).decode()}


def chosen(
    clips: pa.Table, arrays: Mapping[str, NDArray[Any]], axes: list[Axis], config: SelectConfig, count: int
) -> list[int]:
    """Choose rows of clips to picture: `count` for each axis, some near its limit, some spread over all ranks."""
    limits, _ = limits_of(clips, config)
    if config.min_clip_s is not None:
        limits["too_short"] = config.min_clip_s
    rows: set[int] = set()
    for axis in axes:
        values = arrays[axis.column]
        order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]
        near = int(count * NEAR_SHARE) if axis.reason in limits else 0
        place = int(np.searchsorted(values[order], limits.get(axis.reason, 0)))
        start = max(0, min(place - near // 2, len(order) - near))
        spread = np.linspace(0, len(order) - 1, min(count - near, len(order))).astype(int)
        rows |= {*order[start : start + near].tolist(), *order[spread].tolist()}
    return sorted(rows)


def _preview(clips: pa.Table, row: int, reel: Reel) -> dict[str, Any] | None:
    clip = clips.slice(row, 1).to_pylist()[0]
    strip = reel.strip(clip, PREVIEW_FRAMES, PREVIEW_SIDE)
    if strip is None:
        return None
    name = f"{file_name(clip['source'])} at {clock(clip['start_s'])}"
    size = {"frames": strip.frames, "width": strip.width, "height": strip.height}
    return {"row": row, "name": name, "url": strip.url, **size}
