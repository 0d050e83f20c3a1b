"""Samples: the kept clips that are exported, each with its file, its caption, its facts, and its split.

The column `side` is the split: train, validation or test. It is chosen by a hash of the source video alone, so adding
sources moves no clip, and clips of one video are never in two splits. Clips that look alike (one `dedup_group`) but
come from videos in different splits would leak: those in the less guarded split are left out, and `left_out` says so.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import BadInput, BadManifest
from tasks.attempts import error_columns
from tasks.caching import Step, find_or_compute
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_rows

VERSION = 1

NEEDS = ("clip_id", "video_id", "start_s", "end_s", "fps", "width", "height", "caption", "dedup_group", "keep")

NEEDS_CUT = (
    "clip_id",
    "cut_path",
    "cut_start_s",
    "cut_end_s",
    "cut_frames",
    "cut_bytes",
    "cut_sha256",
    "error_message",
)

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("side", pa.string()),
        ("left_out", pa.string()),
        ("caption", pa.string()),
        ("video", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("facts", pa.string()),
        *ERROR_FIELDS,
    ]
)
"""`video` is relative to the dataset; `facts` is a JSON object: the clip's row of clips.parquet and of its cut."""

STEP = Step("samples", VERSION, SCHEMA)

SPLITS = ("test", "validation", "train")
"""The splits, the most guarded first."""


class HoldOutConfig(BaseModel):
    """The shares of source videos that are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(default=0.05, ge=0, le=1, description="Share of source videos for validation.")
    test: float = Field(default=0.05, ge=0, le=1, description="Share of source videos for the test.")
    seed: int = Field(default=0, description="Another seed chooses other videos.")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation + self.test > 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) are together more than 1")
        return self


def choose_split(video_id: str, config: HoldOutConfig) -> str:
    """Return the split of a source video: it depends only on the video's content and the seed."""
    drawn = int(hashlib.sha256(f"{config.seed}:{video_id}".encode()).hexdigest()[:13], 16) / 16**13
    if drawn < config.test:
        return "test"
    return "validation" if drawn < config.test + config.validation else "train"


def assign_splits(clips: Sequence[Mapping[str, Any]], config: HoldOutConfig) -> list[tuple[str | None, str | None]]:
    """Return for each clip its split and None, or None and why it is left out."""
    own = [choose_split(clip["video_id"], config) for clip in clips]
    guarded: dict[str, str] = {}
    for clip, split in zip(clips, own, strict=True):
        group = clip["dedup_group"]
        if group is not None:
            guarded[group] = min(guarded.get(group, split), split, key=SPLITS.index)
    strongest = [guarded.get(clip["dedup_group"], split) for clip, split in zip(clips, own, strict=True)]
    return [
        (split, None) if split == other else (None, f"looks like a clip in {other}")
        for split, other in zip(own, strongest, strict=True)
    ]


def make_samples(
    clips: Sequence[Mapping[str, Any]], cuts: Mapping[str, Mapping[str, Any]], config: HoldOutConfig
) -> list[dict[str, Any]]:
    """Return a row for each kept clip, ordered by name; a clip that failed to be cut has the error and no split."""
    kept = sorted((clip for clip in clips if clip["keep"]), key=lambda clip: clip["clip_id"])
    return [
        _make_row(clip, cuts[clip["clip_id"]], split, left_out)
        for clip, (split, left_out) in zip(kept, assign_splits(kept, config), strict=True)
    ]


def _make_row(
    clip: Mapping[str, Any], cut: Mapping[str, Any], split: str | None, left_out: str | None
) -> dict[str, Any]:
    row = {name: clip[name] for name in ("clip_id", "video_id", "caption")} | {"attempt": 1}
    if Path(clip["clip_id"]).name != clip["clip_id"]:
        wrong = f"{clip['clip_id']!r}: is no name of a clip, so no file is named by it. Make its table again."
        return row | error_columns(BadManifest(wrong))
    if cut["error_message"]:
        return row | {"error_code": cut["error_code"], "error_message": cut["error_message"]}
    known = {name: value for name, value in {**clip, **cut}.items() if name not in LOCAL and value is not None}
    facts = json.dumps(known, sort_keys=True, ensure_ascii=False)
    place = {"video": cut["cut_path"], "bytes": cut["cut_bytes"], "sha256": cut["cut_sha256"]}
    return row | place | {"side": split, "left_out": left_out, "facts": facts}


LOCAL = ("keep", "drop_reason", "drop_reasons", "error", "note", "cut_path", "attempt", "error_code", "error_message")
"""The columns that have no meaning outside the dataset."""


@task(name="samples")
def collect_samples(
    out: Path, config: HoldOutConfig, dataset: Path, clips: ManifestRef, cuts: list[ManifestRef]
) -> ManifestRef:
    """Collect the samples of the dataset's kept clips, below `out`; raises BadInput where no clip is kept."""

    def compute(_: str) -> pa.Table:
        known = {row["clip_id"]: row for cut in cuts for row in read_rows(cut)}
        rows = make_samples(read_rows(clips), known, config)
        if not rows:
            raise BadInput(f"{dataset}: no clip is kept. Loosen the thresholds with `reelmill select`.")
        return make_table(rows, SCHEMA)

    return find_or_compute(STEP, out, config, [clips, *cuts], compute)
