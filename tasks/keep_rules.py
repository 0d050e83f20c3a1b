"""Which clips to keep: thresholds, and the rules that compare each clip's measurements with them.

Everything here is a pure function of the columns of clips.parquet. It does not load Prefect, whose import takes longer
than judging a million clips.

A threshold is a number, or a quantile: the share of all measured clips to drop at that end of the axis, as the Stable
Video Diffusion paper sets them (arXiv 2311.15127, appendix E). Where both are given, the stricter one is used. Equal
values are never separated: of n different values the lowest floor(q n) are dropped; of values equal to the limit, none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.measures.camera import MotionClass
from tasks.cleanest import find_repeats
from tasks.clip_columns import Values, is_measured, measure_seconds, read_floats
from tasks.clip_measures import MEASURES, STILL_CHANGE, Measure, find_excused

Mask = NDArray[np.bool_]
Bits = NDArray[np.uint16]

GRACE_S = 1e-6
"""A length that is exact as a fraction may be this much below its threshold in floating point."""


@dataclass(frozen=True)
class Rule:
    """A reason to drop a clip, with its title and its limit as a phrase for readers: {0} is the number, {1} in
    percent."""

    reason: str
    title: str
    words: str = ""


@dataclass(frozen=True)
class Axis(Rule):
    """A rule that cuts off one end of a measured column, at the setting `limit` or at a share, the setting `quantile`.

    `slider` is the title of its card in the report's tuning panel.
    """

    column: str = field(kw_only=True)
    slider: str = field(kw_only=True)
    quantile: str | None = field(default=None, kw_only=True)
    upper: bool = field(default=False, kw_only=True)
    limit: str = field(default="", kw_only=True)

    @property
    def measure(self) -> Measure:
        """Return the column that is judged."""
        return MEASURES[self.column]


def _declare_quantile(reason: str, end: str, of: str) -> Any:
    return Field(default=None, ge=0, lt=1, description=f"{reason}: share of clips with the {end} {of}, 0 to 1.")


class SelectConfig(BaseModel):
    """The thresholds, each with the rule that it turns on; none (null in a file) turns one off.

    The rules are checked in this order. Each description begins with the reason that its rule gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_clip_s: Annotated[
        float | None, Axis("too_short", "Too short", "under {0:g} s", column="seconds", slider="Length")
    ] = Field(
        default=1.0,
        ge=0,
        description="too_short: clips shorter than this, in seconds, or of too few frames to measure.",
    )
    min_contrast: Annotated[
        float | None, Axis("no_picture", "No picture", "contrast under {0:g}", column="contrast", slider="Contrast")
    ] = Field(default=2.0, ge=0, description="no_picture: deviation of luma, 0 to 255, below this.")
    max_text_area: Annotated[
        float | None,
        Axis(
            "too_much_text",
            "Too much text",
            "over {1:.3g}% of the picture",
            column="text_area",
            quantile="text_area_quantile",
            upper=True,
            slider="Text",
        ),
    ] = Field(default=0.07, ge=0, le=1, description="too_much_text: share of the picture above this.")
    text_area_quantile: float | None = _declare_quantile("too_much_text", "highest", "text area")
    max_still_motion: Annotated[float | None, Rule("no_motion", "Nothing moves", "under {0:g} sides/s")] = Field(
        default=0.005, ge=0, description="no_motion: motion score below this, in sides/s, if change is also low."
    )
    max_still_change: float = Field(
        default=STILL_CHANGE, ge=0, description="no_motion: change below this, 0 to 255, if motion is also low."
    )
    max_frozen_s: Annotated[
        float | None,
        Axis("frozen", "Freezes", "for more than {0:.3g} s", column="frozen_s", upper=True, slider="Longest freeze"),
    ] = Field(default=None, ge=0, description="frozen: the picture stands still for longer than this, in seconds.")
    min_motion: Annotated[
        float | None,
        Axis(
            "low_motion",
            "Little motion",
            "under {0:.3g} sides/s",
            column="motion_score",
            quantile="motion_quantile",
            slider="Motion",
        ),
    ] = Field(default=None, ge=0, description="low_motion: motion score below this, in sides/s.")
    motion_quantile: float | None = _declare_quantile("low_motion", "lowest", "motion score")
    max_motion: Annotated[
        float | None,
        Axis(
            "too_much_motion",
            "Too much motion",
            "over {0:.3g} sides/s",
            column="motion_score",
            upper=True,
            slider="Motion, upper end",
        ),
    ] = Field(default=None, gt=0, description="too_much_motion: motion score above this, in sides/s.")
    min_aesthetic: Annotated[
        float | None,
        Axis(
            "low_aesthetic",
            "Low aesthetic score",
            "under {0:.3g}",
            column="aesthetic",
            quantile="aesthetic_quantile",
            slider="Aesthetic score",
        ),
    ] = Field(default=None, description="low_aesthetic: aesthetic score below this.")
    aesthetic_quantile: float | None = _declare_quantile("low_aesthetic", "lowest", "aesthetic score")
    min_clip_similarity: Annotated[
        float | None,
        Axis(
            "low_similarity",
            "Caption and picture differ",
            "likeness under {0:.3g}",
            column="clip_similarity",
            quantile="clip_similarity_quantile",
            slider="Likeness of caption and picture",
        ),
    ] = Field(default=None, ge=-1, le=1, description="low_similarity: likeness of caption and picture below this.")
    clip_similarity_quantile: float | None = _declare_quantile(
        "low_similarity", "lowest", "likeness of caption and picture"
    )
    min_sharpness: Annotated[
        float | None,
        Axis(
            "not_sharp",
            "Not sharp",
            "under {0:.3g}",
            column="sharpness",
            quantile="sharpness_quantile",
            slider="Sharpness",
        ),
    ] = Field(default=None, ge=0, description="not_sharp: sharpness, 0 to 1, below this.")
    sharpness_quantile: float | None = _declare_quantile("not_sharp", "lowest", "sharpness")
    drop_motions: Annotated[tuple[MotionClass, ...], Rule("unwanted_motion", "Unwanted camera motion")] = Field(
        default=(), description="unwanted_motion: clips with these camera motions."
    )
    drop_duplicates: Annotated[bool, Rule("duplicate", "Looks like another clip")] = Field(
        default=True, description="duplicate: all but one shot of those that look alike."
    )


def _list_rules() -> Iterator[Rule]:
    """Yield the rules in the order of their settings; whether a clip could be measured comes after its length."""
    for setting, declared in SelectConfig.model_fields.items():
        for rule in (each for each in declared.metadata if isinstance(each, Rule)):
            yield replace(rule, limit=setting) if isinstance(rule, Axis) else rule
            if rule.reason == "too_short":
                yield Rule("measurement_failed", "Could not be measured")


RULES: Mapping[str, Rule] = {rule.reason: rule for rule in _list_rules()}
"""Every rule by its reason, in the order in which the rules are checked."""

REASONS = tuple(RULES)

LENGTH, *AXES = (rule for rule in RULES.values() if isinstance(rule, Axis))
"""The axes; a clip's length is judged to the microsecond, and is no column."""

NEEDS = tuple(
    dict.fromkeys(
        [
            *("video_id", "start_s", "end_s", "shot_start_pts", "width", "height", "change", "camera_motion"),
            *(axis.column for axis in AXES),
            *("fineness", "blockiness", "sharpness"),
            "dedup_group",
            "note",
        ]
    )
)
"""Columns of the joined clips that the rules read; the others pass through."""

ABSENT = frozenset(("note", *(name for name in NEEDS if name in MEASURES and MEASURES[name].absent)))
"""Those of them that a dataset may lack: a rule on such a column is ignored."""


@dataclass(frozen=True)
class Verdict:
    """Which clips fail which rules: bit i of `bits` [clips] stands for REASONS[i], 0 for a clip that is kept.

    `limits` has the number that each axis was cut at, by reason; `skipped` a sentence for each setting ignored.
    """

    bits: Bits
    limits: Mapping[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


def judge_clips(clips: pa.Table, config: SelectConfig) -> Verdict:
    """Judge the clips; a needed measurement that is null fails `measurement_failed` and no other rule, or `too_short`
    if that rule is on and the clip too short to be measured."""
    limits, skipped = find_limits(clips, config)
    failing: dict[str, Mask] = {}
    needed = [axis.column for axis in AXES if axis.reason in limits]
    excused = find_excused(clips) & (config.min_clip_s is not None)
    if config.min_clip_s is not None:
        failing["too_short"] = (measure_seconds(clips) < config.min_clip_s - GRACE_S) | excused
    for axis in AXES:
        if axis.reason in limits:
            values = read_floats(clips, axis.column)
            limit = values.dtype.type(limits[axis.reason])
            failing[axis.reason] = values > limit if axis.upper else values < limit
    if config.max_still_motion is not None:
        needed += ["motion_score", "change"]
        motion, change = read_floats(clips, "motion_score"), read_floats(clips, "change")
        still = motion < motion.dtype.type(config.max_still_motion)
        failing["no_motion"] = still & (change < change.dtype.type(config.max_still_change))
    if config.drop_motions:
        needed.append("camera_motion")
        failing["unwanted_motion"] = _match_names(clips["camera_motion"], config.drop_motions)
    failing["measurement_failed"] = _find_unmeasured(clips, needed) & ~excused
    bits = np.zeros(len(clips), np.uint16)
    for reason, mask in failing.items():
        bits |= mask.astype(np.uint16) << REASONS.index(reason)
    if config.drop_duplicates:
        bits |= find_repeats(clips, bits == 0).astype(np.uint16) << REASONS.index("duplicate")
    return Verdict(bits, limits, skipped)


def find_limits(clips: pa.Table, config: SelectConfig) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the number that each axis in use is cut at, by reason, and a sentence for each setting that is ignored."""
    limits: dict[str, float] = {}
    skipped: list[str] = []
    for axis in AXES:
        absolute = getattr(config, axis.limit)
        share = getattr(config, axis.quantile) if axis.quantile else None
        measured = is_measured(clips, axis.column)
        if not measured:
            idle = {axis.limit: absolute} if axis.measure.absent else {}
            idle |= {axis.quantile: share} if axis.quantile else {}
            skipped += [_format_ignored(axis, name, value) for name, value in idle.items() if value is not None]
            absolute, share = None if axis.measure.absent else absolute, None
        cuts = [] if absolute is None else [absolute]
        if share is not None:
            cuts.append(find_cut(read_floats(clips, axis.column), share, axis.upper))
        if cuts:
            limits[axis.reason] = float(min(cuts) if axis.upper else max(cuts))
    return limits, tuple(skipped)


def find_cut(values: Values, share: float, upper: bool = False) -> float:
    """Return the limit beyond which this share of the finite values is, at the lower or the upper end; see the
    module."""
    finite = values[np.isfinite(values)]
    # A share such as 0.29 of 100 is 28.999... in floating point.
    dropped = int(np.floor(share * len(finite) + 1e-9))
    place = len(finite) - 1 - dropped if upper else dropped
    return float(np.partition(finite, place)[place])


def paper() -> SelectConfig:
    """Return the thresholds that the Stable Video Diffusion paper chose: drop a quarter by motion, aesthetics and text,
    and half by CLIP score; and its rule that text covers at most 7 % of the picture."""
    return SelectConfig(
        motion_quantile=0.25, aesthetic_quantile=0.25, text_area_quantile=0.25, clip_similarity_quantile=0.5
    )


def worst(share: float) -> SelectConfig:
    """Return thresholds that drop the same share on each of the paper's axes, as in its search: 0.125, 0.25 or 0.5."""
    return SelectConfig(
        motion_quantile=share, aesthetic_quantile=share, text_area_quantile=share, clip_similarity_quantile=share
    )


def keep_all() -> SelectConfig:
    """Return thresholds that keep every clip, measured or not."""
    return SelectConfig(
        min_clip_s=None, min_contrast=None, max_text_area=None, max_still_motion=None, drop_duplicates=False
    )


def training() -> SelectConfig:
    """Return thresholds for training: clips at least 2 seconds long, clearly moving, without text."""
    return SelectConfig(min_clip_s=2.0, min_motion=0.02, max_text_area=0.03)


PRESETS: Mapping[str, Callable[[], SelectConfig]] = {
    "default": SelectConfig,
    "keep-all": keep_all,
    "training": training,
    "paper": paper,
    "worst-12.5": lambda: worst(0.125),
    "worst-25": lambda: worst(0.25),
    "worst-50": lambda: worst(0.5),
}
"""Thresholds by name; each sets all of them."""


def _format_ignored(axis: Axis, setting: str, value: float) -> str:
    return f"{setting} {value:g} is ignored: nobody measured {axis.column}, so nothing is dropped by it"


def _find_unmeasured(clips: pa.Table, columns: list[str]) -> Mask:
    failed = np.zeros(len(clips), bool)
    for name in dict.fromkeys(columns):
        column = clips[name]
        is_text = not pa.types.is_floating(column.type)
        failed |= column.is_null().to_numpy() if is_text else np.isnan(read_floats(clips, name))
    return failed


def _match_names(column: pa.ChunkedArray, names: tuple[str, ...]) -> Mask:
    encoded = column.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    wanted = np.array([*(name in names for name in encoded.dictionary.to_pylist()), False])
    return wanted[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
