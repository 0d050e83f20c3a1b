"""Curate: raw footage in, a dataset out, in which every clip is measured and says whether and why it is kept.

The order is Stable Video Diffusion's (arXiv 2311.15127, appendix C): find the cuts, then measure motion, text and the
rest of each clip, and only then decide. Each source is decoded once, by the scan.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import AfterValidator, Field

from flows.config import FlowConfig, Outcome
from flows.running import Run, running, threads
from tasks.curate.caption import CaptionConfig, caption_clips
from tasks.curate.clips import NEEDS as CUT_NEEDS
from tasks.curate.clips import TABLE as CUTS
from tasks.curate.clips import ClipsConfig, cut_clips, gather_cuts, spans_of
from tasks.curate.dedup import DedupConfig, group_duplicates
from tasks.curate.ingest import IngestConfig, ingest_videos, source_videos
from tasks.curate.join import join_measures
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.motion import MotionConfig, measure_motion
from tasks.curate.report import ReportConfig, write_report
from tasks.curate.scan import ScanConfig, scan_videos
from tasks.curate.select import Funnel, SelectConfig, Selection, select_clips
from tasks.curate.split import SplitConfig, split_videos
from tasks.curate.text import TextConfig, find_text
from tasks.manifest import ManifestRef, read_rows
from tasks.video import SourceVideo

log = logging.getLogger("reelmill")

SCAN, SPLIT, LOOK, MOTION, TEXT, CAPTION = 0.15, 0.001, 0.02, 0.05, 0.1, 0.001
"""Seconds of work on one core for one second of 720p footage; they set the chunks' size and nothing else."""

CUT = {"copy": 0.002, "exact": 1.0}
"""The same for one second of a clip that is cut; and CUT_CLIP for each clip."""

CUT_CLIP = 0.15

SHOWN_FAILURES = 10


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(Path(source).expanduser())


Source = Annotated[str, AfterValidator(_absolute)]


class CurateConfig(FlowConfig):
    """Footage in, a dataset of measured and chosen clips out."""

    sources: tuple[Source, ...] = Field(
        min_length=1, description="Video files, folders, globs, URLs, or lists of those."
    )
    out: Path = Field(description="Folder of the dataset.")
    ingest: IngestConfig = Field(default_factory=IngestConfig, description="Which files count.")
    scan: ScanConfig = Field(default_factory=ScanConfig, description="What the one decode keeps.")
    split: SplitConfig = Field(default_factory=SplitConfig, description="Where shots end, how long clips are.")
    look: LookConfig = Field(default_factory=LookConfig, description="What the picture is like.")
    motion: MotionConfig = Field(default_factory=MotionConfig, description="How motion is measured.")
    text: TextConfig = Field(default_factory=TextConfig, description="What counts as text.")
    caption: CaptionConfig = Field(default_factory=CaptionConfig, description="Who writes captions.")
    dedup: DedupConfig = Field(default_factory=DedupConfig, description="What counts as a repetition.")
    select: SelectConfig = Field(default_factory=SelectConfig, description="Which clips are kept.")
    clips: ClipsConfig = Field(default_factory=ClipsConfig, description="Whether clips are cut to mp4 files, and how.")
    report: ReportConfig = Field(default_factory=ReportConfig, description="How much the page shows.")


def keep_all() -> Mapping[str, Any]:
    """Every clip that could be measured: the thresholds are set later, by `reelmill select`."""
    off = {"min_clip_s": None, "min_contrast": None, "max_text_area": None, "min_motion": None}
    return {"select": {**off, "drop_duplicates": False}}


def training() -> Mapping[str, Any]:
    """Clips for training: between 2 and 10 seconds, clearly moving, free of text."""
    return {
        "split": {"max_clip_s": 10.0},
        "select": {"min_clip_s": 2.0, "min_motion": 0.02, "max_text_area": 0.03},
    }


PRESETS = {"keep-all": keep_all, "training": training}


class CurateOutcome(Outcome):
    """What a dataset holds: source files, how many of them (and of the clips) failed, and what became of the clips."""

    videos: int
    funnel: Funnel
    clips: Path
    page: Path

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"videos: {self.videos}{failed}\n{described(self.funnel)}\ntable: {self.clips}\npage: {self.page}"


@flow(name="curate", task_runner=threads())
def curate(config: CurateConfig) -> CurateOutcome:
    """Find, scan, split, measure, compare and choose."""
    with running(config.out, "curate", config) as run:
        files = run.whole(ingest_videos, config.ingest, list(config.sources))
        videos = source_videos(config.out, files)
        scans = run.chunks(scan_videos, config.scan, videos, work(videos, SCAN))
        splits = run.chunks(split_videos, config.split, scans, work(videos, SPLIT))
        scanned = list(zip(scans, splits, strict=True))
        looks = run.chunks(measure_look, config.look, scanned, work(videos, LOOK))
        motions = run.chunks(measure_motion, config.motion, scanned, work(videos, MOTION))
        texts = run.chunks(find_text, config.text, scanned, work(videos, TEXT))
        measured = list(zip(splits, looks, motions, texts, strict=True))
        captions = run.chunks(caption_clips, config.caption, measured, work(videos, CAPTION))
        groups = run.whole(group_duplicates, config.dedup, list(zip(splits, looks, strict=True)))
        clips = run.whole(join_measures, files, scans, splits, [looks, motions, texts, captions, [groups]])
        selection = run.whole(select_clips, config.select, clips)
        cut(run, config.clips, videos, selection.clips)
        page = run.whole(write_report, config.report, selection.clips)
        return outcome(config, selection, page)


def cut(run: Run, config: ClipsConfig, videos: Sequence[SourceVideo], clips: ManifestRef) -> list[ManifestRef]:
    """Cut the clips to mp4 files and list them in cuts.parquet; nothing where that is off."""
    if config.mode == "off":
        return []
    sources = spans_of(videos, read_rows(clips, CUT_NEEDS), config.which)
    seconds = [CUT_CLIP * len(s.spans) + CUT[config.mode] * sum(span.seconds() for span in s.spans) for s in sources]
    cuts = run.chunks(cut_clips, config, sources, seconds)
    run.whole(gather_cuts, config, cuts)
    return cuts


def work(videos: Sequence[SourceVideo], cost: float) -> list[float]:
    """Seconds that a step of `cost` takes for each video, by its duration and its pixels."""
    return [cost * (v.duration_s or 60.0) * max(v.width * v.height / (1280 * 720), 0.05) for v in videos]


def uncut(config: CurateConfig) -> list[str]:
    """Why clips could not be cut, if that was asked for."""
    if config.clips.mode == "off":
        return []
    return [row["error_message"] for row in read_rows(config.out / CUTS, ("error_message",)) if row["error_message"]]


def outcome(config: CurateConfig, selection: Selection, page: Path) -> CurateOutcome:
    """What the dataset's tables say; the failures are logged, each with its reason."""
    dataset = config.out
    videos = read_rows(dataset / "videos.parquet", ("error_message",))
    clips = read_rows(dataset / "clips.parquet", ("clip_id", "error"))
    failures = [row["error_message"] for row in videos if row["error_message"]]
    failures += [f"{row['clip_id']}: {row['error']}" for row in clips if row["error"]]
    failures += uncut(config)
    for failure in failures[:SHOWN_FAILURES]:
        log.warning("%s", failure)
    if len(failures) > SHOWN_FAILURES:
        log.warning("and %d more: see `reelmill status %s`", len(failures) - SHOWN_FAILURES, dataset)
    return CurateOutcome(
        failed=len(failures), videos=len(videos), funnel=selection.funnel, clips=selection.clips.path, page=page
    )


def described(funnel: Funnel) -> str:
    """The funnel in two lines."""
    dropped = ", ".join(f"{reason.first} {reason.reason}" for reason in funnel.reasons if reason.first)
    kept = f"clips: {funnel.clips}, {funnel.kept} kept ({funnel.kept_seconds:.1f} of {funnel.seconds:.1f} s)"
    return f"{kept}\ndropped: {dropped or 'none'}"
