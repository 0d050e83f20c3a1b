"""A process of a training, started by tasks/finetune/train.py: it trains, and says on its standard output how far it
is, a line of JSON each.

The first process of a training speaks for all. It ends with its parent. SIGTERM asks it to finish its step and save.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from models.device import find_device
from models.errors import BadModel, ReelmillError, is_out_of_memory
from models.svd.model import load_model, read_setting
from models.weights.names import format_name, pin_name
from models.weights.network import extract_first_sentence
from tasks.finetune.train_checkpoints import TrainingLog, forget_others
from tasks.finetune.train_config import HardwareConfig, TrainConfig
from tasks.finetune.train_events import Events
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.finetune.trained_parts import save_trained
from tasks.finetune.training_run import Places, Training
from tasks.followed_process import tell_parent
from tasks.manifest import ManifestRef
from tasks.services import end_with_parent
from tasks.stopping import ask_to_stop

BEAT_S = 5.0
"""Seconds between signs of life."""

log = logging.getLogger("reelmill")


class Job(BaseModel):
    """A training to do: the dataset, the folder of the run, the name of its result, what trains and on what.
    `made_with` says what the result depends on."""

    dataset: Path
    run: Path
    key: str
    base: str
    revision: str
    encoded: list[ManifestRef]
    clips: ManifestRef
    config: TrainConfig
    hardware: HardwareConfig
    made_with: dict[str, Any]

    @property
    def places(self) -> Places:
        """Return where it keeps its state and the clips that it generates."""
        return Places(self.run / "checkpoints" / f"{self.key}.safetensors", self.run / "samples" / self.key)


class Watching:
    """Passes on how far a training is: to the parent, and to the files that TensorBoard reads."""

    def __init__(self, job: Job) -> None:
        self.steps, self.folder = job.config.steps, job.run / "events" / job.key
        self.events: Events | None = None

    def stepped(self, step: int, loss: float, learning_rate: float) -> None:
        """Tell of a step."""
        tell_parent(step=step, steps=self.steps, loss=loss)
        self._open(step).add(step, {"loss": loss, "learning_rate": learning_rate})

    def judged(self, row: Mapping[str, Any]) -> None:
        """Tell of a row of the log."""
        tell_parent(row=dict(row))
        self._open(row["step"]).add(row["step"], row)

    def close(self) -> None:
        """Write what is not written yet."""
        if self.events:
            self.events.close()

    def _open(self, step: int) -> Events:
        self.events = self.events or Events(self.folder, step)
        return self.events


def train(job: Job, watcher: Watching | None = None) -> list[dict[str, Any]]:
    """Train, and save the result in `run`/weights/KEY: `lora.safetensors`, or a model folder. Return the rows of the
    log, which name it."""
    model = load_model(job.base)
    choice = ExampleChoice(job.config.motions, job.config.min_speed)
    chosen = gather_examples(job.dataset, job.encoded, job.clips, choice)
    examples = Examples(chosen, read_setting(model.vae, "scaling_factor"))
    training = Training(model, examples, job.config, job.hardware)
    if training.accelerator.is_main_process:
        _say_wordless(training, job.base)
    so_far = training.run(job.places, job.made_with, watcher)
    return _save(job, training, so_far)


def _save(job: Job, training: Training, so_far: TrainingLog) -> list[dict[str, Any]]:
    trained = training.read_result(job.places, so_far)
    if not training.accelerator.is_main_process:
        return []
    motions = [example.motion for example in training.examples.all]
    path = save_trained(job.base, job.config, trained, motions, job.run / "weights" / job.key, _lineage(job, training))
    forget_others(job.places.checkpoint)
    name = path.relative_to(job.run).as_posix()
    return [row | {"weights": name, "kept": row["step"] == so_far.best_step} for row in so_far.rows]


def _lineage(job: Job, training: Training) -> dict[str, Any]:
    clips = training.examples.all
    return {
        "run": job.key,
        "base": format_name(pin_name(job.base), job.revision),
        "base_revision": job.revision,
        "dataset": job.dataset.name,
        "dataset_digest": job.clips.digest,
        "clips": sorted({clips[i].clip_id for i in training.train_on}),
        "held_out": sorted({clips[i].clip_id for i in training.judge_on}),
        "train": job.config.model_dump(mode="json"),
    }


def _say_wordless(training: Training, base: str) -> None:
    """Say which motions the model has no word for, where it is trained with words."""
    words = training.raw.words
    without = [e.motion or "unmeasured" for e in training.examples.all if training.told and e.motion not in words]
    if without:
        log.warning(
            "train: %s has no word for %s; the %d windows that show it are trained on without one. --train.words "
            "teaches it.",
            base,
            ", ".join(sorted(set(without))),
            len(without),
        )


class _Relay(logging.Handler):
    """Sends what is logged to the parent."""

    def emit(self, record: logging.LogRecord) -> None:
        tell_parent(log=record.getMessage(), level=record.levelno)


def _beat() -> None:
    while True:
        time.sleep(BEAT_S)
        tell_parent(alive=True)


def _listen(first: bool) -> None:
    """Speak to the parent where this is the first process, and heed SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: ask_to_stop())
    end_with_parent(at_once=True)
    log.propagate = False
    if not first:
        return
    log.setLevel(logging.INFO)
    log.addHandler(_Relay())
    threading.Thread(target=_beat, daemon=True).start()
    tell_parent(pid=os.getpid())


def main() -> int:
    """Do the job whose file is named; return 0 where the parent knows how it ended."""
    first = os.environ.get("RANK", "0") == "0"
    _listen(first)
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(int(sys.argv[2]))
    answer = _answer(job, Watching(job) if first else None)
    if first:
        tell_parent(**answer)
    return 0


def _answer(job: Job, watcher: Watching | None) -> dict[str, Any]:
    try:
        return {"rows": train(job, watcher)}
    except KeyboardInterrupt:
        return {"stopped": True}
    except (ReelmillError, RuntimeError, MemoryError) as error:
        known = _explain_memory(job, error) if is_out_of_memory(error) else error
        if not isinstance(known, ReelmillError):
            raise
        return {"error": type(known).__name__, "message": str(known)}
    finally:
        if watcher:
            watcher.close()


def _explain_memory(job: Job, error: Exception) -> BadModel:
    device = find_device(job.hardware.device)
    more = max(2, 2 * job.hardware.accumulation)
    return BadModel(
        f"{job.base}: training it takes more memory than {device} has ({extract_first_sentence(error)}). Raise "
        f"--hardware.accumulation to {more}, or choose smaller --encode.frames."
    )


if __name__ == "__main__":
    sys.exit(main())
