"""A checkpoint is read back bit for bit, with the log as it was then; a broken one is named in a sentence."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import BadInput
from models.svd.training_state import TrainingState, new_state
from tasks.finetune.train_checkpoints import TrainingLog, forget, forget_others, keep, keep_best, read_best, resume

MADE_WITH = {"steps": 10, "seed": 1}


def trained(steps: int) -> tuple[TrainingState, TrainingLog]:
    """A parameter pulled towards one, with a row of the log for every third step."""
    state, log = new_state({"w": nn.Parameter(torch.zeros(3))}, ema_decay=0.9), TrainingLog(made_with=MADE_WITH)
    go_on(state, log, steps)
    return state, log


def go_on(state: TrainingState, log: TrainingLog, steps: int) -> None:
    while state.step < steps:
        loss = ((state.parameters["w"] - 1) ** 2).sum()
        state.begin()
        loss.backward()
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
    log = resume(tmp_path / "c.safetensors", state, MADE_WITH)
    assert (state.step, len(log.losses), [row["step"] for row in log.rows]) == (stop, stop, rows)
    go_on(state, log, 10)
    assert torch.equal(state.parameters["w"], straight.parameters["w"])
    assert torch.equal(state.average["w"], straight.average["w"])
    assert log == straight_log


def test_a_log_that_was_written_further_than_its_state_is_cut_to_it(tmp_path: Path):
    stopped, early = trained(5)
    _, late = trained(8)
    keep(tmp_path / "c.safetensors", stopped, late)
    assert resume(tmp_path / "c.safetensors", trained(0)[0], MADE_WITH) == early


def test_without_a_checkpoint_a_training_starts_at_nothing(tmp_path: Path):
    state, _ = trained(0)
    assert resume(tmp_path / "c.safetensors", state, MADE_WITH) == TrainingLog(made_with=MADE_WITH)
    assert state.step == 0


def test_a_removed_checkpoint_leaves_nothing(tmp_path: Path):
    keep(tmp_path / "c.safetensors", *trained(2))
    forget(tmp_path / "c.safetensors")
    forget(tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


def keep_ended(path: Path, done: int, **made_with: int) -> None:
    state, log = trained(done)
    keep(path, state, log.model_copy(update={"ended": True, "made_with": MADE_WITH | made_with}))


def test_of_those_that_ended_the_longest_of_the_same_training_is_gone_on_from(tmp_path: Path):
    keep_ended(tmp_path / "a.safetensors", 4, steps=4)
    keep_ended(tmp_path / "b.safetensors", 7, steps=7)
    keep_ended(tmp_path / "longer.safetensors", 12, steps=12)
    keep_ended(tmp_path / "other.safetensors", 9, steps=9, seed=2)
    state, _ = trained(0)
    log = resume(tmp_path / "c.safetensors", state, MADE_WITH)
    assert (state.step, len(log.losses), log.made_with, log.ended) == (7, 7, MADE_WITH, False)
    forget_others(tmp_path / "b.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.safetensors"]


def test_one_that_was_stopped_is_not_passed_over(tmp_path: Path):
    state, log = trained(4)
    keep(tmp_path / "a.safetensors", state, log.model_copy(update={"made_with": {"steps": 10, "seed": 3, "base": "x"}}))
    with pytest.raises(
        BadInput, match=r"stopped here after 4 steps.*: seed was 3, is 1; base was x, is None\. Ask for"
    ):
        resume(tmp_path / "c.safetensors", trained(0)[0], MADE_WITH)
    forget_others(tmp_path / "c.safetensors")
    assert (tmp_path / "a.safetensors").is_file()


def test_a_dataset_that_changed_is_named_where_a_training_would_be_resumed(tmp_path: Path):
    """RL 2519: a training went on with another dataset without a word."""
    state, log = trained(4)
    keep(tmp_path / "a.safetensors", state, log.model_copy(update={"made_with": MADE_WITH | {"dataset": "d1"}}))
    with pytest.raises(BadInput, match=r"not the same is asked for now: dataset was d1, is d2\. Ask for the same"):
        resume(tmp_path / "c.safetensors", trained(0)[0], MADE_WITH | {"dataset": "d2"})


def test_the_best_weights_are_those_of_the_least_error_and_stay_with_their_state(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    state, log = trained(4)
    for step, error in ((0, 0.1), (2, 0.5), (3, 0.25), (4, 0.25)):
        log.rows.append({"step": step, "held_out": error})
    assert log.best_step == 3, "the base is none that was trained, and of equals the first is the best"
    assert log.until(2).best_step == 2
    for step in (2, 3):
        keep_best(path, step, {"w": torch.full((1,), float(step))})
    keep(path, state, log)
    assert [each.name for each in (tmp_path / "best").iterdir()] == ["a-3.safetensors"]
    best = read_best(path, log)
    assert best is not None
    assert best["w"].item() == 3
    assert read_best(path, TrainingLog(rows=[{"step": 0, "held_out": 0.1}, {"step": 5}])) is None
    keep(path, state, log.model_copy(update={"ended": True, "made_with": MADE_WITH | {"steps": 4}}))
    more = resume(tmp_path / "c.safetensors", trained(0)[0], MADE_WITH)
    assert more.best_step == 3
    assert read_best(tmp_path / "c.safetensors", more) == best


def test_one_of_an_earlier_version_that_says_nothing_of_itself_is_passed_over(tmp_path: Path):
    state, log = trained(4)
    keep(tmp_path / "a.safetensors", state, log.model_copy(update={"made_with": {}}))
    state, _ = trained(0)
    assert resume(tmp_path / "c.safetensors", state, MADE_WITH).losses == []


@pytest.mark.parametrize("broken", ["c.safetensors", "c.json"])
def test_a_broken_checkpoint_is_named_and_not_passed_over(tmp_path: Path, broken: str):
    keep(tmp_path / "c.safetensors", *trained(2))
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:20])
    with pytest.raises(BadInput, match=r"c\.safetensors: the training's saved state cannot be read\. Delete it"):
        resume(tmp_path / "c.safetensors", trained(0)[0], MADE_WITH)
