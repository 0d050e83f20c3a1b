"""Make the embedded model from nothing: render footage, train its encoders, then its UNet in sittings.

A sitting goes on from the state that the one before left, or from a model that was trained elsewhere, and ends in a
usable model.
"""

from pathlib import Path

from pydantic import Field

from flows.running.config import FlowConfig, Outcome
from flows.running.run import Run, running
from flows.running.told import told_flow
from models.errors import BadInput
from models.svd.model import FACTS_FILE, FIGURES_FILE, load_model, save_model
from models.weights.names import find_model_folder
from tasks.manifest import ManifestRef, publish_folder, read_rows
from tasks.tiny.encoders import EncodersConfig, train_encoders
from tasks.tiny.latents import FootageConfig, encode_files
from tasks.tiny.render import RenderConfig
from tasks.tiny.sitting import SittingConfig, count_files
from tasks.tiny.train import count_steps, train_unet

FILE_SECONDS = 25.0
"""On one core, for the clips of one file."""


class TinyConfig(FlowConfig):
    """Everything the embedded model is made of."""

    out: Path = Field(default=Path("out/tiny-model"), description="Folder of the footage, the encoders and the models")
    install: Path | None = Field(default=None, description="Folder the finished model is written to, in float16")
    base: Path | None = Field(
        default=None,
        description="Folder of a model to go on from where there is no state: its encoders, UNet and steps",
    )
    state: Path | None = Field(
        default=None,
        description="Folder of the training's state, which the next sitting goes on from; by default in OUT",
    )
    footage: FootageConfig = Field(default=FootageConfig(), description="The scenes, and how they are filmed")
    encoders: EncodersConfig = Field(default=EncodersConfig(), description="Autoencoder and image encoder")
    train: SittingConfig = Field(default=SittingConfig(), description="The UNet's training, and this sitting's end")


class TinyOutcome(Outcome):
    """Where the model is."""

    model: Path


@told_flow(name="tiny")
def tiny(config: TinyConfig) -> TinyOutcome:
    """Train the encoders on rendered scenes, film and encode what the UNet learns from, and hold a sitting."""
    check(config)
    with running(config.out, "tiny", config) as run:
        base = config.base or make_base(run, config)
        latents = film(run, config, base)
        state = config.state or config.out / "state"
        curve = run.whole(train_unet, config.train, base, latents, state, count_steps(base, state))
        model = config.out / read_rows(curve, ("model",))[-1]["model"]
        return TinyOutcome(model=install(config, model.parent))


def check(config: TinyConfig) -> list[str]:
    """Return nothing: everything is rendered. Raises BadInput or BadModel where the base is no model, or others' files
    are where the finished one goes."""
    check_install(config.install)
    if config.base:
        find_model_folder(str(config.base))
    return []


def make_base(run: Run, config: TinyConfig) -> Path:
    """Return the folder of a model with trained encoders and an untrained UNet."""
    render = RenderConfig(**{name: getattr(config.footage, name) for name in RenderConfig.model_fields})
    encoders = run.whole(train_encoders, config.encoders, render)
    return (config.out / read_rows(encoders, ("model",))[0]["model"]).parent


def film(run: Run, config: TinyConfig, base: Path) -> list[ManifestRef]:
    """Film and encode as many files of clips as the training draws from."""
    firsts = range(0, config.footage.scenes, config.footage.scenes_per_file)
    wanted = [(base, first) for first in firsts][: count_files(config.train.steps, config.train)]
    return run.chunks(encode_files, config.footage, wanted, [FILE_SECONDS] * len(wanted))


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
