"""What pages say about a curated dataset: its totals, and the funnel with the reason of each rule.

Everything comes from clips.parquet and videos.parquet; nothing is measured or decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks import keep_rules, keep_verdicts
from tasks.keep_rules import RULES
from tasks.manifest import ManifestRef, read_column_names, read_lineage, read_manifest
from tasks.pages.page import format_count

NEEDS_OF_CLIPS = tuple(
    dict.fromkeys(
        [
            *("clip_id", "video_id", "source", "start_s", "end_s", "start_pts", "end_pts", "shot_start_pts"),
            *("motion_score", "camera_motion", "camera_strength", "caption", "caption_engine"),
            *("keep", "drop_reason", "drop_reasons", "error"),
            *keep_rules.NEEDS,
        ]
    )
)
"""Columns of clips.parquet that are shown: also each that a rule judges, where a dataset has it."""

NEEDS_OF_VIDEOS = (
    "video_id",
    "source",
    "bytes",
    "codec",
    "width",
    "height",
    "fps",
    "duration_s",
    "status",
    "decodes",
    "clips",
    "frame_store",
    "error_message",
)


class FunnelStage(NamedTuple):
    """One rule of the funnel, in clips: those `failing` it, those `removed` by it as their first rule, those failing it
    `only`, and those `left` after it; `share_left` and `share_removed` are shares of all clips, 0 to 1."""

    reason: str
    title: str
    limit: str
    failing: int
    removed: int
    only: int
    left: int
    share_left: float
    share_removed: float


class FunnelChart(NamedTuple):
    """From all clips to those kept; `idle` are the titles of rules that no clip failed.

    `together[i][j]` is the number of clips that fail both stage i and stage j.
    """

    clips: int
    kept: int
    seconds: float
    kept_seconds: float
    stages: list[FunnelStage]
    idle: list[str]
    together: list[list[int]]


@dataclass(frozen=True)
class Dataset:
    """A curated dataset as its tables describe it; `thresholds` are the settings that `select` used."""

    root: Path
    clips: pa.Table
    videos: pa.Table
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Return the length of each clip."""
        return self.clips["end_s"].to_numpy() - self.clips["start_s"].to_numpy()

    @cached_property
    def keep(self) -> NDArray[np.bool_]:
        """Return which clips are kept."""
        return self.clips["keep"].to_numpy().astype(bool)

    @cached_property
    def limits(self) -> dict[str, float]:
        """Return the number that each rule in use cuts at, by its reason; quantiles are resolved."""
        config = keep_rules.SelectConfig.model_validate(dict(self.thresholds))
        single = {"too_short": config.min_clip_s, "no_motion": config.max_still_motion}
        found = keep_rules.find_limits(self.clips, config)[0]
        return found | {reason: limit for reason, limit in single.items() if limit is not None}

    @cached_property
    def shots(self) -> int:
        """Return how many shots the clips come from."""
        return len(self.clips.group_by(["video_id", "shot_start_pts"]).aggregate([]))

    @cached_property
    def stores(self) -> dict[str, str]:
        """Return the frame store of each video, relative to the root."""
        found = self.videos.filter(pc.field("frame_store").is_valid() & (pc.field("status") == "ok"))
        return dict(zip(found["video_id"].to_pylist(), found["frame_store"].to_pylist(), strict=True))


def read_dataset(clips: ManifestRef) -> Dataset:
    """Read the dataset that this clips.parquet belongs to. Raises BadManifest when it lacks what pages show."""
    root = clips.path.parent
    lacking = keep_rules.ABSENT.difference(read_column_names(clips))
    return Dataset(
        root,
        read_manifest(clips, [name for name in NEEDS_OF_CLIPS if name not in lacking]),
        read_manifest(root / "videos.parquet", NEEDS_OF_VIDEOS),
        read_lineage(clips.path).parameters,
    )


def describe_decoding(dataset: Dataset) -> str:
    """Say how often the files were decoded: "8 files were decoded, each once"."""
    decodes = dataset.videos["decodes"].drop_null().to_numpy()
    if not len(decodes):
        return "No file could be decoded"
    often = "once" if decodes.max() == 1 else f"at most {decodes.max()} times"
    return f"{format_count(len(decodes), 'file')} {'was' if len(decodes) == 1 else 'were'} decoded, each {often}"


def make_funnel(dataset: Dataset) -> FunnelChart:
    """Count how many clips each rule removes, alone and together with the others."""
    counted = keep_verdicts.count_funnel(
        keep_rules.Verdict(keep_verdicts.read_bits(dataset.clips["drop_reasons"])), dataset.seconds
    )
    stages, left, clips = [], counted.clips, max(counted.clips, 1)
    used = [place for place, count in enumerate(counted.reasons) if count.failing]
    for count in (counted.reasons[place] for place in used):
        left -= count.first
        title, limit = describe_reason(count.reason, dataset.limits)
        stages.append(
            FunnelStage(
                count.reason,
                title,
                limit,
                count.failing,
                count.first,
                count.only,
                left,
                left / clips,
                count.first / clips,
            )
        )
    idle = [rule.title.lower() for reason, rule in RULES.items() if reason not in {stage.reason for stage in stages}]
    together = [[counted.together[i][j] for j in used] for i in used]
    return FunnelChart(counted.clips, counted.kept, counted.seconds, counted.kept_seconds, stages, idle, together)


def describe_reason(reason: str, limits: Mapping[str, float]) -> tuple[str, str]:
    """Return a reason for readers: its title and its limit as a phrase, empty where there is no number."""
    rule, limit = RULES[reason], limits.get(reason)
    return rule.title, "" if limit is None else rule.words.format(limit, 100 * limit)
