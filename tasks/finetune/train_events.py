"""Event files of a training, which TensorBoard reads: `tensorboard --logdir RUN/events`."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Events:
    """Writes the numbers of a training as they come; those that a stopped training wrote from step `first` on, which it
    makes again, are hidden."""

    def __init__(self, folder: Path, first: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first, flush_secs=10, filename_suffix=f".{first}")

    def add(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Add what are numbers, by name."""
        for name, value in numbers.items():
            if isinstance(value, Real) and name != "step":
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()
