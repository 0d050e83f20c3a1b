"""A training ends in the same weights however often it was killed, and, to float tolerance, whatever it runs on."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from models.svd.model import load_model
from tasks.finetune.train import find_or_train, make_command, make_environment, train_apart
from tasks.finetune.train_config import HardwareConfig, TrainConfig, settle
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.finetune.train_process import Job
from tasks.finetune.train_process import train as train_here
from tasks.finetune.training_run import Places, Training
from tasks.manifest import ManifestRef, read_rows

CONFIG = TrainConfig(steps=14, batch=3, rank=2, checkpoint_every=2, ema=0.9, samples=0, judge_every=7, warm_up=2)


@pytest.fixture(autouse=True)
def _own_accelerate() -> Iterator[None]:
    """accelerate keeps one precision for a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def set_up(trainable, hardware: HardwareConfig | None = None, **changes) -> Training:
    model = load_model(trainable.base)
    chosen = gather_examples(trainable.root, trainable.encoded, trainable.clips, ExampleChoice())
    config = settle(CONFIG.model_copy(update=changes), model.facts)
    return Training(model, Examples(chosen, 1.0), config, hardware)


def places(folder: Path) -> Places:
    return Places(folder / "c.safetensors", folder / "samples")


class Killed(Exception):
    """The process ended, and nothing was saved on the way."""


def run_until(training: Training, folder: Path, last: int) -> None:
    """Train, and be killed after a step; what was saved before stays."""

    class Killer:
        def stepped(self, step: int, loss: float, learning_rate: float) -> None:
            if step == last:
                raise Killed

        def judged(self, row) -> None:
            pass

    with pytest.raises(Killed):
        training.run(places(folder), {"steps": 14}, Killer())


@pytest.mark.training
@pytest.mark.parametrize("parameters", ["lora", "all"])
def test_ten_kills_at_random_steps_leave_no_trace(trainable, tmp_path: Path, parameters: str):
    """accelerate 2016: after a resume the batches were others."""
    changes = {"parameters": parameters, "words": parameters == "all"}
    hardware = HardwareConfig(device="cpu", accumulation=2)
    straight = set_up(trainable, hardware, **changes)
    log = straight.run(places(tmp_path / "straight"), {"steps": 14})
    draw = random.Random(7)
    # A kill comes at any step after the last one that was saved.
    saved = 0
    for _ in range(10):
        at = draw.randint(saved + 1, min(saved + 4, 13))
        torch.manual_seed(draw.randrange(1000))
        run_until(set_up(trainable, hardware, **changes), tmp_path / "killed", at)
        saved = (at - 1) // 2 * 2
    again = set_up(trainable, hardware, **changes)
    assert again.run(places(tmp_path / "killed"), {"steps": 14}) == log
    one, other = (load_file(tmp_path / name / "c.safetensors") for name in ("straight", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    best = [sorted(path.name for path in (tmp_path / name / "best").iterdir()) for name in ("straight", "killed")]
    assert best[0] == best[1]


def trained(trainable, hardware: HardwareConfig | None = None, **changes) -> dict[str, torch.Tensor]:
    training = set_up(trainable, hardware, **changes)
    for _ in range(4):
        training.step()
    return {name: p.detach().float().clone() for name, p in training.state.parameters.items()}


@pytest.mark.training
@pytest.mark.parametrize("accumulation", [2, 3, 9])
def test_parts_that_accumulate_are_the_whole_batch(trainable, accumulation: int):
    whole = trained(trainable, parameters="all", words=True)
    parts = trained(trainable, HardwareConfig(device="cpu", accumulation=accumulation), parameters="all", words=True)
    assert all(torch.allclose(tensor, parts[name], atol=2e-4) for name, tensor in whole.items())


@pytest.mark.training
def test_two_processes_are_one_that_accumulates(trainable, tmp_path: Path):
    config = CONFIG.model_copy(update={"steps": 5, "judge_every": 5})

    def work(name: str, hardware: HardwareConfig, by) -> tuple[dict[str, torch.Tensor], list[dict]]:
        data = (trainable.root, trainable.base, trainable.encoded, trainable.clips)
        log: ManifestRef = find_or_train(tmp_path / name, config, hardware, *data, by)
        rows = read_rows(log)
        return load_file(tmp_path / name / rows[0]["weights"]), rows

    one, rows = work("one", HardwareConfig(device="cpu", accumulation=2), train_here)
    two, same = work("two", HardwareConfig(device="cpu", processes=2), train_apart)
    assert one.keys() == two.keys()
    assert all(torch.allclose(tensor, two[name], atol=1e-4) for name, tensor in one.items())
    assert [row["loss"] for row in same[1:]] == pytest.approx([row["loss"] for row in rows[1:]], rel=1e-4)
    assert [row["held_out"] for row in same] == pytest.approx([row["held_out"] for row in rows], rel=1e-4)


@pytest.mark.training
def test_passes_in_bfloat16_are_near_and_what_trains_stays_in_float32(trainable):
    exact = set_up(trainable)
    losses = [exact.step()[0] for _ in range(3)]
    AcceleratorState._reset_state(True)
    half = set_up(trainable, precision="bfloat16")
    assert [half.step()[0] for _ in range(3)] == pytest.approx(losses, rel=0.05)
    assert {p.dtype for p in half.state.parameters.values()} == {torch.float32}
    assert next(half.raw.unet.parameters()).dtype == torch.bfloat16


@pytest.mark.training
def test_a_bucket_smaller_than_a_batch_and_than_the_processes_parts_trains(trainable):
    """SimpleTuner 548: a bucket with fewer clips than a batch was never trained on, or ended the training."""
    training = set_up(trainable, HardwareConfig(device="cpu", accumulation=3), batch=64)
    assert training.batches.per_epoch == 1
    assert training.step()[0] > 0


@pytest.mark.slow
@pytest.mark.training
def test_memory_is_flat_over_five_hundred_steps(trainable):
    training = set_up(trainable, batch=1, steps=600)

    def held_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    seen = []
    for _ in range(5):
        for _ in range(100):
            training.step()
        seen.append(held_mb())
    assert seen[-1] - seen[0] < 30, seen


def make_job(tmp_path: Path, **hardware) -> Job:
    none = ManifestRef(path=tmp_path, digest="", rows=0)
    return Job(
        dataset=tmp_path, run=tmp_path, key="k", base="tiny", revision="r", encoded=[], clips=none,
        config=TrainConfig(), hardware=HardwareConfig(**hardware), made_with={},
    )  # fmt: skip


def test_a_training_is_launched_as_its_hardware_says(tmp_path: Path):
    file = tmp_path / "fsdp.yaml"
    file.touch()
    one, two, many = (
        " ".join(make_command(make_job(tmp_path, **hardware), tmp_path / "job"))
        for hardware in ({}, {"processes": 2}, {"accelerate": file})
    )
    assert "-m tasks.finetune.train_process" in one
    assert "torch.distributed" not in one
    assert "-m torch.distributed.run --standalone --nproc-per-node 2 -m tasks.finetune.train_process" in two
    assert f"-m accelerate.commands.launch --config_file {file} -m tasks.finetune.train_process" in many
    assert make_environment(HardwareConfig(device="cuda:3"))["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in make_environment(HardwareConfig(device="cuda"))
