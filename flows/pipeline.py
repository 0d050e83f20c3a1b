"""The whole method, and the file to read first: footage to clips, clips to a model, pictures to videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.curate import CurateConfig, CurateOutcome, Source, curate, follow_split
from flows.curate import check as check_curation
from flows.finetune import APPROVE_HELP, RECIPE_HELP, RECIPES, FinetuneConfig, FinetuneOutcome, Recipe, finetune
from flows.generate import GenerateConfig, GenerateOutcome, generate
from flows.running.config import FlowConfig, Outcome, Tally
from flows.running.layers import find_preset, list_preset_leaves
from flows.running.told import told_flow
from models.weights.names import MODEL_HELP, find_model_folder
from tasks.curate.split import SplitConfig
from tasks.finetune.train import TrainConfig
from tasks.generate.job_settings import JobsConfig, read_list
from tasks.keep_rules import SelectConfig


class PipelineConfig(FlowConfig):
    """Footage and pictures in; a dataset, a camera-motion LoRA and videos out."""

    sources: tuple[Source, ...] = Field(min_length=1, description="Footage: video files, folders of them, or globs")
    jobs: Path = Field(description="Pictures: a folder, or a table of jobs")
    out: Path = Field(description="Folder of the dataset, the run and the videos")
    base: str = Field(default="tiny", description=f"The model to start from: {MODEL_HELP}")
    split: SplitConfig = Field(default_factory=SplitConfig, description="Where shots end, how long clips are")
    select: SelectConfig = Field(default_factory=SelectConfig, description="Which clips are kept")
    recipe: Recipe = Field(default="motion-lora", description=RECIPE_HELP)
    train: TrainConfig = Field(default=TrainConfig(), description="What trains, and how long")
    approve: bool = Field(default=False, description=APPROVE_HELP)
    generate: JobsConfig = Field(default_factory=JobsConfig, description="What clips are made with")

    @property
    def works_on(self) -> str | None:
        """Return the name of the device that its flows work on."""
        return "auto"

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the recipe's settings, above one shortest length for split and select."""
        return [follow_split(given), find_preset(RECIPES, given.get("recipe", "motion-lora"))]

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return what a recipe may set, and what follows another setting."""
        return {*list_preset_leaves(RECIPES), "select.min_clip_s"}


class PipelineOutcome(Outcome):
    """What the three flows made."""

    curated: CurateOutcome
    tuned: FinetuneOutcome
    made: GenerateOutcome


@told_flow(name="pipeline")
def pipeline(config: PipelineConfig) -> PipelineOutcome:
    """Curate the footage, finetune on the clips it keeps, generate with what was learned."""
    check(config)
    curated = curate(make_curate_config(config))
    tuned = finetune(make_finetune_config(config))
    made = generate(make_generate_config(config, tuned.weights))
    parts = [curated, tuned, made]
    failed = sum(part.failed for part in parts)
    return PipelineOutcome(failed=failed, tally=add_tallies(parts), curated=curated, tuned=tuned, made=made)


def add_tallies(parts: Sequence[Outcome]) -> Tally:
    """Return what the parts count together; where one of them made nothing, nothing is done."""
    tallies = [part.tally for part in parts if part.tally]
    done = 0 if any(part.is_nothing_made for part in parts) else sum(each.done for each in tallies)
    said = next((each.said for each in tallies if each.said), None)
    items, waiting = sum(each.items for each in tallies), sum(each.waiting for each in tallies)
    return Tally(items=items, done=done, waiting=waiting, said=said)


def check(config: PipelineConfig) -> list[str]:
    """Return a sentence for each listed source that is not there. Raises BadInput or BadModel where sources, jobs or
    the model cannot be used; the dataset that is trained on is still to be made."""
    find_model_folder(config.base)
    read_list(config.jobs, None)
    return check_curation(make_curate_config(config))


def make_curate_config(config: PipelineConfig) -> CurateConfig:
    """Return the settings of curation."""
    return CurateConfig(
        sources=config.sources,
        out=config.out / "dataset",
        split=config.split,
        select=config.select,
        workers=config.workers,
        runner=config.runner,
    )


def make_finetune_config(config: PipelineConfig) -> FinetuneConfig:
    """Return the settings of finetuning, on the dataset that curation writes."""
    return FinetuneConfig(
        dataset=config.out / "dataset",
        out=config.out / "run",
        base=config.base,
        recipe=config.recipe,
        train=config.train,
        approve=config.approve,
        workers=config.workers,
        runner=config.runner,
    )


def make_generate_config(config: PipelineConfig, weights: Path) -> GenerateConfig:
    """Return the settings of generation: the base model with the trained LoRA, or the trained model."""
    with_weights = {"lora": str(weights), "model": config.base} if weights.suffix else {"model": str(weights)}
    settings: dict[str, Any] = config.generate.model_dump() | with_weights
    return GenerateConfig(
        **settings,
        jobs=config.jobs,
        out=config.out / "videos",
        workers=config.workers,
        runner=config.runner,
    )
