"""What a stopped training resumes from: the state of what trains, and the log so far.

The log is beside the state and is written first, so that it reaches at least as far; rows beyond the state are dropped
when both are read. So a resumed training ends with the weights and the log of an uninterrupted one.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError

from models.errors import BadInput
from models.svd.training import TrainingState
from tasks.ledger import remove
from tasks.manifest import publish, publish_text


class TrainingLog(BaseModel):
    """The loss of every step, and the rows that summarise them; each row names the `step` after which it was
    written."""

    losses: list[float] = Field(default_factory=list)
    rows: list[dict[str, Any]] = Field(default_factory=list)

    def add_row(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Add a row after the latest step: its number, the mean loss since the row before, and `facts`."""
        recent = self.losses[self.rows[-1]["step"] if self.rows else 0 :]
        row = {"step": len(self.losses), "loss": sum(recent) / len(recent), **facts}
        self.rows.append(row)
        return row

    def until(self, step: int) -> "TrainingLog":
        """Return the log up to `step`."""
        return TrainingLog(losses=self.losses[:step], rows=[row for row in self.rows if row["step"] <= step])


def keep(path: Path, state: TrainingState, log: TrainingLog) -> None:
    """Write a checkpoint, a safetensors file, to `path`, and its log beside it."""
    publish_text(_locate_log(path), log.model_dump_json())
    with publish(path) as aside:
        state.save(aside)


def resume(path: Path, state: TrainingState) -> TrainingLog:
    """Load the checkpoint at `path` into `state` where there is one; return the log up to it, empty where there is
    none.

    Raises BadInput when the checkpoint cannot be read.
    """
    if not path.is_file():
        return TrainingLog()
    try:
        state.load(path)
        return TrainingLog.model_validate_json(_locate_log(path).read_text(encoding="utf-8")).until(state.step)
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise BadInput(f"{path}: the training's saved state cannot be read. Delete it to start again.") from error


def forget(path: Path) -> None:
    """Delete a checkpoint and its log."""
    remove(path)
    remove(_locate_log(path))


def _locate_log(path: Path) -> Path:
    return path.with_suffix(".json")
