"""Export: a dataset's kept clips in formats that other tools read; no film or near-duplicate is in two splits."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flows.curate import cut
from flows.running.config import FlowConfig, Outcome, Tally, read_written_settings
from flows.running.run import Run, running
from flows.running.told import told_flow
from models.errors import BadInput
from tasks.curate.clips import ClipsConfig
from tasks.curate.ingest import list_videos
from tasks.export.folders import Layout, write_folders
from tasks.export.samples import HoldOutConfig, collect_samples
from tasks.export.shards import ShardsConfig, write_shards
from tasks.ledger import check_whole, drop_damaged
from tasks.manifest import ManifestRef, read_manifest_ref, read_rows
from tasks.media.video import SourceVideo

log = logging.getLogger("reelmill")


class ExportConfig(FlowConfig):
    """Everything an export depends on."""

    dataset: Path = Field(description="Folder of a curated dataset.")
    out: Path = Field(description="Folder of the export.")
    sources: Path | None = Field(
        default=None, description="Folder of the source files, if they moved: found by name and content."
    )
    to: Literal["webdataset", "hf", "csv"] = Field(
        default="webdataset", description="tar shards, a Hugging Face video folder, or folders with a metadata.csv."
    )
    split: HoldOutConfig = Field(default_factory=HoldOutConfig, description="Which source videos are held out.")
    clips: ClipsConfig = Field(default=ClipsConfig(mode="exact"), description="How clips that are not cut yet are cut.")
    shards: ShardsConfig = Field(default_factory=ShardsConfig, description="How large WebDataset's shards are.")

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return how the dataset's clips were cut, if they were: those files are used."""
        return [read_cut_mode(given["dataset"])] if isinstance(given.get("dataset"), str | Path) else []

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return what the dataset may say."""
        return {f"clips.{name}" for name in ClipsConfig.model_fields}


class ExportOutcome(Outcome):
    """How many clips went to each split, how many were left out, and where they are."""

    samples: dict[str, int]
    left_out: int
    out: Path

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.samples.items()) or "none"
        rest = [f"left out: {self.left_out}"] if self.left_out else []
        rest += [f"failed: {self.failed}"] if self.failed else []
        return "\n".join([f"clips: {splits}", *rest, f"out: {self.out}"])


def read_cut_mode(dataset: str | Path) -> Mapping[str, Any]:
    """Return how the dataset's clips were cut, if they were: those files are used."""
    path = Path(dataset) / "curate.yaml"
    clips = read_written_settings(path).get("clips", {}) if path.is_file() else {}
    return {"clips": clips} if clips.get("mode", "off") != "off" else {}


@told_flow(name="export")
def export(config: ExportConfig) -> ExportOutcome:
    """Cut what is not cut yet, assign the clips to splits, and write them."""
    clips = read_kept_clips(config)
    with running(config.out, "export", config) as run:
        drop_damaged(config.dataset / "clips")
        cuts = cut(run.at(config.dataset), config.clips, read_videos(config), clips)
        samples = run.whole(collect_samples, config.split, config.dataset, clips, cuts)
        return summarise(config, samples, write(run, config, samples))


def check(config: ExportConfig) -> list[str]:
    """Return nothing: what a clip fails by is known when it is cut. Raises what `read_kept_clips` does, and BadManifest
    for tables that cannot be read."""
    read_kept_clips(config)
    read_videos(config)
    return []


def read_kept_clips(config: ExportConfig) -> ManifestRef:
    """Return the dataset's clips. Raises BadInput when there is no dataset, when --out is the dataset or holds another
    shape, or when no clips are to be cut, and BadManifest where its tables changed."""
    if not (config.dataset / "clips.parquet").is_file():
        raise BadInput(f"{config.dataset}: not a dataset, it has no clips.parquet. Make one with `reelmill curate`.")
    if config.out.resolve() == config.dataset.resolve():
        raise BadInput(f"{config.out}: is the dataset itself. Choose another folder for --out.")
    former = config.out / "export.yaml"
    if former.is_file() and (shape := read_written_settings(former).get("to", config.to)) != config.to:
        raise BadInput(
            f"{config.out}: already holds a {shape} export with different splits. Choose another folder for --out."
        )
    if config.clips.mode == "off":
        raise BadInput("--clips.mode off: an export needs the clips as files. Choose copy or exact.")
    for table in ("videos.parquet", "clips.parquet"):
        check_whole(config.dataset / table)
    return read_manifest_ref(config.dataset / "clips.parquet")


def read_videos(config: ExportConfig) -> list[SourceVideo]:
    """Return the source files of the dataset, where they are now."""
    return list_videos(config.dataset, read_manifest_ref(config.dataset / "videos.parquet"), config.sources)


def write(run: Run, config: ExportConfig, samples: ManifestRef) -> ManifestRef:
    """Write the files in the shape asked for."""
    if config.to == "webdataset":
        return run.whole(write_shards, config.shards, config.dataset, samples)
    return run.whole(write_folders, Layout(to=config.to), config.dataset, samples)


def summarise(config: ExportConfig, samples: ManifestRef, written: ManifestRef) -> ExportOutcome:
    """Count the samples, and log why clips could not be written."""
    rows = read_rows(samples, ("side", "left_out", "error_code"))
    unwritten = [row for row in read_rows(written, ("side", "error_message")) if row["error_message"]]
    for row in unwritten:
        log.warning("%s", row["error_message"])
    splits = Counter(row["side"] for row in rows if row["side"])
    splits.subtract(row["side"] for row in unwritten)
    failed, done = sum(row["error_code"] is not None for row in rows) + len(unwritten), sum(splits.values())
    return ExportOutcome(
        failed=failed,
        tally=Tally(items=done + failed, done=done),
        samples={split: splits[split] for split in ("train", "validation", "test") if splits[split]},
        left_out=sum(row["left_out"] is not None for row in rows),
        out=config.out,
    )
