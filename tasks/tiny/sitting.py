"""The embedded model's training, in sittings: each goes on where the one before ended, and ends in a usable model.

The learning rate rises at the start of a sitting, stays, and falls over its last steps; the moving average forgets
faster while it falls, so that it ends near the weights. A step's clips and noise come from its number alone, so
sittings on several machines draw what one long training would. The pool that clips are drawn from widens step by step,
so that a training may begin while the later clips are still being made.
"""

import copy
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.device import has_half_arithmetic
from models.errors import BadInput
from models.svd.model import VideoModel, digest_encoders, read_setting
from models.svd.plain_attention import attend_plainly
from models.svd.training import Network, StepSettings, diffusion_loss, step_generator
from models.svd.training_state import new_state
from tasks.manifest import publish, publish_json
from tasks.stopping import is_asked_to_stop
from tasks.tiny.shots import Item, make_batch

MOTIONS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll")

STATE, CURVE = "state.safetensors", "curve.json"
"""The files of a training's state."""

RISE = 50
"""Steps over which the learning rate rises."""

EMA_AT_THE_END = 0.98
"""Decay of the moving average while the learning rate falls."""

PACED_BY = 20
"""Moments between steps that the pace is taken from."""

log = logging.getLogger("reelmill")


class SittingConfig(BaseModel):
    """How the UNet learns, and how long this sitting is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=30_000, ge=1, description="Steps of all sittings together")
    hours: float | None = Field(default=None, gt=0, description="This sitting ends after so many hours at the latest")
    batch: int = Field(default=8, ge=1, description="Clips per step")
    learning_rate: float = Field(default=1.5e-3, gt=0, description="Learning rate between its rise and its fall")
    fall: int = Field(default=300, ge=1, description="Last steps of a sitting, over which the learning rate falls")
    log_sigma_mean: float = Field(default=1.0, description="Mean of ln(sigma)")
    log_sigma_deviation: float = Field(default=1.4, ge=0, description="Deviation of ln(sigma)")
    drop_picture: float = Field(default=0.05, ge=0, le=1, description="Share of clips without their picture")
    drop_word: float = Field(default=0.1, ge=0, le=1, description="Share of batches without their motion word")
    ema: float = Field(default=0.999, ge=0, lt=1, description="Decay of the weights' moving average, which is kept")
    widen_every: int = Field(default=40, ge=1, description="Steps after which another file of clips is drawn from")
    measure_every: int = Field(default=500, ge=1, description="Steps between measurements on held-out pictures")
    save_every: int = Field(default=100, ge=1, description="Steps between saved states")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, batches and noise")


@dataclass
class Curve:
    """What is known of a training: a row for every measurement, and the processor's hours in all sittings."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    hours: float = 0.0


Measure = Callable[[VideoModel], dict[str, float]]


class Sitting:
    """One sitting: a model, the files of clips it learns from, and where its state is."""

    def __init__(self, model: VideoModel, files: Iterable[list[Item]], config: SittingConfig, curve: Curve) -> None:
        self.model, self.config, self.curve = model, config, curve
        self._encoders = digest_encoders(model)
        self._files, self._opened = iter(files), 0
        self._items: list[Item] = []
        self.words = make_words(model, config.seed)
        attend_plainly(model.unet)
        model.unet.requires_grad_(True).train()
        parameters = dict(model.unet.named_parameters())
        self.network = Network(model.unet, self.words)
        self.state = new_state(parameters | {f"word.{name}": word for name, word in self.words.items()}, config.ema)
        self.state.step = self._first = curve.rows[-1]["step"] if curve.rows else 0
        self._losses: list[float] = []
        self._times: deque[float] = deque(maxlen=PACED_BY)
        self._falls_from: int | None = None

    def run(self, folder: Path, measure: Measure) -> None:
        """Train to the sitting's end, from the state in `folder` where there is one, which is kept there. Raises
        KeyboardInterrupt, with the state saved, where work is asked to stop."""
        self._resume(folder)
        began = time.monotonic()
        self._times.append(began)
        used, before = time.process_time(), self.curve.hours
        while self.state.step < self._end():
            self._losses.append(self.step())
            self.curve.hours = before + (time.process_time() - used) / 3600
            self._times.append(time.monotonic())
            self._plan_the_fall(self._times[-1] - began)
            self._log_and_save(folder, measure)

    def step(self) -> float:
        """Make one step; return its loss."""
        number, config = self.state.step, self.config
        generator = step_generator(config.seed, number)
        pool = self._open_pool(number)
        picks = torch.randint(len(pool), (config.batch,), generator=generator).tolist()
        self.state.begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_half_arithmetic()):
            loss = diffusion_loss(self.network, make_batch(pool[i] for i in picks), self._settings(), generator)
        loss.backward()
        share = self._choose_share(number)
        falling = share < 1 and number - self._first >= RISE
        self.state.ema_decay = min(config.ema, EMA_AT_THE_END) if falling else config.ema
        self.state.apply(loss.detach(), config.learning_rate * share)
        return loss.item()

    def average(self) -> VideoModel:
        """Return the model with the moving average of its weights and words."""
        unet = copy.deepcopy(self.model.unet).eval().requires_grad_(False)
        unet.load_state_dict({name: self.state.average[name] for name in unet.state_dict()})
        words = {name: self.state.average[f"word.{name}"].clone() for name in self.words}
        return replace(self.model, unet=unet, words=words)

    def _settings(self) -> StepSettings:
        c = self.config
        return StepSettings(c.log_sigma_mean, c.log_sigma_deviation, c.drop_picture, c.drop_word, None)

    def _open_pool(self, number: int) -> list[Item]:
        wanted = count_files(number + 1, self.config)
        while self._opened < wanted and (more := next(self._files, None)) is not None:
            self._items += more
            self._opened += 1
        return self._items

    def _end(self) -> int:
        falls_until = self.config.steps if self._falls_from is None else self._falls_from + self.config.fall
        return min(self.config.steps, falls_until)

    def _plan_the_fall(self, seconds: float) -> None:
        """Begin the fall where no more time is left than it takes at the pace of the last steps."""
        if self.config.hours is None or self._falls_from is not None or len(self._times) < PACED_BY:
            return
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        if self.config.hours * 3600 - seconds <= self.config.fall * pace:
            self._falls_from = self.state.step

    def _choose_share(self, number: int) -> float:
        """Return the share of the learning rate: its rise, 1, or its fall to a fiftieth."""
        return min(1.0, (number + 1 - self._first) / RISE, max(0.02, (self._end() - number) / self.config.fall))

    def _log_and_save(self, folder: Path, measure: Measure) -> None:
        step, ended = self.state.step, self.state.step == self._end()
        if ended or step % self.config.measure_every == 0:
            row = {"step": step, "hours": self.curve.hours, "loss": sum(self._losses) / len(self._losses)}
            self.curve.rows.append(row | measure(self.average()))
            self._losses = []
            log.info("train: %s", ", ".join(f"{name} {value:.4g}" for name, value in self.curve.rows[-1].items()))
        stopped = is_asked_to_stop()
        if ended or stopped or step % self.config.save_every == 0:
            self._save(folder, ended)
        if stopped:
            raise KeyboardInterrupt

    def _save(self, folder: Path, ended: bool) -> None:
        with publish(folder / STATE) as aside:
            self.state.save(aside)
        told = {"encoders": self._encoders, "first": None if ended else self._first, "losses": self._losses}
        publish_json(folder / CURVE, told | {"hours": self.curve.hours, "rows": self.curve.rows})

    def _resume(self, folder: Path) -> None:
        if not (folder / STATE).is_file():
            return
        told = json.loads((folder / CURVE).read_text(encoding="utf-8"))
        if told["encoders"] != self._encoders:
            raise BadInput(f"{folder}: this training's latents are of another autoencoder. Choose another --state.")
        self.state.load(folder / STATE)
        self.curve, self._losses = Curve(told["rows"], told["hours"]), told["losses"]
        # A sitting that was stopped goes on; after one that ended another begins.
        self._first = self.state.step if told["first"] is None else told["first"]
        log.info("train: goes on from step %d", self.state.step)


def make_words(model: VideoModel, seed: int) -> dict[str, nn.Parameter]:
    """Return a context token to learn for each motion: the model's, or a random one."""
    generator = torch.Generator().manual_seed(seed)
    width = read_setting(model.unet, "cross_attention_dim")
    fresh = {name: torch.randn(width, generator=generator) for name in MOTIONS}
    return {name: nn.Parameter(model.words.get(name, fresh[name]).detach().clone()) for name in MOTIONS}


def count_files(steps: int, config: SittingConfig) -> int:
    """Return how many files of clips are drawn from up to a step."""
    return 1 + (steps - 1) // config.widen_every
