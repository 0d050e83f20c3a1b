"""What pages tell of a curated dataset: its totals, and the funnel with the reason of each rule.

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
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks import keep_rules, keep_verdicts
from tasks.manifest import ManifestRef, read_lineage, read_manifest
from tasks.pages.page import plural

NEEDS_OF_CLIPS = (
    "clip_id",
    "video_id",
    "source",
    "start_s",
    "end_s",
    "start_pts",
    "end_pts",
    "shot_start_pts",
    "motion_score",
    "camera_motion",
    "camera_strength",
    "text_area",
    "caption",
    "caption_engine",
    "clip_similarity",
    "aesthetic",
    "dedup_group",
    "keep",
    "drop_reason",
    "drop_reasons",
    "error",
    "width",
    "height",
    "contrast",
    "change",
)

ALSO_OF_CLIPS = ("sharpness",)
"""Columns of clips.parquet that are shown where a dataset has them."""

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


class Words(NamedTuple):
    """A rule for readers: its title, and its limit as a sentence: 0 is the number, 1 in percent."""

    title: str
    limit: str = ""


RULES = {
    "too_short": Words("Too short", "under {0:g} s"),
    "measurement_failed": Words("Could not be measured"),
    "no_picture": Words("No picture", "contrast under {0:g}"),
    "too_much_text": Words("Too much text", "over {1:.3g}% of the picture"),
    "no_motion": Words("Nothing moves", "under {0:g} sides/s"),
    "low_motion": Words("Little motion", "under {0:.3g} sides/s"),
    "too_much_motion": Words("Too much motion", "over {0:.3g} sides/s"),
    "low_aesthetic": Words("Low aesthetic score", "under {0:.3g}"),
    "low_similarity": Words("Caption and picture differ", "likeness under {0:.3g}"),
    "not_sharp": Words("Not sharp", "under {0:.3g}"),
    "unwanted_motion": Words("Unwanted camera motion"),
    "duplicate": Words("Looks like another clip"),
}
"""The reasons to drop a clip, in the order in which they are asked."""


class Stage(NamedTuple):
    """One rule of the funnel, in clips: `failing` it at all, `removed` by it as the first, failing it `only`, and how
    many are `left` after it; `share_left` and `share_removed` are of all clips, 0 to 1."""

    reason: str
    title: str
    limit: str
    failing: int
    removed: int
    only: int
    left: int
    share_left: float
    share_removed: float


class Funnel(NamedTuple):
    """From all clips to those kept; `idle` are the titles of rules that no clip failed.

    `together[i][j]` is the number of clips that fail both stage i and stage j.
    """

    clips: int
    kept: int
    seconds: float
    kept_seconds: float
    stages: list[Stage]
    idle: list[str]
    together: list[list[int]]


@dataclass(frozen=True)
class Dataset:
    """A curated dataset as its tables tell it; `thresholds` are the settings that `select` used."""

    root: Path
    clips: pa.Table
    videos: pa.Table
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """The length of each clip."""
        return self.clips["end_s"].to_numpy() - self.clips["start_s"].to_numpy()

    @cached_property
    def keep(self) -> NDArray[np.bool_]:
        """Which clips are kept."""
        return self.clips["keep"].to_numpy().astype(bool)

    @cached_property
    def limits(self) -> dict[str, float]:
        """The number that each rule in use cuts at, by its reason, quantiles resolved."""
        config = keep_rules.SelectConfig.model_validate(dict(self.thresholds))
        single = {"too_short": config.min_clip_s, "no_motion": config.max_still_motion}
        found = keep_rules.limits_of(self.clips, config)[0]
        return found | {reason: limit for reason, limit in single.items() if limit is not None}

    @cached_property
    def shots(self) -> int:
        """How many shots the clips come from."""
        return len(self.clips.group_by(["video_id", "shot_start_pts"]).aggregate([]))

    @cached_property
    def stores(self) -> dict[str, str]:
        """The frame store of each video, relative to the root."""
        found = self.videos.filter(pc.field("frame_store").is_valid() & (pc.field("status") == "ok"))
        return dict(zip(found["video_id"].to_pylist(), found["frame_store"].to_pylist(), strict=True))


def read_dataset(clips: ManifestRef) -> Dataset:
    """The dataset that this clips.parquet belongs to; raises BadManifest when it lacks what pages show."""
    root = clips.path.parent
    columns = pq.read_schema(clips.path).names
    return Dataset(
        root,
        read_manifest(clips, (*NEEDS_OF_CLIPS, *(name for name in ALSO_OF_CLIPS if name in columns))),
        read_manifest(root / "videos.parquet", NEEDS_OF_VIDEOS),
        read_lineage(clips.path).parameters,
    )


def decoding(dataset: Dataset) -> str:
    """How often the files were decoded, in words: "8 files were decoded, each once"."""
    decodes = dataset.videos["decodes"].drop_null().to_numpy()
    if not len(decodes):
        return "No file could be decoded"
    often = "once" if decodes.max() == 1 else f"at most {decodes.max()} times"
    return f"{plural(len(decodes), 'file')} {'was' if len(decodes) == 1 else 'were'} decoded, each {often}"


def funnel_of(dataset: Dataset) -> Funnel:
    """How many clips each rule removes, alone and together with the others."""
    counted = keep_verdicts.funnel_of(
        keep_rules.Verdict(keep_verdicts.bits_of(dataset.clips["drop_reasons"])), dataset.seconds
    )
    stages, left, clips = [], counted.clips, max(counted.clips, 1)
    used = [place for place, count in enumerate(counted.reasons) if count.failing]
    for count in (counted.reasons[place] for place in used):
        left -= count.first
        title, limit = titled(count.reason, dataset.limits)
        stages.append(
            Stage(
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
    idle = [words.title.lower() for reason, words in RULES.items() if reason not in {stage.reason for stage in stages}]
    together = [[counted.together[i][j] for j in used] for i in used]
    return Funnel(counted.clips, counted.kept, counted.seconds, counted.kept_seconds, stages, idle, together)


def titled(reason: str, limits: Mapping[str, float]) -> tuple[str, str]:
    """A reason for readers: its title and what it was cut at, empty where there is no number."""
    words = RULES[reason]
    limit = limits.get(reason)
    return words.title, "" if limit is None else words.limit.format(limit, 100 * limit)
