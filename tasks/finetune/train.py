"""Training on encoded clips: the whole UNet, or a LoRA on its temporal attention.

The loss is the EDM loss with v-scaling (models/svd/edm.py). It runs in a process of its own, or in several, that say
how far they are. The complete state is saved every few hundred steps, and a training that was killed is tried again
from it, and ends with the same weights; one that is asked for more steps goes on from where it ended. The log has the
loss, and what the averaged weights were worth at each look: on clips of sources that were held out, the error at four
noise levels when the motion they show is asked for, when the opposite one is (in a model that learns words), and for a
copy of the picture; and what generated clips measure. The weights of the best look are the result. A loss that is not a
number, or grows to many times what it was, ends the training.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from models import errors
from models.device import find_device
from models.errors import BadInput, ProcessDied
from models.generation.model_cache import find_svd_folder
from models.svd.model import load_facts
from models.weights.names import find_revision
from tasks.caching import Step, find_or_compute
from tasks.finetune.train_artifacts import Artifacts
from tasks.finetune.train_config import HardwareConfig, TrainConfig, settle
from tasks.finetune.train_examples import CLIP_COLUMNS
from tasks.finetune.train_judging import SAMPLE_COLUMNS, SIGMAS
from tasks.finetune.train_process import Job
from tasks.followed_process import follow
from tasks.ledger import remove
from tasks.live import tell
from tasks.manifest import ManifestRef, make_table, publish_text

VERSION = 3

NEEDS = CLIP_COLUMNS

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32()),
        pa.field("loss", pa.float32()),
        pa.field("learning_rate", pa.float32()),
        pa.field("held_out", pa.float64()),
        *(pa.field(f"{kind}_{sigma:g}", pa.float32()) for kind in ("right", "opposite") for sigma in SIGMAS),
        pa.field("copy", pa.float32()),
        *(pa.field(name, pa.float32()) for name in SAMPLE_COLUMNS),
        pa.field("samples", pa.string()),
        pa.field("kept", pa.bool_()),
        pa.field("weights", pa.string()),
    ]
)

STEP = Step("train", VERSION, SCHEMA, files=("weights",))

QUIET_S = 600.0
"""A training's process says every few seconds that it lives; one that says nothing for so long hangs."""

RETRIES = 2

log = logging.getLogger("reelmill")

Work = Callable[[Job], list[dict[str, Any]]]


def find_or_train(
    run: Path,
    config: TrainConfig,
    hardware: HardwareConfig,
    dataset: Path,
    base: str,
    encoded: list[ManifestRef],
    clips: ManifestRef,
    work: Work,
) -> ManifestRef:
    """Find the log of this training, or have `work` do it; the log names the weights."""
    on_gpu = find_device(hardware.device).type == "cuda"
    settled, revision = settle(config, load_facts(find_svd_folder(base)), on_gpu), find_revision(base)
    made_with = settled.model_dump(mode="json") | {
        "version": VERSION,
        "base": revision,
        "dataset": clips.digest,
        "latents": _digest(ref.digest for ref in encoded),
    }
    said = {"run": run, "dataset": dataset, "base": base, "revision": revision, "encoded": encoded, "clips": clips}

    def compute(key: str) -> pa.Table:
        job = Job(key=key, config=settled, hardware=hardware, made_with=made_with, **said)
        return make_table(work(job), SCHEMA)

    return find_or_compute(STEP, run, settled, [*encoded, clips], compute, revision)


def train_apart(job: Job) -> list[dict[str, Any]]:
    """Train in processes of its own; return the rows of the log. What they say is shown by whoever runs this step, and
    on Prefect's pages. Raises ProcessDied where one dies, as where it is killed."""
    path = job.run / "checkpoints" / f"{job.key}.job.json"
    publish_text(path, job.model_dump_json())
    shown = Artifacts(job.key, job.config.steps)
    try:
        for said in follow(make_command(job, path), make_environment(job.hardware), QUIET_S, f"{job.run}: training"):
            if "rows" in said:
                return said["rows"]
            _heed(said, shown)
    except ProcessDied as error:
        log.warning("%s", error)
        raise
    finally:
        remove(path)
    raise ProcessDied(f"{job.run}: the training's process ended without a result.")


def _heed(said: dict[str, Any], shown: Artifacts) -> None:
    if "log" in said:
        log.log(said["level"], said["log"])
    elif "loss" in said:
        tell("train", said["step"], said["steps"])
        shown.stepped(said["step"], said["loss"])
    elif "row" in said:
        shown.judged(said["row"])
    elif "stopped" in said:
        raise KeyboardInterrupt
    elif "error" in said:
        raise getattr(errors, said["error"])(said["message"])


def make_command(job: Job, path: Path) -> list[str]:
    """Return the command of a training: one process, as many as asked for, or what a file of accelerate's says."""
    hardware, module = job.hardware, "tasks.finetune.train_process"
    arguments = [module, str(path), str(max(1, torch.get_num_threads() // hardware.processes))]
    if hardware.accelerate is not None:
        if not hardware.accelerate.is_file():
            raise BadInput(
                f"{hardware.accelerate}: no such file. Make one with `accelerate config --config_file FILE`."
            )
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(hardware.accelerate)]
        return [sys.executable, *launch, "-m", *arguments]
    if hardware.processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(hardware.processes)]
        return [sys.executable, *launch, "-m", *arguments]
    return [sys.executable, "-m", *arguments]


def make_environment(hardware: HardwareConfig) -> dict[str, str]:
    """Return what a training's processes find in their environment beside this one's: the project, and the GPU that was
    asked for by its number."""
    number = hardware.device.partition(":")[2]
    gpu = {"CUDA_VISIBLE_DEVICES": number} if number and hardware.processes == 1 else {}
    folders = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return gpu | {"PYTHONPATH": os.pathsep.join(folders)}


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def died(_: Task[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """Return whether a training's process died, which is tried again from its saved state."""
    return isinstance(state.result(raise_on_failure=False), ProcessDied)


@task(name="train", retries=RETRIES, retry_delay_seconds=1, retry_condition_fn=died)
def train_model(
    run: Path,
    config: TrainConfig,
    hardware: HardwareConfig,
    dataset: Path,
    base: str,
    encoded: list[ManifestRef],
    clips: ManifestRef,
) -> ManifestRef:
    """Train `base` on the encoded clips of the dataset, below `run`; the manifest is the training's log and
    names the weights."""
    return find_or_train(run, config, hardware, dataset, base, encoded, clips, train_apart)
