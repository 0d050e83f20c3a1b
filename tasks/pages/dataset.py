"""What pages tell of a curated dataset: its totals, and the funnel with the reason of each rule.

Everything comes from clips.parquet and videos.parquet; nothing is measured or decided here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
)

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
    """A rule for readers: its title, and its threshold's setting and sentence."""

    title: str
    setting: str = ""
    limit: str = ""


RULES = {
    "too_short": Words("Too short", "min_clip_s", "under {:g} s"),
    "measurement_failed": Words("Could not be measured"),
    "no_picture": Words("No picture", "min_contrast", "contrast under {:g}"),
    "too_much_text": Words("Too much text", "max_text_area", "over {:.0%} of the picture"),
    "no_motion": Words("Nothing moves", "max_still_motion", "under {:g} sides/s"),
    "low_motion": Words("Little motion", "min_motion", "under {:.3g} sides/s"),
    "too_much_motion": Words("Too much motion", "max_motion", "over {:.3g} sides/s"),
    "low_aesthetic": Words("Low aesthetic score", "min_aesthetic", "under {:.3g}"),
    "low_similarity": Words("Caption and picture differ", "min_clip_similarity", "likeness under {:.3g}"),
    "not_sharp": Words("Not sharp", "min_sharpness", "under {:.3g}"),
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
    """From all clips to those kept; `idle` are the titles of rules that no clip failed."""

    clips: int
    kept: int
    seconds: float
    kept_seconds: float
    stages: list[Stage]
    idle: list[str]


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
    return Dataset(
        root,
        read_manifest(clips, NEEDS_OF_CLIPS),
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
    every = dataset.clips["drop_reasons"].combine_chunks()
    first = dataset.clips["drop_reason"].combine_chunks()
    lone = pa.array(np.diff(every.offsets.to_numpy()) == 1)
    failing, removed, only = (_counts(reasons) for reasons in (every.flatten(), first, first.filter(lone)))
    stages, left, clips = [], len(dataset.clips), max(len(dataset.clips), 1)
    for reason in ordered(failing):
        gone = removed.get(reason, 0)
        left -= gone
        title, limit = titled(reason, dataset.thresholds)
        counts = (failing[reason], gone, only.get(reason, 0), left)
        stages.append(Stage(reason, title, limit, *counts, left / clips, gone / clips))
    idle = [words.title.lower() for reason, words in RULES.items() if reason not in failing]
    seconds = float(dataset.seconds.sum()), float(dataset.seconds[dataset.keep].sum())
    return Funnel(len(dataset.clips), int(dataset.keep.sum()), *seconds, stages, idle)


def ordered(reasons: Iterable[str]) -> list[str]:
    """Reasons in the order in which they are asked, unknown ones last by name."""
    known = list(RULES)
    return sorted(reasons, key=lambda reason: (known.index(reason) if reason in RULES else len(known), reason))


def titled(reason: str, thresholds: Mapping[str, Any]) -> tuple[str, str]:
    """A reason for readers: its title and its threshold, empty where there is none."""
    words = RULES.get(reason, Words(reason.replace("_", " ").capitalize()))
    threshold = thresholds.get(words.setting)
    return words.title, "" if threshold is None else words.limit.format(threshold)


def _counts(reasons: pa.Array) -> dict[str, int]:
    return {count["values"]: count["counts"] for count in reasons.value_counts().to_pylist() if count["values"]}
