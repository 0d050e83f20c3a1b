"""Select: decides which clips are kept, and writes clips.parquet.

The rules are pure functions of the columns of that file, so that it alone is enough to decide again. Each dropped clip
has every reason against it in `drop_reasons`, and the first of them, in the order of REASONS, in `drop_reason`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.camera import MotionClass
from models.errors import BadInput
from tasks.caching import Step, lineage_of
from tasks.manifest import ManifestRef, read_lineage, read_manifest, write_manifest

VERSION = 1

NEEDS = (
    "clip_id",
    "video_id",
    "start_s",
    "end_s",
    "shot_start_pts",
    "contrast",
    "text_area",
    "motion_score",
    "change",
    "camera_motion",
    "dedup_group",
)
"""Columns of the joined clips that the rules read; the others pass through."""

SCHEMA = pa.schema([("keep", pa.bool_()), ("drop_reason", pa.string()), ("drop_reasons", pa.list_(pa.string()))])
"""The columns that this step adds."""

STEP = Step("select", VERSION, SCHEMA)


class SelectConfig(BaseModel):
    """The thresholds; null turns a rule off. Each description begins with the reason that the rule gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_clip_s: float | None = Field(default=1.0, ge=0, description="too_short: clips shorter than this, in seconds.")
    min_contrast: float | None = Field(
        default=2.0, ge=0, description="no_picture: deviation of luma, 0 to 255, below this."
    )
    max_text_area: float | None = Field(
        default=0.07, ge=0, le=1, description="too_much_text: share of the picture above this."
    )
    min_motion: float | None = Field(
        default=0.005, ge=0, description="no_motion: motion score below this, in sides/s, and"
    )
    max_still_change: float = Field(
        default=0.05, ge=0, description="no_motion: frames that change less, 0 to 255: a freeze."
    )
    max_motion: float | None = Field(
        default=None, gt=0, description="too_much_motion: motion score above this, in sides/s."
    )
    drop_motions: tuple[MotionClass, ...] = Field(
        default=(), description="unwanted_motion: clips whose camera moves so."
    )
    drop_duplicates: bool = Field(default=True, description="duplicate: all but one shot of those that look alike.")


class ReasonCount(BaseModel):
    """How many clips fail one rule: at all, as their first reason, and as their only one."""

    model_config = ConfigDict(frozen=True)

    reason: str
    failing: int
    first: int
    only: int


class Funnel(BaseModel):
    """What became of all clips; `reasons` in the order of the rules, those that dropped nothing included."""

    model_config = ConfigDict(frozen=True)

    clips: int
    kept: int
    seconds: float
    kept_seconds: float
    reasons: tuple[ReasonCount, ...]


class Selection(BaseModel):
    """clips.parquet as written, and its funnel."""

    model_config = ConfigDict(frozen=True)

    clips: ManifestRef
    funnel: Funnel


Columns = dict[str, NDArray[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """A reason to drop a clip, the columns it looks at, whether it is on, and which clips fail it.

    Columns are arrays [clips] with NaN or None for null; what is null fails no rule but `measurement_failed`.
    """

    reason: str
    needs: tuple[str, ...]
    on: Callable[[SelectConfig], bool]
    fails: Callable[[Columns, SelectConfig], Mask]


RULES = (
    Rule(
        "no_picture",
        ("contrast",),
        lambda config: config.min_contrast is not None,
        lambda clips, config: clips["contrast"] < config.min_contrast,
    ),
    Rule(
        "too_much_text",
        ("text_area",),
        lambda config: config.max_text_area is not None,
        lambda clips, config: clips["text_area"] > config.max_text_area,
    ),
    Rule(
        "no_motion",
        ("motion_score", "change"),
        lambda config: config.min_motion is not None,
        lambda clips, config: (clips["motion_score"] < config.min_motion) & (clips["change"] < config.max_still_change),
    ),
    Rule(
        "too_much_motion",
        ("motion_score",),
        lambda config: config.max_motion is not None,
        lambda clips, config: clips["motion_score"] > config.max_motion,
    ),
    Rule(
        "unwanted_motion",
        ("camera_motion",),
        lambda config: bool(config.drop_motions),
        lambda clips, config: np.isin(clips["camera_motion"].astype(str), config.drop_motions),
    ),
)

REASONS = ("too_short", "measurement_failed", *(rule.reason for rule in RULES), "duplicate")
"""Every reason, in the order in which they are asked."""


def decide(clips: pa.Table, config: SelectConfig) -> pa.Table:
    """The clips with the columns of SCHEMA; whatever verdict they had is replaced. A pure function."""
    clips = clips.drop_columns([name for name in SCHEMA.names if name in clips.column_names])
    failing = np.zeros((len(clips), len(REASONS)), bool)
    # A microsecond of grace: a length that is exact as a fraction may fall short in floating point.
    failing[:, 0] = _seconds(clips) < (config.min_clip_s or 0.0) - 1e-6
    for column, rule in enumerate(RULES, start=2):
        if rule.on(config):
            failing[:, column] = rule.fails({name: clips[name].to_numpy() for name in rule.needs}, config)
            for name in rule.needs:
                failing[:, 1] |= clips[name].is_null().to_numpy()
    if config.drop_duplicates:
        failing[:, -1] = repeated(clips, np.logical_not(failing.any(axis=1)))
    for field, values in zip(SCHEMA, _verdict(failing), strict=True):
        clips = clips.append_column(field, values)
    return clips


def repeated(clips: pa.Table, eligible: NDArray[Any]) -> Mask:
    """Which clips repeat another: of each `dedup_group`, all but those of the shot with the most eligible seconds.

    Only `eligible` clips, those no other rule drops, are worth keeping: a group without any has no repetitions.
    """
    group, shot = _codes(clips, "dedup_group"), _codes(clips, "video_id", "shot_start_pts")
    grouped = np.flatnonzero((group >= 0) & eligible)
    shots, member = np.unique(np.stack([group[grouped], shot[grouped]], axis=1), axis=0, return_inverse=True)
    worth = np.bincount(member.ravel(), weights=_seconds(clips)[grouped], minlength=len(shots))
    ranked = shots[np.lexsort((shots[:, 1], -worth, shots[:, 0]))]
    groups, best = np.unique(ranked[:, 0], return_index=True)
    wanted = np.full(len(clips) + 1, -1)
    wanted[groups] = ranked[best, 1]
    return (wanted[group] >= 0) & (wanted[group] != shot)


def funnel_of(clips: pa.Table) -> Funnel:
    """The funnel of decided clips."""
    seconds, keep = _seconds(clips), clips["keep"].to_numpy().astype(bool)
    first, every = clips["drop_reason"].combine_chunks(), clips["drop_reasons"].combine_chunks()
    lone = np.diff(every.offsets.to_numpy()) == 1
    failing, dropped, only = (
        {count["values"]: count["counts"] for count in reasons.value_counts().to_pylist()}
        for reasons in (every.flatten(), first, first.filter(pa.array(lone)))
    )
    return Funnel(
        clips=len(clips),
        kept=int(keep.sum()),
        seconds=float(seconds.sum()),
        kept_seconds=float(seconds[keep].sum()),
        reasons=tuple(
            ReasonCount(reason=r, failing=failing.get(r, 0), first=dropped.get(r, 0), only=only.get(r, 0))
            for r in REASONS
        ),
    )


@task(name="select", cache_policy=NO_CACHE)
def select_clips(root: Path, config: SelectConfig, joined: ManifestRef) -> Selection:
    """Decide on the joined clips, and write clips.parquet below `root`."""
    return _select(root, config, read_manifest(joined), (joined.digest,))


def reselect(root: Path, config: SelectConfig) -> Selection:
    """Decide again on the clips of the dataset at `root`, from its clips.parquet alone; raises BadInput without one."""
    path = root / "clips.parquet"
    if not path.is_file():
        raise BadInput(f"{root}: not a dataset, it has no clips.parquet. Make one with `reelmill curate`.")
    read_manifest(path, NEEDS)
    return _select(root, config, read_manifest(path), read_lineage(path).inputs)


def _select(root: Path, config: SelectConfig, clips: pa.Table, inputs: tuple[str, ...]) -> Selection:
    decided = decide(clips, config)
    written = write_manifest(root / "clips.parquet", decided, lineage_of(STEP, config, inputs))
    return Selection(clips=written, funnel=funnel_of(decided))


def _verdict(failing: Mask) -> tuple[pa.Array, pa.Array, pa.Array]:
    """keep, drop_reason and drop_reasons from which rules fail, [clips, rules]."""
    keep = ~failing.any(axis=1)
    names = pa.array(REASONS)
    first = names.take(pa.array(failing.argmax(axis=1), mask=keep))
    ends = np.concatenate([[0], np.cumsum(failing.sum(axis=1))]).astype(np.int32)
    every = pa.ListArray.from_arrays(ends, names.take(pa.array(np.nonzero(failing)[1])))
    return pa.array(keep), first, every


def _seconds(clips: pa.Table) -> NDArray[np.float64]:
    return clips["end_s"].to_numpy() - clips["start_s"].to_numpy()


def _codes(clips: pa.Table, *names: str) -> NDArray[np.int64]:
    """A number for each combination of the columns' values, in the order of first appearance; -1 for null."""
    codes = np.zeros(len(clips), np.int64)
    for name in names:
        column = clips[name].combine_chunks().dictionary_encode()
        index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes = np.where((index < 0) | (codes < 0), -1, codes * len(column.dictionary) + index)
    return codes
