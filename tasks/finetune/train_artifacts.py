"""What Prefect's page of a training shows while it runs: how far it is, its loss as a curve, and what was judged."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

EVERY_S = 10.0
"""Seconds between two updates: each is a call of the server."""

BARS, WIDTH = "▁▂▃▄▅▆▇█", 60

SHOWN = ("step", "loss", "held_out", "sharpness", "colour", "identity", "motion", "true_motion")


class Artifacts:
    """The artifacts of one training; none outside of Prefect's tasks."""

    def __init__(self, key: str, steps: int) -> None:
        self.on, self.key, self.steps = TaskRunContext.get() is not None, key, steps
        self.losses: list[float] = []
        self.rows: list[Mapping[str, Any]] = []
        self._progress: UUID | None = None
        self._shown_s = float("-inf")

    def stepped(self, step: int, loss: float) -> None:
        """Show how far the training is, if that is due."""
        self.losses.append(loss)
        if self.on and (time.monotonic() - self._shown_s > EVERY_S or step == self.steps):
            self._shown_s = time.monotonic()
            self._show_progress(100 * step / self.steps)

    def judged(self, row: Mapping[str, Any]) -> None:
        """Show the table of what was judged, and the loss as a curve."""
        self.rows.append(row)
        if self.on and "samples" in row:
            create_markdown_artifact(make_markdown(self.losses, self.rows), key=f"training-{self.key[:8]}")

    def _show_progress(self, share: float) -> None:
        if self._progress is None:
            made = create_progress_artifact(share, key=f"training-steps-{self.key[:8]}", description="Steps done")
            self._progress = made  # pyright: ignore[reportAttributeAccessIssue]
        else:
            update_progress_artifact(self._progress, progress=share)


def make_markdown(losses: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a training's loss as a line of bars, and its judged rows as a table."""
    judged = [row for row in rows if "samples" in row]
    names = [name for name in SHOWN if any(row.get(name) is not None for row in judged)]
    lines = [f"`{draw_bars(losses)}`", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(_format(row.get(name)) for name in names)} |" for row in judged]
    return "\n".join([*lines, "", f"Clips: `samples/`, the last ones in `{judged[-1]['samples']}`." if judged else ""])


def draw_bars(values: Sequence[float]) -> str:
    """Return values as a line of at most WIDTH bars, each the mean of its share of them, the highest at the top."""
    if not values:
        return ""
    width = min(WIDTH, len(values))
    ends = [len(values) * i // width for i in range(width + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(ends)]
    low, high = min(means), max(means)
    return "".join(BARS[round((mean - low) / ((high - low) or 1) * (len(BARS) - 1))] for mean in means)


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
