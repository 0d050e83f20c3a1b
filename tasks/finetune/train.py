"""Training on encoded clips: the whole UNet, or a LoRA on its temporal attention.

The loss is the EDM loss with v-scaling (models/svd/edm.py). The complete state is saved every few hundred steps, and a
training that was killed resumes from it and ends with the same weights; one that is asked for more steps goes on from
where it ended. The log has the loss and, where whole sources were held out, the error on their clips at three noise
levels: when the motion they show is asked for, when the opposite one is (in a model that learns words), and for a copy
of the picture. In a model that follows the words, the first is well below the second. A loss that is not a number, or
grows to many times what it was, ends the training.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NoReturn

import pyarrow as pa
import torch
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.errors import BadInput, TrainingDiverged
from models.generation.model_cache import find_svd_folder
from models.memory.training_plan import LADDER, plan_training
from models.svd.chunked_training import train_in_chunks
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, remove_lora, save_lora
from models.svd.model import ModelFacts, VideoModel, load_facts, load_model, read_setting, save_model
from models.svd.training import (
    StepSettings,
    TrainingBatch,
    TrainingState,
    diffusion_loss,
    learning_rate_at,
    new_state,
    probe_error,
    step_generator,
    suggest_settings,
)
from models.weights.names import find_revision, format_name, pin_name
from tasks.caching import Step, find_or_compute
from tasks.finetune import train_checkpoints
from tasks.finetune.train_checkpoints import TrainingLog
from tasks.finetune.train_examples import CLIP_COLUMNS, ExampleChoice, Examples, gather_examples, hold_out
from tasks.footage import OPPOSITE
from tasks.manifest import ManifestRef, make_table, publish, publish_folder
from tasks.stopping import is_asked_to_stop

VERSION = 2

NEEDS = CLIP_COLUMNS

PROBE_SIGMAS = (2.0, 8.0, 30.0)

LOG_EVERY, PROBE_EVERY = 10, 100

RECENT, GROWN = 30, 10.0
"""A training diverges where the median loss of its last steps is so many times that of its first ones."""

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
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate, falling by a cosine; by default as models of that size need",
    )
    log_sigma_mean: float | None = Field(
        default=None, description="Mean of ln(sigma), higher for more frames and pixels; by default as the model needs"
    )
    log_sigma_deviation: float | None = Field(
        default=None, ge=0, description="Deviation of ln(sigma); by default as the model needs"
    )
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
        self.model, self.examples, self.config = model, examples, settle(config, model.facts)
        config = self.config
        self.train_on, self.probe_on = hold_out(examples.all)
        self._check_crop()
        self.words = dict(model.words)
        self.state = self._trainable()
        self.settings = StepSettings(
            config.log_sigma_mean or 0.0,
            config.log_sigma_deviation or 0.0,
            config.drop_picture,
            config.drop_word,
            config.crop,
        )

    def _check_crop(self) -> None:
        sides = self.examples.batch([0], draw=0).latents.shape[-2:]
        if self.config.crop is not None and self.config.crop > min(sides):
            raise BadInput(
                f"--train.crop {self.config.crop}: this model's latents have {sides[1]} x {sides[0]} cells. Ask for at "
                f"most {min(sides)}, or leave it out."
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
        """Make one optimiser step; return its loss and its learning rate. Raises FloatingPointError where the loss is
        not a number."""
        number, config = self.state.step, self.config
        generator = step_generator(config.seed, number)
        picks = torch.randint(len(self.train_on), (config.batch,), generator=generator).tolist()
        draw = int(torch.randint(1 << 30, (), generator=generator))
        batch = self.examples.batch([self.train_on[i] for i in picks], draw)
        loss = diffusion_loss(self.model.unet, self.words, batch, self.settings, generator)
        rate = learning_rate_at(number, config.steps, config.learning_rate or 0.0)
        self.state.apply(loss, rate)
        return loss.item(), rate

    def probe(self) -> dict[str, float]:
        """Return the errors on the held-out clips, by column; empty when none are held out."""
        if not self.probe_on:
            return {}
        at_once = self.config.batch
        parts = [self.probe_on[i : i + at_once] for i in range(0, len(self.probe_on), at_once)]
        errors = [self._probe_batch(self.examples.batch(part, draw=0)) for part in parts]
        shares = [len(part) / len(self.probe_on) for part in parts]
        return {name: sum(share * each[name] for share, each in zip(shares, errors, strict=True)) for name in errors[0]}

    def _probe_batch(self, batch: TrainingBatch) -> dict[str, float]:
        asked = {"right": batch.motions}
        if self.words:
            asked["opposite"] = [OPPOSITE.get(motion, motion) for motion in batch.motions]
        errors = {
            f"{kind}_{sigma:g}": probe_error(self.model.unet, self.words, batch, motions, sigma)
            for kind, motions in asked.items()
            for sigma in PROBE_SIGMAS
        }
        return errors | {"copy": (batch.latents - batch.latents[:, :1]).square().mean().item()}

    def run(self, checkpoint: Path, made_with: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Train to the last step, from the checkpoint where there is one; return the rows of the whole log.

        `made_with` says by name what the training depends on. Raises KeyboardInterrupt with the state saved where work
        is asked to stop, and TrainingDiverged.
        """
        so_far = train_checkpoints.resume(checkpoint, self.state, made_with)
        if so_far.losses:
            log.info("train: goes on from step %d", self.state.step)
        so_far.plan = self._plan(so_far.plan)
        with train_in_chunks(self.model.unet, LADDER[so_far.plan]):
            self._go_on(checkpoint, so_far)
        so_far.ended = True
        train_checkpoints.keep(checkpoint, self.state, so_far)
        train_checkpoints.forget_others(checkpoint)
        self.state.load_average()
        return so_far.rows

    def _plan(self, before: str) -> str:
        """Return the name of the memory plan; that `before`, of a training that is resumed, where it fits still."""
        _, frames, channels, *sides = self.examples.batch([0], draw=0).latents.shape
        height, width = (min(side, self.config.crop or side) for side in sides)
        plan = plan_training(self.model.unet, self.config.batch, (frames, channels, height, width), before)
        if LADDER[plan]:
            log.info("train: in %s, as memory allows", plan)
        return plan

    def _go_on(self, checkpoint: Path, so_far: TrainingLog) -> None:
        while self.state.step < self.config.steps:
            if is_asked_to_stop():
                train_checkpoints.keep(checkpoint, self.state, so_far)
                raise KeyboardInterrupt
            self._advance(checkpoint, so_far)

    def _advance(self, checkpoint: Path, so_far: TrainingLog) -> None:
        """Make one step, and log and save what is due."""
        try:
            loss, rate = self.step()
        except FloatingPointError:
            self._give_up(checkpoint, so_far, "is not a number")
        so_far.losses.append(loss)
        if self._is_due(LOG_EVERY):
            probed = self.probe() if self._is_due(PROBE_EVERY) else {}
            _say(so_far.add_row({"learning_rate": rate, **probed}), self.config.steps)
            if has_grown(so_far.losses):
                self._give_up(checkpoint, so_far, f"is more than {GROWN:g} times what it was")
        if self.state.step % self.config.checkpoint_every == 0:
            train_checkpoints.keep(checkpoint, self.state, so_far)

    def _give_up(self, checkpoint: Path, so_far: TrainingLog, what: str) -> NoReturn:
        """Save the state, so that it can be looked at, and raise TrainingDiverged."""
        so_far.ended = True
        train_checkpoints.keep(checkpoint, self.state, so_far)
        raise TrainingDiverged(
            f"train: at step {self.state.step + 1} of {self.config.steps} the loss {what}. The likely cause is the "
            f"learning rate, {self.config.learning_rate:g}: lower --train.learning-rate. Nothing is published; the "
            f"last state is {checkpoint}."
        )

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps


def settle(config: TrainConfig, facts: ModelFacts) -> TrainConfig:
    """Return the settings with what was left to the model."""
    suggested = suggest_settings(facts.width * facts.height, config.parameters == "lora")
    left = {name: value for name, value in vars(suggested).items() if getattr(config, name) is None}
    return config.model_copy(update=left)


def has_grown(losses: Sequence[float]) -> bool:
    """Return whether the last losses are many times the first ones."""
    return len(losses) >= 2 * RECENT and median(losses[-RECENT:]) > GROWN * median(losses[:RECENT])


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
        opposite = f"opposite {row['opposite_8']:.3f}, " if "opposite_8" in row else ""
        probed = f", held out, at sigma 8: right {row['right_8']:.3f}, {opposite}copy {row['copy']:.3f}"
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
    chosen = gather_examples(dataset, encoded, clips, ExampleChoice(config.motions, config.min_speed))
    examples = Examples(chosen, read_setting(model.vae, "scaling_factor"))
    checkpoint = run / "checkpoints" / f"{key}.safetensors"
    training = Training(model, examples, config)
    _say_wordless(training, base)
    made_with = config.model_dump(mode="json") | {
        "base": model.revision,
        "dataset": clips.digest,
        "latents": _digest(ref.digest for ref in encoded),
    }
    rows = training.run(checkpoint, made_with)
    lineage = {
        "run": key,
        "base": format_name(pin_name(base), model.revision),
        "base_revision": model.revision,
        "dataset": dataset.name,
        "dataset_digest": clips.digest,
        "clips": sorted({examples.all[i].clip_id for i in training.train_on}),
        "held_out": sorted({examples.all[i].clip_id for i in training.probe_on}),
        "train": config.model_dump(mode="json"),
    }
    weights = _save(training, run / "weights" / key, lineage)
    name = weights.relative_to(run).as_posix()
    return make_table([row | {"weights": name} for row in rows], SCHEMA)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
    settled = settle(config, load_facts(find_svd_folder(base)))
    revision = find_revision(base)
    return find_or_compute(
        STEP, run, settled, inputs, lambda key: train(dataset, run, key, base, encoded, clips, settled), revision
    )
