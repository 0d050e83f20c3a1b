"""One training: its loop, in each of its processes, from a saved state to the last step.

accelerate gives the device, the precision and the other processes. A batch is drawn whole in every process, which then
takes its own share of it, in parts where gradients are to accumulate; so the result is the same, to float tolerance,
however many processes and parts there are.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from torch import Tensor

from models.errors import BadInput, TrainingDiverged
from models.memory.training_plan import LADDER, plan_training
from models.svd.chunked_training import train_in_chunks
from models.svd.model import VideoModel
from models.svd.training import Network, StepSettings, clip_losses, draw_step, make_schedule, step_generator
from models.svd.training_state import TrainingState, make_optimiser
from tasks.finetune import train_checkpoints
from tasks.finetune.buckets import Batches, describe_buckets
from tasks.finetune.train_checkpoints import TrainingLog
from tasks.finetune.train_config import HardwareConfig, TrainConfig
from tasks.finetune.train_examples import Examples, hold_out
from tasks.finetune.train_judging import Judge, place_for_judging
from tasks.finetune.trained_parts import make_network
from tasks.stopping import is_asked_to_stop

LOG_EVERY = 10

RECENT, GROWN = 30, 10.0
"""A training diverges where the median loss of its last steps is so many times that of its first ones."""

log = logging.getLogger("reelmill")


class Watcher(Protocol):
    """Is told of a training while it runs."""

    def stepped(self, step: int, loss: float, learning_rate: float) -> None:
        """Take note of a step."""

    def judged(self, row: Mapping[str, Any]) -> None:
        """Take note of a row of the log."""


@dataclass(frozen=True)
class Places:
    """Where a training keeps its state and the clips that it generates."""

    checkpoint: Path
    samples: Path


class Training:
    """One run over one set of examples: what is trained, and the training loop."""

    def __init__(
        self, model: VideoModel, examples: Examples, config: TrainConfig, hardware: HardwareConfig | None = None
    ) -> None:
        hardware = hardware or HardwareConfig(device="cpu")
        self.model, self.examples, self.config = model, examples, config
        self.accumulation = hardware.accumulation
        self.train_on, self.judge_on = hold_out(examples.all)
        windows = {i: (examples.all[i].clip_id, examples.all[i].shape) for i in self.train_on}
        self.batches = Batches(windows, config.batch, config.seed)
        self._check_crop()
        self.judge = Judge(examples, self.judge_on, self.train_on, config.batch)
        self.raw = make_network(model, config, [example.motion for example in examples.all])
        self.accelerator = make_accelerator(config, hardware)
        self.network, self.state = self._prepare()
        self.rate_at = make_schedule(config.schedule, config.learning_rate or 0.0, config.steps, config.warm_up)
        self.settings = StepSettings(
            config.log_sigma_mean or 0.0,
            config.log_sigma_deviation or 0.0,
            config.drop_picture,
            config.drop_word,
            config.crop,
        )

    def _check_crop(self) -> None:
        for bucket, clips in self.batches.clips.items():
            rows, columns = self.examples.latent_shape(next(iter(clips.values()))[0])[-2:]
            if self.config.crop is not None and self.config.crop > min(rows, columns):
                raise BadInput(
                    f"--train.crop {self.config.crop}: latents of {bucket.width}x{bucket.height} have {columns} x "
                    f"{rows} cells. Ask for at most {min(rows, columns)}, or leave it out."
                )

    def _prepare(self) -> tuple[torch.nn.Module, TrainingState]:
        config, accelerator = self.config, self.accelerator
        trained = [p for p in self.raw.parameters() if p.requires_grad]
        network, optimiser = accelerator.prepare(self.raw, make_optimiser(config.optimiser, trained))
        self.raw: Network = accelerator.unwrap_model(network, keep_torch_compile=False)
        parameters = {name: p for name, p in self.raw.named_parameters() if p.requires_grad}
        state = TrainingState(
            parameters, optimiser.optimizer, config.ema, config.clip_norm, accelerator.clip_grad_norm_
        )
        return network, state

    @property
    def told(self) -> bool:
        """Return whether the network has motion words."""
        return len(self.raw.words) > 0

    def step(self) -> tuple[float, float]:
        """Make one optimiser step; return its loss and its learning rate. Raises FloatingPointError where the loss is
        not a number."""
        number, config, accelerator = self.state.step, self.config, self.accelerator
        generator = step_generator(config.seed, number)
        # What a network draws itself, as dropout does, is another draw in each process, and the same after a resume.
        torch.manual_seed(config.seed * 1_000_003 + number + (accelerator.process_index << 40))
        draw = int(torch.randint(1 << 30, (), generator=generator))
        chosen = self.batches.at(number)
        drawn = draw_step((len(chosen), *self.examples.latent_shape(chosen[0])), self.settings, generator)
        self.state.begin()
        total = torch.zeros((), device=accelerator.device)
        for clips, counts, last in self._parts(len(chosen)):
            with nullcontext() if last else accelerator.no_sync(self.network):
                batch = self.examples.batch(chosen[clips], draw)
                losses = clip_losses(self.network, batch, drawn.part(clips), accelerator.device)
                loss = losses.sum() * counts / len(chosen)
                # Gradients are averaged over the processes; the loss is a sum over them.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        total = self._add_up(total)
        rate = self.rate_at(number)
        self.state.apply(total, rate)
        return total.item(), rate

    def _parts(self, clips: int) -> Iterator[tuple[slice, float, bool]]:
        """Return this process' parts of a batch, whether each counts, and whether it is the last. Every process has as
        many: one that has no clip left takes the first again, and it does not count."""
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        size = self._part_size
        rounds = -(-clips // (size * processes))
        for number in range(rounds):
            start = (number * processes + own) * size
            last = number == rounds - 1
            yield (slice(start, min(start + size, clips)), 1.0, last) if start < clips else (slice(0, 1), 0.0, last)

    def _add_up(self, value: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return value
        return self.accelerator.reduce(value, "sum")  # pyright: ignore[reportReturnType]

    def look(self, places: Places) -> dict[str, Any]:
        """Return what the averaged weights are worth, by column."""
        self.state.swap_average()
        try:
            self.network.eval()
            found: dict[str, Any] = self.judge.measure(self.network, self.told, self.accelerator.device)
            return found | self._sample(places)
        finally:
            self.state.swap_average()
            self.network.train()

    def _sample(self, places: Places) -> dict[str, Any]:
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if sharded or not self.config.samples or not self.accelerator.is_main_process:
            return {}
        self.raw.images.on = False
        model = place_for_judging(self.model, self.accelerator.device)
        folder = places.samples / f"step-{self.state.step:06d}"
        made = self.judge.sample(model, self.raw, self.told, self.config.samples, folder)
        return made | {"samples": folder.name} if made else {}

    def run(self, places: Places, made_with: Mapping[str, Any], watcher: Watcher | None = None) -> TrainingLog:
        """Train to the last step, from the saved state where there is one; return the whole log.

        `made_with` says by name what the training depends on. Raises KeyboardInterrupt with the state saved where work
        is asked to stop, and TrainingDiverged.
        """
        so_far = train_checkpoints.resume(places.checkpoint, self.state, made_with)
        so_far.plan = self._plan(so_far.plan)
        self._say_start(so_far)
        with train_in_chunks(self.raw.unet, LADDER[so_far.plan]):
            self._go_on(places, so_far, watcher)
        so_far.ended = True
        self._keep(places, so_far)
        return so_far

    def _plan(self, before: str) -> str:
        """Return the name of the memory plan for the largest bucket; that `before`, of a training that is resumed, where
        it fits still. accelerate has FSDP's own ways."""
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return "whole"
        shapes = (self.examples.latent_shape(next(iter(clips.values()))[0]) for clips in self.batches.clips.values())
        frames, channels, *sides = max(shapes, key=prod)
        height, width = (min(side, self.config.crop or side) for side in sides)
        return plan_training(self.raw.unet, self._part_size, (frames, channels, height, width), before)

    @property
    def _part_size(self) -> int:
        """Return the most clips of a part of a batch, which are in memory together."""
        return -(-self.config.batch // (self.accelerator.num_processes * self.accumulation))

    def _go_on(self, places: Places, so_far: TrainingLog, watcher: Watcher | None) -> None:
        if not so_far.rows:
            self._judge(places, so_far, {}, watcher)
        while self.state.step < self.config.steps:
            if self._must_stop():
                self._keep(places, so_far)
                raise KeyboardInterrupt
            self._advance(places, so_far, watcher)

    def _say_start(self, so_far: TrainingLog) -> None:
        if so_far.losses:
            log.info("train: goes on from step %d", self.state.step)
        said = describe_buckets(self.batches)
        log.info("train: %d batches an epoch; clips: %s", self.batches.per_epoch, said)
        if LADDER[so_far.plan]:
            log.info("train: in %s, as memory allows", so_far.plan)

    def _must_stop(self) -> bool:
        return bool(self._add_up(torch.tensor(float(is_asked_to_stop()), device=self.accelerator.device)))

    def _advance(self, places: Places, so_far: TrainingLog, watcher: Watcher | None) -> None:
        """Make one step, and log, judge and save what is due."""
        try:
            loss, rate = self.step()
        except FloatingPointError:
            self._give_up(places, so_far, "is not a number")
        so_far.losses.append(loss)
        if watcher:
            watcher.stepped(self.state.step, loss, rate)
        if self._is_due(self.config.judge_every):
            self._judge(places, so_far, {"learning_rate": rate}, watcher)
        elif self._is_due(LOG_EVERY):
            self._say(so_far.add_row({"learning_rate": rate}), watcher)
        if self._is_due(LOG_EVERY) and has_grown(so_far.losses):
            self._give_up(places, so_far, f"is more than {GROWN:g} times what it was")
        if self.state.step % self.config.checkpoint_every == 0:
            self._keep(places, so_far)

    def _judge(self, places: Places, so_far: TrainingLog, facts: dict[str, Any], watcher: Watcher | None) -> None:
        """Add a row with what the weights are worth, and keep them where they are the best."""
        row = so_far.add_row(facts | self.look(places))
        if so_far.best_step == self.state.step:
            average = self.state.read_average()
            if self.accelerator.is_main_process:
                train_checkpoints.keep_best(places.checkpoint, self.state.step, average)
        self._say(row, watcher)

    def _say(self, row: dict[str, Any], watcher: Watcher | None) -> None:
        if watcher:
            watcher.judged(row)
        judged = f", held out {row['held_out']:.4f}" if "held_out" in row else ""
        if "opposite_8" in row:
            told = f"right {row['right_8']:.3f}, opposite {row['opposite_8']:.3f}, copy {row['copy']:.3f}"
            judged += f", at sigma 8: {told}"
        every = log.info if judged or row["step"] % 50 == 0 else log.debug
        loss = "" if row["loss"] is None else f", loss {row['loss']:.4f}"
        every("train: step %d of %d%s%s", row["step"], self.config.steps, loss, judged)

    def _keep(self, places: Places, so_far: TrainingLog) -> None:
        if self.accelerator.is_main_process:
            train_checkpoints.keep(places.checkpoint, self.state, so_far)
        elif self.accelerator.distributed_type == DistributedType.FSDP:
            self.state.tensors()  # Every process has a part of them.
        self.accelerator.wait_for_everyone()

    def _give_up(self, places: Places, so_far: TrainingLog, what: str) -> NoReturn:
        """Save the state, so that it can be looked at, and raise TrainingDiverged."""
        so_far.ended = True
        self._keep(places, so_far)
        raise TrainingDiverged(
            f"train: at step {self.state.step + 1} of {self.config.steps} the loss {what}. The likely cause is the "
            f"learning rate, {self.config.learning_rate:g}: lower --train.learning-rate. Nothing is published; the "
            f"last state is {places.checkpoint}."
        )

    def read_result(self, places: Places, so_far: TrainingLog) -> dict[str, Tensor]:
        """Return the weights that a training ends with, by name: those of the look with the least error on clips that
        were held out; where none were, the average at the end."""
        return train_checkpoints.read_best(places.checkpoint, so_far) or self.state.read_average()

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps


def make_accelerator(config: TrainConfig, hardware: HardwareConfig) -> Accelerator:
    """Return accelerate's view of this process: the device, the precision of the passes, and the other processes."""
    # Words have no gradient in a batch without them, nor have queries and keys where there is one token to attend to.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=hardware.device == "cpu",
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
        kwargs_handlers=[unused],
    )


def has_grown(losses: Sequence[float]) -> bool:
    """Return whether the last losses are many times the first ones."""
    return len(losses) >= 2 * RECENT and median(losses[-RECENT:]) > GROWN * median(losses[:RECENT])
