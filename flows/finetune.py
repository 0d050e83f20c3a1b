"""Finetune a model on a dataset: encode the kept clips once, train, and keep weights that know their origin."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flows.running.approval import ask_approval
from flows.running.config import FlowConfig, Outcome, Tally
from flows.running.layers import Preset, find_preset, list_preset_leaves
from flows.running.markdown import make_table
from flows.running.run import Run, running
from flows.running.runners import count_cores
from flows.running.story import begin_story
from flows.running.told import told_flow
from models.errors import BadInput
from models.weights.names import MODEL_HELP, find_model_folder
from tasks.finetune.compare import write_comparison
from tasks.finetune.encode import NEEDS as CLIP_NEEDS
from tasks.finetune.encode import (
    PICTURE_NEEDS,
    ClipSpan,
    LatentsConfig,
    SourceClips,
    encode_clips,
    find_size,
    make_seen,
    remove_orphans,
)
from tasks.finetune.listed import ListedConfig, list_clips, read_clip_rows
from tasks.finetune.train import HardwareConfig, TrainConfig, train_model
from tasks.finetune.train_examples import ExampleChoice, make_too_few_error
from tasks.ledger import check_whole, drop_damaged, resolve_inside
from tasks.manifest import ManifestRef, publish_json, publish_link, read_column_names, read_manifest_ref, read_rows
from tasks.pages.page import format_duration
from tasks.source_files import find_source
from tasks.table_files import TABLE_SUFFIXES

KEPT_COLUMNS = ("clip_id", "video_id", "start_s", "end_s", "camera_motion", "motion_score", "keep")

ENCODE_SHARE = 0.4
"""Seconds on one core to decode and encode one clip for the embedded model."""


def motion_lora() -> dict[str, Any]:
    """Return the settings of a camera-motion LoRA on temporal attention (SVD, section 4.4); --train.motions names the
    motion."""
    return {"train": {"parameters": "lora"}}


def image_to_video() -> dict[str, Any]:
    """Return the settings that train the whole UNet on the chosen clips, gently."""
    return {"train": {"parameters": "all", "steps": 400, "ema": 0.998}}


RECIPES: Mapping[str, Preset] = {"motion-lora": motion_lora, "image-to-video": image_to_video}

Recipe = Literal["motion-lora", "image-to-video"]

RECIPE_HELP = f"Named settings to start from: {', '.join(RECIPES)}"


APPROVE_HELP = "Pause in Prefect's UI before the training, until a person who sees its data and its cost approves"


class FinetuneConfig(FlowConfig):
    """Everything a finetuning depends on."""

    dataset: Path = Field(description="Folder of a curated dataset, or a CSV of clips: file_name, caption")
    out: Path = Field(description="Folder of the run")
    recipe: Recipe = Field(default="motion-lora", description=RECIPE_HELP)
    base: str = Field(default="tiny", description=f"The model to start from: {MODEL_HELP}")
    sources: Path | None = Field(
        default=None, description="Folder of the source files, if they moved: found by name and content"
    )
    encode: LatentsConfig = Field(default=LatentsConfig(), description="How clips become latents")
    listed: ListedConfig = Field(default=ListedConfig(), description="How a table of clips is read")
    train: TrainConfig = Field(default=TrainConfig(), description="What trains, and how long")
    hardware: HardwareConfig = Field(default=HardwareConfig(), description="What the training runs on")
    approve: bool = Field(default=False, description=APPROVE_HELP)

    @property
    def works_on(self) -> str | None:
        """Return the name of the device that the model is trained on."""
        return self.hardware.device

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the recipe's settings."""
        return [find_preset(RECIPES, given.get("recipe", "motion-lora"))]

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return what a recipe may set."""
        return list_preset_leaves(RECIPES)


class FinetuneOutcome(Outcome):
    """Where the weights and the training's log are."""

    weights: Path
    log: Path


def approve(config: FinetuneConfig) -> None:
    """Ask a person, where that is wanted, before anything is done. Raises BadInput where the answer is no."""
    if config.approve:
        check(config)
        begin_story("finetune", config.out)
        ask_approval(describe_training(config))


def describe_training(config: FinetuneConfig) -> str:
    """Return the data that would be trained on, and what that costs, as Markdown."""
    if is_table(config.dataset):
        data, clips = [("clips of a table", len(read_clip_rows(config.dataset)))], len(read_clip_rows(config.dataset))
    else:
        sources = read_kept_clips(config, config.dataset)
        spans = [clip for source in sources for clip in source.clips]
        seconds, clips = sum(float(clip.end_s - clip.start_s) for clip in spans), len(spans)
        data = [("films", len(sources)), ("clips", clips), ("length", format_duration(seconds))]
    asked = [("motions", ", ".join(config.train.motions or ("all",))), ("base", config.base), ("recipe", config.recipe)]
    encoding = format_duration(ENCODE_SHARE * clips / (config.workers or count_cores()))
    cost = [("steps", config.train.steps), ("encoding, embedded model", f"about {encoding}")]
    rows = [("dataset", config.dataset), *data, *asked, *cost, ("output", config.out)]
    return f"### Train on this?\n\n{make_table(('what', 'how much'), rows)}"


@told_flow(name="finetune", before=approve)
def finetune(config: FinetuneConfig) -> FinetuneOutcome:
    """Encode a dataset's kept clips once, and train on them."""
    check(config)
    with running(config.out, "finetune", config) as run:
        dataset = open_dataset(run, config)
        drop_damaged(dataset / "latents")
        clips = read_manifest_ref(dataset / "clips.parquet")
        encoded = encode(run, config, dataset, read_kept_clips(config, dataset))
        log = run.whole(train_model, config.train, config.hardware, dataset, config.base, encoded, clips)
        run.whole(write_comparison, log)
        errors = read_errors([*([clips] if dataset != config.dataset else []), *encoded])
        failures = [error for error in errors if error]
        tally = Tally(items=len(errors), done=len(errors) - len(failures), said=next(iter(failures), None))
        weights = publish_weights(config, log, clips)
        return FinetuneOutcome(failed=len(failures), tally=tally, weights=weights, log=log.path)


def check(config: FinetuneConfig) -> list[str]:
    """Return nothing: what a clip fails by is known when it is encoded. Raises BadInput or BadModel where there is no
    such model, no such dataset, or none of its kept clips is asked for."""
    find_model_folder(config.base)
    if is_table(config.dataset):
        read_clip_rows(config.dataset)
        return []
    read_kept_clips(config, config.dataset)
    return []


def is_table(dataset: Path) -> bool:
    """Return whether a dataset is a table of clips instead of a folder."""
    return dataset.suffix.lower() in TABLE_SUFFIXES and dataset.is_file()


def open_dataset(run: Run, config: FinetuneConfig) -> Path:
    """Return the folder of the dataset; for a table of clips, make a dataset below `out` that has the table's clips."""
    if not is_table(config.dataset):
        return config.dataset
    folder = config.out / "listed"
    run.at(folder).whole(list_clips, config.listed, config.dataset)
    return folder


def encode(run: Run, config: FinetuneConfig, dataset: Path, sources: list[SourceClips]) -> list[ManifestRef]:
    """Encode the clips of every source to latents. They are kept beside the dataset, for every run that shares the
    encoders."""
    remove_orphans(dataset)
    return run.at(dataset).chunks(encode_clips, config.encode, sources, [ENCODE_SHARE * len(s.clips) for s in sources])


def read_kept_clips(config: FinetuneConfig, dataset: Path) -> list[SourceClips]:
    """Return the clips that a dataset keeps and the training asks for, by source. Raises BadInput when there is no
    dataset, it keeps none, or none of those is asked for, and BadManifest where its tables changed."""
    if not (dataset / "clips.parquet").is_file():
        raise BadInput(f"{dataset}: not a dataset, it has no clips.parquet. Make one with `reelmill curate`.")
    for table in ("videos.parquet", "clips.parquet"):
        check_whole(dataset / table)
    videos = {row["video_id"]: row for row in read_rows(dataset / "videos.parquet")}
    there = read_column_names(dataset / "clips.parquet")
    columns = (*CLIP_NEEDS, "keep", "camera_motion", "motion_score", *PICTURE_NEEDS)
    rows = read_rows(dataset / "clips.parquet", [name for name in columns if name in there])
    kept = [row for row in rows if row["keep"]]
    if not kept:
        raise BadInput(
            f"{dataset}: none of its {len(rows)} clips is kept. Loosen the thresholds with `reelmill select`."
        )
    choice = ExampleChoice(config.train.motions, config.train.min_speed)
    asked = [row for row in kept if choice.wants(row["camera_motion"], row["motion_score"])]
    if not asked:
        raise make_too_few_error(dataset, choice)
    spans: dict[str, list[ClipSpan]] = {}
    for row in asked:
        video = videos[row["video_id"]]
        seen = make_seen(row, video)
        span = (row["clip_id"], row["start_s"], row["end_s"], video.get("fps"))
        spans.setdefault(row["video_id"], []).append(ClipSpan(*span, seen, find_size(row, seen)))
    return [
        SourceClips(
            find_source(dataset, locate_file(videos[video]), videos[video]["digest"], config.sources),
            videos[video]["digest"],
            tuple(sorted(clips, key=lambda c: c.start_s)),
            config.base,
            videos[video].get("container"),
        )
        for video, clips in spans.items()
    ]


def locate_file(video: Mapping[str, Any]) -> str:
    """Return where a source file is: its `path` where it was fetched from elsewhere, else its `source`."""
    return video.get("path") or video["source"]


def read_errors(encoded: list[ManifestRef]) -> list[str | None]:
    """Return why clips could not be read or encoded; None for each that could."""
    columns = ("error_code", "error_message")
    rows = [row for manifest in encoded for row in read_rows(manifest, columns)]
    return [row["error_message"] or row["error_code"] for row in rows]


def publish_weights(config: FinetuneConfig, log: ManifestRef, clips: ManifestRef) -> Path:
    """Point `out`/lora.safetensors or `out`/model at this run's weights, and describe the run in run.json, where
    `dataset_digest` is the digest of the dataset's clips.parquet."""
    named = resolve_inside(config.out, read_rows(log, ("weights",))[0]["weights"])
    weights = named if named.name == "lora.safetensors" else named.parent
    shown = config.out / weights.name
    publish_link(shown, weights.relative_to(config.out))
    facts = {"weights": weights.name, "log": log.path.relative_to(config.out).as_posix(), "digest": log.digest}
    facts |= {"dataset": config.dataset.name, "dataset_digest": clips.digest}
    publish_json(config.out / "run.json", facts | {"config": config.model_dump(mode="json")})
    return shown
