"""The whole system in one command, offline: render footage, curate it, train a motion LoRA on it, generate, show.

The LoRA learns from the clips that curation itself labelled with the motion; no label comes from the rendering. Videos
are made three ways from the same pictures and noise: by the plain model, by the model with the LoRA, and by the model
asked for the motion by name.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.generate import GenerateConfig, generate
from flows.pipeline import PipelineConfig, pipeline
from flows.running.config import FlowConfig, Outcome
from flows.running.run import running
from flows.running.told import told_flow
from models.errors import BadModel
from models.svd.model import FIGURES_FILE
from models.weights.names import TINY
from tasks.demo.footage import FOLDER, FootageConfig, render_footage, write_held_out
from tasks.demo.page import write_page
from tasks.finetune.train import TrainConfig
from tasks.footage import Motion
from tasks.generate.job_settings import JobsConfig
from tasks.manifest import read_manifest_ref


class DemoConfig(FlowConfig):
    """How much the demo makes; the settings given are right for a laptop."""

    out: Path = Field(default=Path("out/demo"), description="Folder of everything the demo makes")
    motion: Motion = Field(default="pan_right", description="Camera motion that the LoRA learns")
    pictures: int = Field(default=6, ge=1, description="Held-out pictures that videos are made from")
    sampling_steps: int = Field(default=20, ge=1, description="Denoising steps of each video")
    footage: FootageConfig = Field(default_factory=FootageConfig, description="The rendered films")
    train: TrainConfig = Field(
        default=TrainConfig(
            steps=150, batch=8, crop=8, learning_rate=4e-3, log_sigma_mean=2.0, log_sigma_deviation=1.2
        ),
        description="The LoRA's training",
    )


class DemoOutcome(Outcome):
    """Where the page is. `failed` counts the films that were broken on purpose."""

    clips_kept: int
    page: Path


@told_flow(name="demo")
def demo(config: DemoConfig) -> DemoOutcome:
    """Render, curate, finetune, generate three ways, and write one page."""
    check(config)
    with running(config.out, "demo", config) as run:
        run.whole(render_footage, config.footage)
        pictures = config.out / "pictures"
        write_held_out(pictures, config.pictures)
        made = pipeline(run_flows(config, pictures))
        plain = generate(generate_more(config, pictures, "plain", motion=None))
        asked = generate(generate_more(config, pictures, "asked", motion=config.motion))
        outputs = {"plain": plain.outputs, "LoRA": made.made.outputs, "asked by name": asked.outputs}
        page = write_page(
            config.out,
            read_manifest_ref(made.curated.clips),
            read_manifest_ref(made.tuned.log),
            {name: read_manifest_ref(path) for name, path in outputs.items()},
            read_embedded_figures(),
        )
        return DemoOutcome(clips_kept=made.curated.funnel.kept, page=page)


def check(_: DemoConfig) -> list[str]:
    """Return nothing: the films that fail are rendered first. Raises BadModel where the embedded model was not
    measured."""
    read_embedded_figures()
    return []


def run_flows(config: DemoConfig, pictures: Path) -> PipelineConfig:
    """Run the three flows over the rendered footage."""
    return PipelineConfig(
        sources=(str(config.out / FOLDER),),
        jobs=pictures,
        out=config.out,
        train=config.train.model_copy(update={"motions": (config.motion,)}),
        generate=JobsConfig(motion=config.motion, steps=config.sampling_steps),
        workers=config.workers,
        runner=config.runner,
    )


def generate_more(config: DemoConfig, pictures: Path, name: str, motion: Motion | None) -> GenerateConfig:
    """Generate one more batch from the same pictures and noise, without the LoRA."""
    return GenerateConfig(
        jobs=pictures,
        out=config.out / f"videos-{name}",
        model="tiny",
        motion=motion,
        steps=config.sampling_steps,
        workers=config.workers,
        runner=config.runner,
    )


def read_embedded_figures() -> dict[str, Any]:
    """Return the embedded model's figures, as `make tiny-eval` measured them."""
    path = TINY / FIGURES_FILE
    if not path.is_file():
        raise BadModel(f"{path}: the embedded model was never measured. Run `make tiny-eval`.")
    return json.loads(path.read_text(encoding="utf-8"))
