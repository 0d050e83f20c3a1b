"""Training on encoded clips: the whole UNet, or a LoRA on its temporal attention.

The loss is the EDM loss with v-scaling (models/edm.py). Every few hundred steps the whole state is kept, and a training
that was killed goes on from there to the same weights. The log has the loss, and where clips were held out, the error
on them at three noise levels: with the motion they show asked for, with the opposite one, and for a copy of the
picture. A model that follows has the first well below the second.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from torch import Tensor, nn

from models.errors import BadInput
from models.loaded import model_folder
from models.lora import LoraFacts, add_lora, lora_weights, remove_lora, save_lora
from models.svd import VideoModel, load_model, motion_bucket, save_model, setting, weights_digest
from models.training import (
    Batch,
    StepSettings,
    TrainingState,
    diffusion_loss,
    learning_rate_at,
    new_state,
    probe_error,
    step_generator,
)
from tasks.caching import Step, cached
from tasks.footage import OPPOSITE
from tasks.manifest import ManifestRef, publish, publish_folder, read_manifest, read_rows, table_of

VERSION = 1

NEEDS = ("clip_id", "camera_motion", "motion_score")

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
    log_sigma_mean: float = Field(default=0.7, description="Mean of ln(sigma); more frames and pixels want more")
    log_sigma_deviation: float = Field(default=1.6, ge=0, description="Deviation of ln(sigma)")
    drop_picture: float = Field(
        default=0.1, ge=0, le=1, description="Share of clips without their picture, for guidance"
    )
    drop_word: float = Field(default=0.25, ge=0, le=1, description="Share of batches whose motion is not told")
    words: bool = Field(default=False, description="Learn a context token for each camera motion")
    crop: int | None = Field(default=None, ge=4, description="Side of the random squares trained on, in latent cells")
    rank: int = Field(default=16, ge=1, description="Rank of the LoRA")
    alpha: float = Field(default=16.0, gt=0, description="Scale of the LoRA; alpha / rank multiplies it")
    ema: float = Field(default=0.99, ge=0, lt=1, description="Decay of the weights' moving average, which is kept")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between saved states")
    seed: int = Field(default=0, ge=0, description="Seed of batches and noise")


@dataclass(frozen=True)
class Example:
    """One encoded window: where it lies, and what its clip measured."""

    clip_id: str
    latents: Path
    row: int
    motion: str
    bucket: int


class Examples:
    """Encoded windows, read a batch at a time from memory-mapped safetensors."""

    def __init__(self, examples: Sequence[Example], fps: float) -> None:
        self.all = list(examples)
        self.fps = fps
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Sequence[int], draw: int) -> Batch:
        """The windows at `indices`, each with its picture's noise draw number `draw`, modulo the draws it has."""
        chosen = [self.all[i] for i in indices]
        rows = [self._row(example, draw) for example in chosen]
        ids = [[self.fps - 1, e.bucket, float(r["sigma"])] for e, r in zip(chosen, rows, strict=True)]
        return Batch(
            latents=torch.stack([r["latents"] for r in rows]).float(),
            pictures=torch.stack([r["picture"] for r in rows]).float(),
            embeddings=torch.stack([r["embedding"] for r in rows]).float(),
            ids=torch.tensor(ids),
            motions=[e.motion for e in chosen],
        )

    def _row(self, example: Example, draw: int) -> dict[str, Tensor]:
        file = self._open.get(example.latents)
        if file is None:
            file = self._open[example.latents] = safe_open(example.latents, "pt")
        parts = {name: file.get_slice(name)[example.row] for name in ("latents", "pictures", "sigmas", "embeddings")}
        draw %= len(parts["sigmas"])
        return {
            "latents": parts["latents"],
            "picture": parts["pictures"][draw],
            "sigma": parts["sigmas"][draw],
            "embedding": parts["embeddings"],
        }


def gather_examples(root: Path, encoded: Sequence[ManifestRef], config: TrainConfig) -> list[Example]:
    """The windows to train on, below the dataset's `root`; raises BadInput when none is left."""
    clips = {row["clip_id"]: row for row in read_rows(root / "clips.parquet", NEEDS)}
    examples = []
    for manifest in encoded:
        for row in read_rows(manifest, ("clip_id", "latents", "row")):
            clip = clips.get(row["clip_id"])
            if row["latents"] is None or clip is None or not _wanted(clip, config):
                continue
            motion, bucket = clip["camera_motion"], motion_bucket(clip["motion_score"] or 0.0)
            examples.append(Example(row["clip_id"], root / row["latents"], row["row"], motion, bucket))
    if not examples:
        asked = f" of {', '.join(config.motions)}" if config.motions else ""
        raise BadInput(f"{root}: no clip{asked} is long enough to train on. Curate more, or ask for other motions.")
    return examples


def _wanted(clip: dict[str, Any], config: TrainConfig) -> bool:
    if config.motions is not None and clip["camera_motion"] not in config.motions:
        return False
    return clip["camera_motion"] == "static" or (clip["motion_score"] or 0.0) >= config.min_speed


def held_out(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Indices to train on and indices to probe with: one clip in twenty, by its name, where there are a hundred."""
    if len(examples) < 100:
        return list(range(len(examples))), []
    probe = [i for i, e in enumerate(examples) if int(hashlib.sha256(e.clip_id.encode()).hexdigest(), 16) % 20 == 0]
    return sorted(set(range(len(examples))) - set(probe)), probe[:48]


class Training:
    """One run over one set of examples: what is learned, and the loop that learns it."""

    def __init__(self, model: VideoModel, examples: Examples, config: TrainConfig) -> None:
        self.model, self.examples, self.config = model, examples, config
        self.train_on, self.probe_on = held_out(examples.all)
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
        width = setting(self.model.unet, "cross_attention_dim")
        generator = torch.Generator().manual_seed(self.config.seed)
        names = sorted({e.motion for e in self.examples.all} | set(self.words))
        fresh = {name: torch.randn(width, generator=generator) for name in names}
        return {name: nn.Parameter(self.words.get(name, fresh[name]).detach().clone()) for name in names}

    def step(self) -> tuple[float, float]:
        """One optimiser step: its loss and its learning rate."""
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
        """The errors on the held-out clips, by column; nothing where none are held out or no word is learned."""
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
        """Train to the last step, from the checkpoint where there is one; the log's rows from there on."""
        rows, losses = self._resume(checkpoint), []
        while self.state.step < self.config.steps:
            loss, rate = self.step()
            losses.append(loss)
            done = self.state.step
            if done % LOG_EVERY == 0 or done == self.config.steps:
                row = {"step": done, "loss": sum(losses) / len(losses), "learning_rate": rate}
                probed = self.probe() if done % PROBE_EVERY == 0 or done == self.config.steps else {}
                rows.append(row | probed)
                losses = []
                _say(row | probed, self.config.steps)
            if done % self.config.checkpoint_every == 0:
                self._keep(checkpoint, rows)
        self.state.load_average()
        return rows

    def _keep(self, checkpoint: Path, rows: list[dict[str, Any]]) -> None:
        with publish(checkpoint) as aside:
            self.state.save(aside)
        with publish(checkpoint.with_suffix(".parquet")) as aside:
            pq.write_table(table_of(rows, SCHEMA), aside)

    def _resume(self, checkpoint: Path) -> list[dict[str, Any]]:
        if not checkpoint.is_file():
            return []
        self.state.load(checkpoint)
        log.info("train: goes on from step %d", self.state.step)
        rows = read_manifest(checkpoint.with_suffix(".parquet")).to_pylist()
        return [row for row in rows if row["step"] <= self.state.step]


def _seed_lora(unet: nn.Module, seed: int) -> None:
    """Draw the LoRA's first factors from the run's seed; the second ones are zero: training starts at the base."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if ".lora_A." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5


def _say(row: dict[str, Any], steps: int) -> None:
    probed = ""
    if "right_8" in row:
        probed = f", at sigma 8 right {row['right_8']:.3f}, opposite {row['opposite_8']:.3f}, copy {row['copy']:.3f}"
    every = log.info if probed or row["step"] % 50 == 0 else log.debug
    every("train: step %d of %d, loss %.4f%s", row["step"], steps, row["loss"], probed)


def train(root: Path, run: Path, key: str, base: str, encoded: Sequence[ManifestRef], config: TrainConfig) -> pa.Table:
    """Train, and keep the result in `run`/weights/KEY: `lora.safetensors`, or a model folder."""
    model = load_model(base)
    examples = Examples(gather_examples(root, encoded, config), model.facts.fps)
    checkpoint = run / "checkpoints" / f"{key}.safetensors"
    training = Training(model, examples, config)
    rows = training.run(checkpoint)
    lineage = {
        "run": key,
        "base": base if base == "tiny" else str(Path(base).name),
        "base_revision": model.revision,
        "dataset": str(root.name),
        "clips": sorted({e.clip_id for e in examples.all}),
        "train": config.model_dump(mode="json"),
    }
    weights = _save(training, run / "weights" / key, lineage)
    checkpoint.unlink(missing_ok=True)
    checkpoint.with_suffix(".parquet").unlink(missing_ok=True)
    name = weights.relative_to(run).as_posix()
    return table_of([row | {"weights": name} for row in rows], SCHEMA)


def _save(training: Training, folder: Path, lineage: dict[str, Any]) -> Path:
    """Write what was trained; the file returned is written last, so that its existence means completeness."""
    model, config = training.model, training.config
    if config.parameters == "lora":
        path = folder / "lora.safetensors"
        with publish(path) as aside:
            save_lora(aside, lora_weights(model.unet), LoraFacts(config.rank, config.alpha, lineage))
        remove_lora(model.unet)
        return path
    facts = model.facts.model_copy(update={"lineage": lineage})
    words = {name: word.detach() for name, word in training.words.items()}
    with publish_folder(folder / "model") as aside:
        save_model(_with(model, words=words, facts=facts), aside)
    return folder / "model" / "model_index.json"


def _with(model: VideoModel, **changes: Any) -> VideoModel:
    return VideoModel(**{**vars(model), **changes})


@task(name="train")
def train_model(
    run: Path, config: TrainConfig, root: Path, base: str, encoded: list[ManifestRef], clips: ManifestRef
) -> ManifestRef:
    """Train `base` on the encoded clips of the dataset at `root`, below `run`; the manifest is the training's log and
    names the weights."""
    inputs = [*encoded, clips]
    revision = weights_digest(model_folder(base))
    return cached(STEP, run, config, inputs, lambda key: train(root, run, key, base, encoded, config), revision)
