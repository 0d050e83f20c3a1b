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
from tasks.cleanest import BLOCK_GRACE, CLEANNESS, DETAIL_GRACE, TEXT_GRACE, read_cleanness
from tasks.clip_columns import encode_values, measure_seconds, read_floats
from tasks.clip_measures import find_excused
from tasks.keep_rules import (
    AXES,
    LENGTH,
    PRESETS,
    REASONS,
    RULES,
    Axis,
    SelectConfig,
    find_limits,
)
from tasks.pages.dataset import Dataset
from tasks.pages.page import file_name, format_clock
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


def describe_panel(dataset: Dataset, reel: Reel, previews: int) -> dict[str, Any]:
    """Return what the panel's script works on, ready for JSON; `previews` is the number of clips with pictures for each
    axis."""
    rows = np.unique(np.linspace(0, max(len(dataset.clips) - 1, 0), min(len(dataset.clips), TUNED)).astype(np.int64))
    clips = dataset.clips.take(pa.array(rows))
    config = SelectConfig.model_validate(dict(dataset.thresholds))
    arrays = make_arrays(clips)
    used = [axis for axis in (LENGTH, *AXES) if np.isfinite(arrays[axis.column]).any()]
    shown = choose_rows(clips, arrays, used, config, previews)
    pictures = [preview for row in shown if (preview := _make_preview(clips, row, reel))]
    return {
        "folder": str(dataset.root.resolve()),
        "clips": len(dataset.clips),
        "columns": {name: pack(values) for name, values in arrays.items()},
        "axes": [describe_axis(axis) for axis in AXES],
        "cards": [describe_axis(axis) for axis in used],
        "graces": {"text": TEXT_GRACE, "detail": DETAIL_GRACE, "blocks": BLOCK_GRACE},
        "reasons": REASONS,
        "titles": {reason: rule.title for reason, rule in RULES.items()},
        "motions": MOTIONS,
        "marks": MARKS,
        "config": config.model_dump(mode="json"),
        "presets": {name: preset().model_dump(mode="json") for name, preset in PRESETS.items()},
        "previews": pictures,
    }


def describe_axis(axis: Axis) -> dict[str, Any]:
    """Return an axis as the script reads it: what it judges, and the title and unit of its card."""
    unit = f"{axis.measure.unit}, at {'most' if axis.upper else 'least'}"
    judged = {name: getattr(axis, name) for name in ("reason", "column", "limit", "quantile", "upper")}
    return judged | {"optional": bool(axis.measure.absent), "title": axis.slider, "unit": unit}


def make_arrays(clips: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the columns that the rules read, as arrays; NaN, -1 or UNMEASURED for null."""
    nothing = np.full(len(clips), np.nan, np.float32)
    names = dict.fromkeys(axis.column for axis in AXES) | {"change": None}
    measured = {name: read_floats(clips, name) if name in clips.column_names else nothing for name in names}
    motions = [MOTIONS.index(name) if name in MOTIONS else UNMEASURED for name in clips["camera_motion"].to_pylist()]
    pixels = clips["width"].fill_null(0).to_numpy() * clips["height"].fill_null(0).to_numpy()
    return {name: values.astype(np.float32) for name, values in measured.items()} | {
        "seconds": measure_seconds(clips),
        "group": encode_values(clips, "dedup_group").astype(np.int32),
        "shot": renumber(encode_values(clips, "video_id", "shot_start_pts")),
        "pixels": pixels.astype(np.int32),
        **{name: read_cleanness(clips, name) for name in CLEANNESS},
        "camera": np.array(motions, np.uint8),
        "excused": find_excused(clips).astype(np.uint8),
    }


def renumber(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Renumber the values from 0, in the same order."""
    return np.unique(values, return_inverse=True)[1].ravel().astype(np.int32)


def pack(values: NDArray[Any]) -> dict[str, str]:
    """Return an array for a page: the name of its type, little endian, and its bytes in base64."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return {"type": little.dtype.str, "bytes": base64.b64encode(little.tobytes()).decode()}


def choose_rows(
    clips: pa.Table, arrays: Mapping[str, NDArray[Any]], axes: list[Axis], config: SelectConfig, count: int
) -> list[int]:
    """Choose rows of clips to picture: `count` for each axis, some near its limit, some spread over all ranks."""
    limits, _ = find_limits(clips, config)
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


def _make_preview(clips: pa.Table, row: int, reel: Reel) -> dict[str, Any] | None:
    clip = clips.slice(row, 1).to_pylist()[0]
    strip = reel.strip(clip, PREVIEW_FRAMES, PREVIEW_SIDE)
    if strip is None:
        return None
    name = f"{file_name(clip['source'])} at {format_clock(clip['start_s'])}"
    size = {"frames": strip.frames, "width": strip.width, "height": strip.height}
    return {"row": row, "name": name, "url": strip.url, **size}
