"""Training on encoded clips: the whole UNet, or a LoRA on its temporal attention.

The loss is the EDM loss with v-scaling (models/svd/edm.py). The complete state is saved every few hundred steps, and a
training that was killed resumes from it and ends with the same weights. The log has the loss and, where clips were held
out, the error on them at three noise levels: when the motion they show is asked for, when the opposite one is, and for
a copy of the picture. In a model that follows the words, the first is well below the second.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.generation.model_cache import find_svd_folder
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, remove_lora, save_lora
from models.svd.model import VideoModel, load_model, read_setting, save_model
from models.svd.training import (
    StepSettings,
    TrainingState,
    diffusion_loss,
    learning_rate_at,
    new_state,
    probe_error,
    step_generator,
)
from models.weights.names import find_revision, format_name, pin_name
from tasks.caching import Step, find_or_compute
from tasks.finetune import train_checkpoints
from tasks.finetune.train_examples import CLIP_COLUMNS, ExampleChoice, Examples, gather_examples, hold_out
from tasks.footage import OPPOSITE
from tasks.manifest import ManifestRef, make_table, publish, publish_folder

VERSION = 1

NEEDS = CLIP_COLUMNS

PROBE_SIGMAS = (2.0, 8.0, 30.0)

LOG_EVERY, PROBE_EVERY = 10, 100

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32()),
        pa.field("loss", pa.float32()),
        pa.field("learning_rate", pa.float32()),
        *(pa.field(f"{kind}_{sigma:g}", pa.float32()) for kind in ("right", "opposite") for sigma in PROBE_SIGMAS),
        pa.field("copy", pa.float32()),
        pa.field("weights", pa.string()),
    ]
)

STEP = Step("train", VERSION, SCHEMA, files=("weights",))

log = logging.getLogger("reelmill")


class TrainConfig(BaseModel):
    """What trains, on which clips, and how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Literal["lora", "all"] = Field(
        default="lora", description="A LoRA on temporal attention, or all of the UNet"
    )
    motions: tuple[str, ...] | None = Field(default=None, description="Only clips of these camera motions")
    min_speed: float = Field(default=0.0, ge=0, description="Leave out moving clips slower than this, sides/s")
    steps: int = Field(default=200, ge=1, description="Optimiser steps")
    batch: int = Field(default=8, ge=1, description="Clips per step")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate, falling by a cosine")
    log_sigma_mean: float = Field(default=0.7, description="Mean of ln(sigma); higher for more frames and pixels")
    log_sigma_deviation: float = Field(default=1.6, ge=0, description="Deviation of ln(sigma)")
    drop_picture: float = Field(
        default=0.1, ge=0, le=1, description="Share of clips without their picture, for guidance"
    )
    drop_word: float = Field(default=0.25, ge=0, le=1, description="Share of batches without their motion word")
    words: bool = Field(default=False, description="Learn a context token for each camera motion")
    crop: int | None = Field(default=None, ge=4, description="Side of the random squares trained on, in latent cells")
    rank: int = Field(default=16, ge=1, description="Rank of the LoRA")
    alpha: float = Field(default=16.0, gt=0, description="Scale of the LoRA: it is multiplied by alpha / rank")
    ema: float = Field(default=0.99, ge=0, lt=1, description="Decay of the weights' moving average, which is kept")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between saved states")
    seed: int = Field(default=0, ge=0, description="Seed of batches and noise")


class Training:
    """One run over one set of examples: what is trained, and the training loop."""

    def __init__(self, model: VideoModel, examples: Examples, config: TrainConfig) -> None:
        self.model, self.examples, self.config = model, examples, config
        self.train_on, self.probe_on = hold_out(examples.all)
        self.words = dict(model.words)
        self.state = self._trainable()
        self.settings = StepSettings(
            config.log_sigma_mean, config.log_sigma_deviation, config.drop_picture, config.drop_word, config.crop
        )

    def _trainable(self) -> TrainingState:
        config, unet = self.config, self.model.unet
        if config.parameters == "lora":
            add_lora(unet, config.rank, config.alpha)
            # A LoRA is used without a word, so it learns without one.
            self.words = {}
            _seed_lora(unet, config.seed)
        else:
            unet.requires_grad_(True)
        chosen = {name: p for name, p in unet.named_parameters() if p.requires_grad}
        if config.parameters == "all" and config.words:
            learned = self._word_parameters()
            self.words |= learned
            chosen |= {f"word.{name}": word for name, word in learned.items()}
        return new_state(chosen, config.ema)

    def _word_parameters(self) -> dict[str, nn.Parameter]:
        width = read_setting(self.model.unet, "cross_attention_dim")
        generator = torch.Generator().manual_seed(self.config.seed)
        names = sorted({e.motion for e in self.examples.all if e.motion} | set(self.words))
        fresh = {name: torch.randn(width, generator=generator) for name in names}
        return {name: nn.Parameter(self.words.get(name, fresh[name]).detach().clone()) for name in names}

    def step(self) -> tuple[float, float]:
        """Make one optimiser step; return its loss and its learning rate."""
        number, config = self.state.step, self.config
        generator = step_generator(config.seed, number)
        picks = torch.randint(len(self.train_on), (config.batch,), generator=generator).tolist()
        draw = int(torch.randint(1 << 30, (), generator=generator))
        batch = self.examples.batch([self.train_on[i] for i in picks], draw)
        loss = diffusion_loss(self.model.unet, self.words, batch, self.settings, generator)
        rate = learning_rate_at(number, config.steps, config.learning_rate)
        self.state.apply(loss, rate)
        return loss.item(), rate

    def probe(self) -> dict[str, float]:
        """Return the errors on the held-out clips, by column; empty when none are held out or no word is learned."""
        if not self.probe_on or not self.words:
            return {}
        batch = self.examples.batch(self.probe_on, draw=0)
        asked = {"right": batch.motions, "opposite": [OPPOSITE.get(m, m) for m in batch.motions]}
        errors = {
            f"{kind}_{sigma:g}": probe_error(self.model.unet, self.words, batch, motions, sigma)
            for kind, motions in asked.items()
            for sigma in PROBE_SIGMAS
        }
        return errors | {"copy": (batch.latents - batch.latents[:, :1]).square().mean().item()}

    def run(self, checkpoint: Path) -> list[dict[str, Any]]:
        """Train to the last step, from the checkpoint where there is one; return the rows of the whole log."""
        so_far, config = train_checkpoints.resume(checkpoint, self.state), self.config
        if so_far.losses:
            log.info("train: resumes from step %d", self.state.step)
        while self.state.step < config.steps:
            loss, rate = self.step()
            so_far.losses.append(loss)
            done = self.state.step
            if self._is_due(LOG_EVERY):
                probed = self.probe() if self._is_due(PROBE_EVERY) else {}
                _say(so_far.add_row({"learning_rate": rate, **probed}), config.steps)
            if done % config.checkpoint_every == 0:
                train_checkpoints.keep(checkpoint, self.state, so_far)
        self.state.load_average()
        return so_far.rows

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps


def _seed_lora(unet: nn.Module, seed: int) -> None:
    """Draw the LoRA's first factors from the run's seed. The second ones are zero, so training starts at the base
    model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if ".lora_A." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5


def _say_wordless(training: Training, base: str) -> None:
    """Say which motions the model has no word for, where it is trained with words."""
    examples = training.examples.all
    without = [e.motion or "unmeasured" for e in examples if training.words and e.motion not in training.words]
    if without:
        log.warning(
            "train: %s has no word for %s; the %d windows that show it are trained on without one. --train.words "
            "teaches it.",
            base,
            ", ".join(sorted(set(without))),
            len(without),
        )


def _say(row: dict[str, Any], steps: int) -> None:
    probed = ""
    if "right_8" in row:
        probed = f", at sigma 8 right {row['right_8']:.3f}, opposite {row['opposite_8']:.3f}, copy {row['copy']:.3f}"
    every = log.info if probed or row["step"] % 50 == 0 else log.debug
    every("train: step %d of %d, loss %.4f%s", row["step"], steps, row["loss"], probed)


def train(
    dataset: Path,
    run: Path,
    key: str,
    base: str,
    encoded: Sequence[ManifestRef],
    clips: ManifestRef,
    config: TrainConfig,
) -> pa.Table:
    """Train, and save the result in `run`/weights/KEY: `lora.safetensors`, or a model folder."""
    model = load_model(base)
    chosen = gather_examples(dataset, encoded, ExampleChoice(config.motions, config.min_speed))
    examples = Examples(chosen, model.facts.fps)
    checkpoint = run / "checkpoints" / f"{key}.safetensors"
    training = Training(model, examples, config)
    _say_wordless(training, base)
    rows = training.run(checkpoint)
    lineage = {
        "run": key,
        "base": format_name(pin_name(base), model.revision),
        "base_revision": model.revision,
        "dataset": dataset.name,
        "dataset_digest": clips.digest,
        "clips": sorted({e.clip_id for e in examples.all}),
        "train": config.model_dump(mode="json"),
    }
    weights = _save(training, run / "weights" / key, lineage)
    train_checkpoints.forget(checkpoint)
    name = weights.relative_to(run).as_posix()
    return make_table([row | {"weights": name} for row in rows], SCHEMA)


def _save(training: Training, folder: Path, lineage: dict[str, Any]) -> Path:
    """Write what was trained. The file returned is written last, so that its existence means that all is there."""
    model, config = training.model, training.config
    if config.parameters == "lora":
        path = folder / "lora.safetensors"
        with publish(path) as aside:
            save_lora(aside, read_lora_weights(model.unet), LoraFacts(config.rank, config.alpha, lineage))
        remove_lora(model.unet)
        return path
    facts = model.facts.model_copy(update={"lineage": lineage})
    words = {name: word.detach() for name, word in training.words.items()}
    with publish_folder(folder / "model") as aside:
        save_model(_replace_parts(model, words=words, facts=facts), aside)
    return folder / "model" / "model_index.json"


def _replace_parts(model: VideoModel, **changes: Any) -> VideoModel:
    return VideoModel(**{**vars(model), **changes})


@task(name="train")
def train_model(
    run: Path, config: TrainConfig, dataset: Path, base: str, encoded: list[ManifestRef], clips: ManifestRef
) -> ManifestRef:
    """Train `base` on the encoded clips of the dataset, below `run`; the manifest is the training's log and
    names the weights."""
    inputs = [*encoded, clips]
    find_svd_folder(base)
    revision = find_revision(base)
    return find_or_compute(
        STEP, run, config, inputs, lambda key: train(dataset, run, key, base, encoded, clips, config), revision
    )
