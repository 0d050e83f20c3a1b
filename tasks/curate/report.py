"""The report of a dataset: one page that shows what was kept, what was dropped and why, for a person to look at and
tune.

It contains everything it shows and opens from disk. Its size is bounded: it shows some clips of each group and says how
many there are.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from tasks.clip_columns import is_measured
from tasks.keep_rules import AXES, RULES
from tasks.manifest import ManifestRef, publish_text, read_rows
from tasks.pages.dataset import Dataset, FunnelChart, describe_decoding, describe_reason, make_funnel, read_dataset
from tasks.pages.page import file_name, format_clock, format_duration, render
from tasks.pages.sheets import Reel, Sheet, group_rows, make_kept_sheets, make_sheet
from tasks.pages.tuning import describe_panel

VERSION = 2

PAGE = Path("report/index.html")

CUTS = "cuts.parquet"
"""The dataset's table of clips that were cut to files, if any were."""

TEMPLATE = Path(__file__).with_name("report.html.j2")


class ReportConfig(BaseModel):
    """How much the page shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept_per_motion: int = Field(default=12, ge=0, description="Kept clips shown for each class of camera motion")
    dropped_per_reason: int = Field(default=8, ge=0, description="Dropped clips shown for each reason")
    duplicate_groups: int = Field(default=12, ge=0, description="Groups of duplicates shown")
    previews: int = Field(default=32, ge=0, description="Clips with pictures for each axis of the tuning panel")
    rows: int = Field(default=300, ge=0, description="Rows shown of each table")


def list_figures(dataset: Dataset, funnel: FunnelChart) -> list[tuple[str, str, str]]:
    """Return the page's main figures: name, value, and a remark beside it."""
    used = dataset.videos.filter(pc.field("status") == "ok")
    unused = len(dataset.videos) - len(used)
    return [
        ("files", f"{len(dataset.videos):,}", f"{unused:,} not used" if unused else ""),
        ("footage", format_duration(sum(used["duration_s"].drop_null().to_pylist())), ""),
        ("shots", f"{dataset.shots:,}", ""),
        ("clips kept", f"{funnel.kept:,}", f"of {funnel.clips:,}"),
        ("kept footage", format_duration(funnel.kept_seconds), ""),
    ]


def list_remarks(dataset: Dataset) -> list[str]:
    """Return notes on the figures: who wrote the captions, and what was not measured."""
    engines = sorted(set(dataset.clips["caption_engine"].drop_null().to_pylist()))
    captions = {"attributes": "Captions are sentences composed from these measurements; no network saw the pictures."}
    lines = [captions.get(engine, f"Captions are by {engine}.") for engine in engines]
    judged = dict.fromkeys(axis.measure for axis in AXES if not is_measured(dataset.clips, axis.column))
    missing: dict[str, list[str]] = {}
    for measure in (each for each in judged if each.absent):
        missing.setdefault(measure.absent, []).append(measure.words)
    return [*lines, *(f"Not measured: {' and '.join(words)}. {why}" for why, words in missing.items())]


def make_dropped_sheets(reel: Reel, cap: int) -> list[tuple[str, str, Sheet]]:
    """Return the dropped clips by the first rule they fail: its title, its threshold, and the clips; duplicates are
    shown elsewhere."""
    groups = group_rows(reel.dataset, "drop_reason", ~reel.dataset.keep)
    sheets = []
    for reason in (name for name in RULES if name in groups and name != "duplicate"):
        sheet = make_sheet(reel, reason, groups[reason], cap)
        for clip in sheet.cards:
            clip["others"] = [RULES[name].title.lower() for name in clip["drop_reasons"] if name != reason]
        sheets.append((*describe_reason(reason, reel.dataset.limits), sheet))
    return sheets


def duplicate_groups(reel: Reel, cap: int) -> tuple[list[Sheet], int]:
    """Return up to `cap` groups of clips that look alike, with at most four clips of each, and how many groups are left
    out."""
    groups = group_rows(reel.dataset, "dedup_group", reel.dataset.clips["dedup_group"].is_valid().to_numpy())
    shown = list(groups.items())[:cap]
    return [make_sheet(reel, name, rows, 4) for name, rows in shown], len(groups) - len(shown)


def list_failures(dataset: Dataset, rows: int) -> tuple[list[tuple[str, str]], int]:
    """Return the first `rows` files that could not be read and clips that could not be measured or cut, each with the
    reason, and how many more there are."""
    unread = dataset.videos.filter(pc.field("status") == "unreadable").select(["source", "error_message"])
    wrong = dataset.clips.filter(pc.field("error").is_valid()).select(["source", "start_s", "error"])
    files = [
        (file_name(row["source"]), row["error_message"].removeprefix(f"{row['source']}: "))
        for row in unread.slice(0, rows).to_pylist()
    ]
    clips = [(_format_place(row), row["error"]) for row in wrong.slice(0, rows).to_pylist()]
    cuts = list_uncut(dataset)
    shown = [*files, *clips, *cuts][:rows]
    return shown, len(unread) + len(wrong) + len(cuts) - len(shown)


def list_uncut(dataset: Dataset) -> list[tuple[str, str]]:
    """Return the clips that should have been cut to files and could not be, each with the reason."""
    if not (dataset.root / CUTS).is_file():
        return []
    cuts = read_rows(dataset.root / CUTS, ("clip_id", "error_message"))
    reasons = {row["clip_id"]: row["error_message"] for row in cuts if row["error_message"]}
    clips = dataset.clips.filter(pc.field("clip_id").isin(pa.array(list(reasons), pa.string()))).select(
        ["clip_id", "source", "start_s"]
    )
    return [
        (_format_place(row), f"not cut: {reasons[row['clip_id']].removeprefix(row['clip_id'] + ': ')}")
        for row in clips.to_pylist()
    ]


def _format_place(clip: dict[str, Any]) -> str:
    return f"{file_name(clip['source'])} at {format_clock(clip['start_s'])}"


def list_files(dataset: Dataset, rows: int) -> list[dict[str, Any]]:
    """Return the first `rows` source files, with their numbers of shots and of kept clips."""
    clips = dataset.clips.select(["video_id", "shot_start_pts", "keep"])
    shots = clips.group_by(["video_id", "shot_start_pts"]).aggregate([])["video_id"].value_counts().to_pylist()
    kept = clips.filter(dataset.keep)["video_id"].value_counts().to_pylist()
    named = [{count["values"]: count["counts"] for count in counts} for counts in (shots, kept)]
    return [
        row | {"shots": find_count(row, named[0]), "kept": find_count(row, named[1])}
        for row in dataset.videos.slice(0, rows).to_pylist()
    ]


def find_count(file: dict[str, Any], counts: dict[str, int]) -> int | str:
    """Return the count for a file; "" for a file that was not used."""
    return counts.get(file["video_id"], 0) if file["status"] == "ok" else ""


def render_report(dataset: Dataset, config: ReportConfig) -> str:
    """Return the page."""
    funnel, reel = make_funnel(dataset), Reel(dataset)
    failed, more_failures = list_failures(dataset, config.rows)
    duplicates, more_duplicates = duplicate_groups(reel, config.duplicate_groups)
    return render(
        TEMPLATE,
        name=dataset.root.resolve().name,
        lede=describe_decoding(dataset),
        figures=list_figures(dataset, funnel),
        funnel=funnel,
        tuning=describe_panel(dataset, reel, config.previews),
        remarks=list_remarks(dataset),
        kept=make_kept_sheets(reel, config.kept_per_motion),
        dropped=make_dropped_sheets(reel, config.dropped_per_reason),
        duplicates=duplicates,
        more_duplicates=more_duplicates,
        failures=failed,
        more_failures=more_failures,
        files=list_files(dataset, config.rows),
        more_files=max(0, len(dataset.videos) - config.rows),
    )


@task(name="report")
def write_report(root: Path, config: ReportConfig, clips: ManifestRef) -> Path:
    """Write the page of the dataset at `root`, whose clips.parquet is `clips`; return its path."""
    publish_text(root / PAGE, render_report(read_dataset(clips), config))
    return root / PAGE
