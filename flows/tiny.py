"""Make the embedded model from nothing: render footage, train its encoders, then its UNet in stages.

The stages widen what is learned: one pair of motions at high noise, where direction is decided; then all directions and
speeds; then whole pictures with zooms at lower noise, where sharpness is decided.
"""

from pathlib import Path

from pydantic import Field

from flows.finetune import FinetuneConfig, finetune
from flows.running.config import FlowConfig, Outcome
from flows.running.run import running
from flows.running.told import told_flow
from models.errors import BadInput
from models.svd.model import FACTS_FILE, FIGURES_FILE, load_model, save_model
from tasks.finetune.encode import LatentsConfig
from tasks.finetune.train import TrainConfig
from tasks.manifest import publish_folder, read_rows
from tasks.tiny.encoders import EncodersConfig, train_encoders
from tasks.tiny.render import RenderConfig, render_files, write_dataset

RENDER_SECONDS = 3.0
"""On one core, for one file of forty scenes."""


def first_pair() -> TrainConfig:
    """Return the first stage: one pair of opposite motions, on squares of the latents, at noise where only the
    direction shows."""
    return TrainConfig(
        parameters="all",
        words=True,
        motions=("pan_left", "pan_right"),
        steps=500,
        batch=16,
        crop=8,
        log_sigma_mean=2.0,
        log_sigma_deviation=1.2,
        ema=0.998,
    )


def all_directions() -> TrainConfig:
    """Return the second stage: the still camera, both pans and both tilts."""
    motions = ("static", "pan_left", "pan_right", "tilt_down", "tilt_up")
    return first_pair().model_copy(update={"motions": motions, "steps": 1300})


def whole_pictures() -> TrainConfig:
    """Return the last stage: every motion, zooms included, on whole latents and at the lower noise where detail is
    decided."""
    changes = {"motions": None, "steps": 600, "batch": 8, "crop": None, "learning_rate": 1e-3}
    return first_pair().model_copy(update=changes | {"log_sigma_mean": 1.3, "log_sigma_deviation": 1.5})


class TinyConfig(FlowConfig):
    """Everything the embedded model is made of."""

    out: Path = Field(default=Path("out/tiny-model"), description="Folder of the footage, the runs and the model")
    install: Path | None = Field(default=None, description="Folder the finished model is written to, in float16")
    render: RenderConfig = Field(default=RenderConfig(), description="The footage")
    encoders: EncodersConfig = Field(default=EncodersConfig(), description="Autoencoder and image encoder")
    encode: LatentsConfig = Field(
        default=LatentsConfig(windows_per_clip=1, condition_draws=2), description="How clips become latents"
    )
    stages: tuple[TrainConfig, ...] = Field(
        default=(first_pair(), all_directions(), whole_pictures()), description="The UNet's trainings, in order"
    )


class TinyOutcome(Outcome):
    """Where the model is."""

    model: Path


@told_flow(name="tiny")
def tiny(config: TinyConfig) -> TinyOutcome:
    """Render footage, train the encoders on it, then the UNet stage by stage."""
    check_install(config.install)
    footage, render = config.out / "footage", config.render
    with running(config.out, "tiny", config) as run:
        firsts = list(range(0, render.scenes, render.scenes_per_file))
        files = run.at(footage).chunks(render_files, render, firsts, [RENDER_SECONDS] * len(firsts))
        clips = write_dataset(footage, files)
        encoders = run.whole(train_encoders, config.encoders, footage, clips)
        model = (config.out / read_rows(encoders, ("model",))[0]["model"]).parent
    for number, stage in enumerate(config.stages, start=1):
        model = train_stage(config, number, stage, model)
    return TinyOutcome(model=install(config, model))


def check(_: TinyConfig) -> list[str]:
    """Return nothing: everything is rendered."""
    return []


def train_stage(config: TinyConfig, number: int, stage: TrainConfig, base: Path) -> Path:
    """Train the UNet from `base` for one stage; return the folder of the model that results."""
    return finetune(
        FinetuneConfig(
            dataset=config.out / "footage",
            out=config.out / f"stage-{number}",
            base=str(base),
            encode=config.encode,
            train=stage,
            workers=config.workers,
        )
    ).weights.resolve()


def install(config: TinyConfig, model: Path) -> Path:
    """Copy the finished model to `config.install` in half precision, where that is asked for; return where the model
    is.

    Files of other names there stay, so does the model card. The figures of the former model go; `reelmill evaluate`
    measures them.
    """
    if config.install is None:
        return model
    with publish_folder(config.install) as aside:
        save_model(load_model(str(model)), aside, half=True)
    (config.install / FIGURES_FILE).unlink(missing_ok=True)
    return config.install


def check_install(folder: Path | None) -> None:
    """Raise BadInput where `folder` has files and none is a model's, so that no file of others is replaced."""
    if folder and folder.is_dir() and any(folder.iterdir()) and not (folder / FACTS_FILE).is_file():
        raise BadInput(f"{folder}: has files that Reelmill did not write. Choose another folder for --install.")
