"""Curate: raw footage in, a dataset out, in which every clip is measured and says whether and why it is kept.

The order is Stable Video Diffusion's (arXiv 2311.15127, appendix C): find the cuts, then measure motion, text and the
rest of each clip, and only then decide. Each source is decoded once, by the scan.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import task
from pydantic import AfterValidator, Field

from flows.running.config import FlowConfig, Outcome, Tally
from flows.running.layers import Preset, find_preset, list_preset_leaves, merge_layers, read_given
from flows.running.run import Run, make_thread_pool, running
from flows.running.told import told_flow
from flows.selection import describe_funnel
from models.errors import BadModel
from models.weights.hub_cache import list_missing_models, locate_model
from tasks.curate import caption_writers, motion, select, similarity, text
from tasks.curate.caption import caption_clips
from tasks.curate.caption_writers import CaptionConfig
from tasks.curate.clips import NEEDS as CUT_NEEDS
from tasks.curate.clips import TABLE as CUTS
from tasks.curate.clips import ClipsConfig, cut_clips, gather_cuts, list_spans
from tasks.curate.dedup import DedupConfig, group_duplicates
from tasks.curate.ingest import IngestConfig, ingest_videos, list_unreadable, list_videos
from tasks.curate.join import join_measures
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.motion import MotionConfig, measure_motion
from tasks.curate.report import ReportConfig, write_report
from tasks.curate.scan import ScanConfig, scan_videos
from tasks.curate.select import Selection
from tasks.curate.similarity import SimilarityConfig, measure_similarity
from tasks.curate.source_list import expand_sources
from tasks.curate.split import SplitConfig, split_videos
from tasks.curate.text import TextConfig, find_text
from tasks.curate.video_manifests import VideoManifests, add_manifests
from tasks.keep_rules import SelectConfig, paper
from tasks.keep_verdicts import Funnel
from tasks.manifest import ManifestRef, read_rows
from tasks.media.video import SourceVideo, name_clip
from tasks.pages.page import format_count

log = logging.getLogger("reelmill")

SCAN, SPLIT, LOOK, MOTION, TEXT, CAPTION, SIMILARITY = 0.15, 0.001, 0.02, 0.05, 0.1, 0.001, 0.001
"""Seconds of work on one core for one second of 720p footage; they set the chunks' size and nothing else."""

NETWORK = 1.0
"""The same for a step that asks a large network or a server."""

CUT = {"copy": 0.002, "exact": 1.0}
"""The same for one second of a clip that is cut; and CUT_CLIP for each clip."""

CUT_CLIP = 0.15

SHOWN_FAILURES = 10

WEIGHTS = Path("~/.cache/reelmill/weights")

MODELS: Mapping[str, Callable[[Any], Mapping[str, str]]] = {
    "motion": motion.list_models,
    "text": text.list_models,
    "caption": caption_writers.list_models,
    "similarity": similarity.list_models,
}
"""The steps that may need models, by the name of their settings."""


def _make_absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(Path(source).expanduser())


Source = Annotated[str, AfterValidator(_make_absolute)]


def offline() -> Mapping[str, Any]:
    """Return the settings of a fresh install: the defaults."""
    return {}


def paper_offline() -> Mapping[str, Any]:
    """Return the settings of Stable Video Diffusion's paper as far as it needs no weights: a cascade of detectors,
    Farneback's flow at 2 frames per second (appendix C), and its filters (appendix E). Filters on scores that need
    weights are ignored."""
    return {"split": {"detector": "cascade"}, "motion": {"frames_per_s": 2.0}, "select": paper()}


def svd() -> Mapping[str, Any]:
    """Return the settings that measure all that the paper does, with public models in place of those it does not
    publish.

    Models of the hub are pinned to a commit. CRAFT, RAFT and the aesthetic head are not published as safetensors: the
    commands of models/weights/conversions.py make them, in the folder of `--weights`.
    """
    captions = {
        "engine": "transformers",
        "model": "Qwen/Qwen2.5-1.5B-Instruct@989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
        "image_engine": "transformers",
        "image_model": "Salesforce/blip-image-captioning-large@2227ac38c9f16105cb0412e7cab4759978a8fd90",
        "video_engine": "transformers",
        "video_model": "microsoft/git-base-vatex@623363cef8744c57438ce8d62b30bef1fbbec111",
    }
    compared = {
        "clip_model": "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
        "aesthetic_head": "aesthetic.safetensors",
    }
    engines = {"text": {"engine": "easyocr"}, "motion": {"engine": "raft"}, "caption": captions, "similarity": compared}
    return merge_layers([paper_offline(), engines])


PRESETS: Mapping[str, Preset] = {"offline": offline, "paper-offline": paper_offline, "svd": svd}


class CurateConfig(FlowConfig):
    """Footage in, a dataset of measured and chosen clips out."""

    sources: tuple[Source, ...] = Field(
        min_length=1, description="Video files, folders, globs, URLs, or lists of those."
    )
    out: Path = Field(description="Folder of the dataset.")
    preset: Literal["offline", "paper-offline", "svd"] = Field(
        default="offline", description=f"Named settings to start from: {', '.join(PRESETS)}."
    )
    weights: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default=WEIGHTS,
        validate_default=True,
        description="Folder of the weights that a setting names without a folder.",
    )
    ingest: IngestConfig = Field(default_factory=IngestConfig, description="Which files count.")
    scan: ScanConfig = Field(default_factory=ScanConfig, description="What the one decode keeps.")
    split: SplitConfig = Field(default_factory=SplitConfig, description="Where shots end, how long clips are.")
    look: LookConfig = Field(default_factory=LookConfig, description="What the picture is like.")
    motion: MotionConfig = Field(default_factory=MotionConfig, description="How motion is measured.")
    text: TextConfig = Field(default_factory=TextConfig, description="What counts as text.")
    caption: CaptionConfig = Field(default_factory=CaptionConfig, description="Who writes captions.")
    similarity: SimilarityConfig = Field(default_factory=SimilarityConfig, description="Which networks compare.")
    dedup: DedupConfig = Field(default_factory=DedupConfig, description="What counts as a repetition.")
    select: SelectConfig = Field(default_factory=SelectConfig, description="Which clips are kept.")
    clips: ClipsConfig = Field(default_factory=ClipsConfig, description="Whether clips are cut to mp4 files, and how.")
    report: ReportConfig = Field(default_factory=ReportConfig, description="How much the page shows.")

    @property
    def works_on(self) -> str | None:
        """Return the name of the device that the networks work on, if its settings ask for any."""
        return "auto" if any(MODELS[group](getattr(self, group)) for group in MODELS) else None

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the preset's settings, above one shortest length for split and select."""
        return [follow_split(given), find_preset(PRESETS, given.get("preset", "offline"))]

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return what a preset may set, and what follows another setting."""
        return {*list_preset_leaves(PRESETS), "select.min_clip_s"}


def follow_split(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return split.min_clip_s as select.min_clip_s, where it is given."""
    shortest = read_given(given, "split", "min_clip_s")
    return {} if shortest is None else {"select": {"min_clip_s": shortest}}


select_clips = task(name="select")(select.select_clips)
"""Made here and not beside its function, which `reelmill select` calls without Prefect."""


class CurateOutcome(Outcome):
    """What a dataset holds: source files, how many of them (and of the clips) failed, and which clips are kept."""

    videos: int
    funnel: Funnel
    clips: Path
    page: Path

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"videos: {self.videos}{failed}\n{describe_funnel(self.funnel)}\ntable: {self.clips}\npage: {self.page}"


@told_flow(name="curate", task_runner=make_thread_pool())
def curate(config: CurateConfig) -> CurateOutcome:
    """Find, scan, split, measure, compare and choose."""
    check(config)
    asked, config = config, locate_models(config)
    with running(config.out, "curate", asked) as run:
        files = run.whole(ingest_videos, config.ingest, list(config.sources))
        videos = list_videos(config.out, files)
        run.story.call(len(videos), "film", sum(sum(estimate_work(videos, cost)) for cost in list_costs(config)))
        scans = run.chunks(scan_videos, config.scan, videos, estimate_work(videos, SCAN))
        splits = run.chunks(split_videos, config.split, scans, estimate_work(videos, SPLIT))
        scanned = list(map(VideoManifests, scans, splits))
        looks = run.chunks(measure_look, config.look, scanned, estimate_work(videos, LOOK))
        looked = add_manifests(scanned, look=looks)
        motions = run.chunks(measure_motion, config.motion, looked, estimate_work(videos, MOTION))
        texts = run.chunks(find_text, config.text, looked, estimate_work(videos, TEXT))
        measured = add_manifests(looked, motion=motions, text=texts)
        captions = run.chunks(
            caption_clips, config.caption, measured, estimate_work(videos, find_cost(config.caption, CAPTION))
        )
        captioned = add_manifests(measured, caption=captions)
        similarities = run.chunks(
            measure_similarity,
            config.similarity,
            captioned,
            estimate_work(videos, find_cost(config.similarity, SIMILARITY)),
        )
        compared = add_manifests(captioned, similarity=similarities)
        groups = run.whole(group_duplicates, config.dedup, compared)
        clips = run.whole(join_measures, files, compared, groups)
        selection = run.whole(select_clips, config.select, clips)
        cut(run, config.clips, videos, selection.clips)
        page = run.whole(write_report, config.report, selection.clips)
        return summarise(config, selection, page)


def check(config: CurateConfig) -> list[str]:
    """Return a sentence for each source that cannot be read, as far as probing tells. Raises BadModel for missing
    models, and BadInput for a source that names no video."""
    locate_models(config)
    entries = expand_sources(config.sources, config.ingest.suffixes, exclude=config.out)
    return list_unreadable(entries, config.ingest)


def cut(run: Run, config: ClipsConfig, videos: Sequence[SourceVideo], clips: ManifestRef) -> list[ManifestRef]:
    """Cut the clips to mp4 files and list them in cuts.parquet; do nothing where that is off."""
    if config.mode == "off":
        return []
    sources = list_spans(videos, read_rows(clips, CUT_NEEDS), config.which)
    seconds = [CUT_CLIP * len(s.spans) + CUT[config.mode] * sum(span.seconds() for span in s.spans) for s in sources]
    cuts = run.chunks(cut_clips, config, sources, seconds)
    run.whole(gather_cuts, config, cuts)
    return cuts


def locate_models(config: CurateConfig) -> CurateConfig:
    """Return the settings with every model by its place on this machine. Raises BadModel before any work, with a line
    for each model that is missing and for the command that brings it."""
    steps = {group: getattr(config, group) for group in MODELS}
    named = {
        group: {setting: locate_model(name, config.weights) for setting, name in MODELS[group](step).items()}
        for group, step in steps.items()
    }
    names = [(f"{group}.{setting}", name) for group, found in named.items() for setting, name in found.items()]
    missing = [*list_missing_models(names), *caption_writers.find_missing_key(config.caption)]
    if missing:
        raise BadModel("\n  ".join([f"{format_count(len(missing), 'thing')} asked for cannot be found:", *missing]))
    return config.model_copy(update={group: step.model_copy(update=named[group]) for group, step in steps.items()})


def find_cost(config: CaptionConfig | SimilarityConfig, plain: float) -> float:
    """Return the cost of a step: `plain`, or that of the networks that its settings ask for."""
    return plain if config in (CaptionConfig(), SimilarityConfig()) else NETWORK


def list_costs(config: CurateConfig) -> list[float]:
    """Return the cost of every step of chunks."""
    asked = find_cost(config.caption, CAPTION), find_cost(config.similarity, SIMILARITY)
    return [SCAN, SPLIT, LOOK, MOTION, TEXT, *asked]


def estimate_work(videos: Sequence[SourceVideo], cost: float) -> list[float]:
    """Return the seconds that a step of `cost` takes for each video, by its duration and its pixels."""
    return [cost * (v.duration_s or 60.0) * max(v.width * v.height / (1280 * 720), 0.05) for v in videos]


def list_uncut(config: CurateConfig) -> list[str]:
    """Return why clips could not be cut, if cutting was asked for."""
    if config.clips.mode == "off":
        return []
    return [row["error_message"] for row in read_rows(config.out / CUTS, ("error_message",)) if row["error_message"]]


def summarise(config: CurateConfig, selection: Selection, page: Path) -> CurateOutcome:
    """Count the dataset's tables; log the failures, each with its reason."""
    dataset = config.out
    videos = read_rows(dataset / "videos.parquet", ("error_message",))
    clips = read_rows(dataset / "clips.parquet", ("source", "start_s", "end_s", "error"))
    failures = [row["error_message"] for row in videos if row["error_message"]]
    unread = len(failures)
    failures += [f"{name_clip(r['source'], r['start_s'], r['end_s'])}: {r['error']}" for r in clips if r["error"]]
    failures += list_uncut(config)
    for failure in failures[:SHOWN_FAILURES]:
        log.warning("%s", failure)
    if len(failures) > SHOWN_FAILURES:
        log.warning("and %d more: see `reelmill status %s`", len(failures) - SHOWN_FAILURES, dataset)
    for rest in selection.funnel.skipped:
        log.warning("%s.", rest)
    return CurateOutcome(
        failed=len(failures),
        tally=Tally(items=len(videos), done=len(videos) - unread, said=next(iter(failures), None)),
        videos=len(videos),
        funnel=selection.funnel,
        clips=selection.clips.path,
        page=page,
    )
