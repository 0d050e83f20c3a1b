"""What a stopped training resumes from: the state of what trains, the log so far, and the best weights so far.

The log is beside the state and is written first, so that it reaches at least as far; rows beyond the state are dropped
when both are read. So a resumed training ends with the weights and the log of an uninterrupted one. The state of a
training that ended stays, so that more steps go on from it. One that was stopped is not begun again with other data,
another model or other settings without a word: what changed is named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import BadInput
from models.svd.training_state import TrainingState
from tasks.ledger import remove
from tasks.manifest import publish, publish_text


class TrainingLog(BaseModel):
    """The loss of every step, and the rows that summarise them; each row names the `step` after which it was written.
    `made_with` says what the training depends on, by name; `ended`, that nothing is left to resume; `plan`, how memory
    was used (models/memory/training_plan.py), which last bits depend on."""

    losses: list[float] = Field(default_factory=list)
    rows: list[dict[str, Any]] = Field(default_factory=list)
    made_with: dict[str, Any] = Field(default_factory=dict)
    ended: bool = False
    plan: str = ""

    def add_row(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Add a row after the latest step: its number, the mean loss since the row before (none before the first
        step), and `facts`."""
        recent = self.losses[self.rows[-1]["step"] if self.rows else 0 :]
        row = {"step": len(self.losses), "loss": sum(recent) / len(recent) if recent else None, **facts}
        self.rows.append(row)
        return row

    @property
    def best_step(self) -> int | None:
        """Return the step whose weights have the least error on clips that were held out, the first of equals; None
        where none are, or none was measured after a step."""
        judged = [row for row in self.rows if row["step"] and row.get("held_out") is not None]
        return min(judged, key=lambda row: row["held_out"])["step"] if judged else None

    def until(self, step: int) -> "TrainingLog":
        """Return the log up to `step`."""
        rows = [row for row in self.rows if row["step"] <= step]
        return self.model_copy(update={"losses": self.losses[:step], "rows": rows})


def keep(path: Path, state: TrainingState, log: TrainingLog) -> None:
    """Write a checkpoint, a safetensors file, to `path`, and its log beside it."""
    publish_text(_locate_log(path), log.model_dump_json())
    with publish(path) as aside:
        state.save(aside)
    for other in _list_best(path):
        if other != _locate_best(path, log.best_step):
            remove(other)


def keep_best(path: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a step that are the best so far, by name, beside the checkpoint at `path`."""
    with publish(_locate_best(path, step)) as aside:
        save_file(dict(weights), aside)


def read_best(path: Path, log: TrainingLog) -> dict[str, Tensor] | None:
    """Return the best weights of the training whose checkpoint is at `path`, None where no step is the best."""
    return load_file(_locate_best(path, log.best_step)) if log.best_step is not None else None


def resume(path: Path, state: TrainingState, made_with: Mapping[str, Any]) -> TrainingLog:
    """Load into `state` the checkpoint at `path`, or one beside it that ended after fewer steps of the same training;
    return the log up to it, an empty one where there is none.

    Raises BadInput when the checkpoint cannot be read, or where a training of something else was stopped there.
    """
    start = path if path.is_file() else _find_shorter(path.parent, made_with)
    if start is None:
        return TrainingLog(made_with=dict(made_with))
    try:
        state.load(start)
        log = TrainingLog.model_validate_json(_locate_log(start).read_text(encoding="utf-8")).until(state.step)
        if start != path and (weights := read_best(start, log)):
            keep_best(path, log.best_step or 0, weights)
        return log.model_copy(update={"made_with": dict(made_with), "ended": False})
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise BadInput(f"{start}: the training's saved state cannot be read. Delete it to start again.") from error


def _find_shorter(folder: Path, made_with: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint in a folder that ended after the most steps of the same training, if any did; raises
    BadInput for one of another training that was stopped."""
    found: dict[Path, int] = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        other = _read_facts(_locate_log(path))
        changed = [
            name for name in {**made_with, **other.made_with} if made_with.get(name) != other.made_with.get(name)
        ]
        if changed == ["steps"] and other.ended and len(other.losses) <= made_with["steps"]:
            found[path] = len(other.losses)
        elif changed and not other.ended:
            said = "; ".join(f"{name} was {other.made_with.get(name)}, is {made_with.get(name)}" for name in changed)
            raise BadInput(
                f"{folder.parent}: a training was stopped here after {len(other.losses)} steps, and not the same is "
                f"asked for now: {said}. Ask for the same to resume it, choose another --out, or delete {path}."
            )
    return max(found, key=lambda path: found[path], default=None)


def _read_facts(path: Path) -> TrainingLog:
    """Read the log of a checkpoint; one that cannot be read, or of an earlier version, has ended."""
    try:
        log = TrainingLog.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return TrainingLog(ended=True)
    return log if log.made_with else log.model_copy(update={"ended": True})


def forget_others(path: Path) -> None:
    """Delete the checkpoints beside `path` of trainings that ended."""
    for other in sorted(path.parent.glob("[!.]*.safetensors")):
        if other != path and _read_facts(_locate_log(other)).ended:
            forget(other)


def forget(path: Path) -> None:
    """Delete a checkpoint and its log."""
    remove(path)
    remove(_locate_log(path))
    for best in _list_best(path):
        remove(best)


def _locate_log(path: Path) -> Path:
    return path.with_suffix(".json")


def _locate_best(path: Path, step: int | None) -> Path:
    return path.parent / "best" / f"{path.stem}-{step}{path.suffix}"


def _list_best(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"best/{path.stem}-*{path.suffix}"))
