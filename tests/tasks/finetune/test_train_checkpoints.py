"""A checkpoint is read back bit for bit, with the log as it was then; a broken one is named in a sentence."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import BadInput
from models.svd.training import TrainingState, new_state
from tasks.finetune.train_checkpoints import TrainingLog, forget, keep, resume


def trained(steps: int) -> tuple[TrainingState, TrainingLog]:
    """A parameter pulled towards one, with a row of the log for every third step."""
    state, log = new_state({"w": nn.Parameter(torch.zeros(3))}, ema_decay=0.9), TrainingLog()
    go_on(state, log, steps)
    return state, log


def go_on(state: TrainingState, log: TrainingLog, steps: int) -> None:
    while state.step < steps:
        loss = ((state.parameters["w"] - 1) ** 2).sum()
        state.apply(loss, 0.1)
        log.losses.append(loss.item())
        if state.step % 3 == 0:
            log.add_row({"rate": 0.1})


def test_a_row_is_the_mean_of_the_losses_since_the_row_before():
    log = TrainingLog()
    for losses in ([4.0, 2.0], [1.0, 2.0, 6.0]):
        log.losses += losses
        log.add_row({"rate": 0.1})
    assert log.rows == [{"step": 2, "loss": 3.0, "rate": 0.1}, {"step": 5, "loss": 3.0, "rate": 0.1}]


@pytest.mark.parametrize(("stop", "rows"), [(2, []), (5, [3]), (6, [3, 6])])
def test_a_training_taken_up_between_two_rows_or_right_after_one_ends_as_a_straight_one(
    tmp_path: Path, stop: int, rows: list[int]
):
    straight, straight_log = trained(10)
    stopped, stopped_log = trained(stop)
    keep(tmp_path / "c.safetensors", stopped, stopped_log)
    state, _ = trained(0)
    log = resume(tmp_path / "c.safetensors", state)
    assert (state.step, len(log.losses), [row["step"] for row in log.rows]) == (stop, stop, rows)
    go_on(state, log, 10)
    assert torch.equal(state.parameters["w"], straight.parameters["w"])
    assert torch.equal(state.average["w"], straight.average["w"])
    assert log == straight_log


def test_a_log_that_was_written_further_than_its_state_is_cut_to_it(tmp_path: Path):
    stopped, early = trained(5)
    _, late = trained(8)
    keep(tmp_path / "c.safetensors", stopped, late)
    assert resume(tmp_path / "c.safetensors", trained(0)[0]) == early


def test_without_a_checkpoint_a_training_starts_at_nothing(tmp_path: Path):
    state, _ = trained(0)
    assert resume(tmp_path / "c.safetensors", state) == TrainingLog()
    assert state.step == 0


def test_a_removed_checkpoint_leaves_nothing(tmp_path: Path):
    keep(tmp_path / "c.safetensors", *trained(2))
    forget(tmp_path / "c.safetensors")
    forget(tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["c.safetensors", "c.json"])
def test_a_broken_checkpoint_is_named_and_not_passed_over(tmp_path: Path, broken: str):
    keep(tmp_path / "c.safetensors", *trained(2))
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:20])
    with pytest.raises(BadInput, match=r"c\.safetensors: the training's saved state cannot be read\. Delete it"):
        resume(tmp_path / "c.safetensors", trained(0)[0])
