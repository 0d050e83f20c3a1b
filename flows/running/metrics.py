"""Figures of a run for Prometheus: items done, failed and waiting, seconds per item, GPU memory. They are written where
the `reelmill up` that started the run shows them at /metrics.
"""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flows.running.config import Outcome
from tasks.manifest import publish_text

UP = "REELMILL_UP"
"""The environment variable by which `reelmill up` tells its runs its home."""

FOLDER = "metrics"

HELP = {
    "reelmill_items": ("gauge", "Items of the last run of a flow on a folder, by how they ended."),
    "reelmill_seconds_per_item": ("gauge", "Seconds of the last run for each item that is done."),
    "reelmill_run_seconds": ("gauge", "Seconds that the last run took."),
    "reelmill_last_run_timestamp_seconds": ("gauge", "When the last run ended, in seconds since 1970."),
    "reelmill_gpu_memory_peak_bytes": ("gauge", "The most GPU memory that the last run's process held at once."),
}
"""The kind and the words of every figure."""

Sample = tuple[str, Mapping[str, str], float]


def write_metrics(flow: str, folder: Path, outcome: Outcome, seconds: float) -> None:
    """Write the figures of a run that ended, where a server shows them."""
    if home := os.environ.get(UP):
        place = Path(home) / FOLDER
        place.mkdir(exist_ok=True)
        name = re.sub(r"[^\w.-]", "_", f"{flow}-{folder.resolve().name}")[:100]
        publish_text(place / f"{name}.prom", format_samples(list_samples(flow, folder, outcome, seconds, time.time())))


def list_samples(flow: str, folder: Path, outcome: Outcome, seconds: float, now: float) -> Iterator[Sample]:
    """Yield the figures of an outcome."""
    labels = {"flow": flow, "folder": folder.resolve().name}
    tally = outcome.tally
    waiting = tally.waiting if tally else 0
    counts = {"failed": outcome.failed - waiting, "waiting": waiting, **({"done": tally.done} if tally else {})}
    for state, count in counts.items():
        yield "reelmill_items", labels | {"state": state}, count
    yield "reelmill_run_seconds", labels, seconds
    if tally and tally.done:
        yield "reelmill_seconds_per_item", labels, seconds / tally.done
    yield "reelmill_last_run_timestamp_seconds", labels, now
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        yield "reelmill_gpu_memory_peak_bytes", labels, torch.cuda.max_memory_allocated()


def format_samples(samples: Iterable[Sample]) -> str:
    """Return figures in Prometheus' text format, without their words."""
    return "".join(f"{name}{{{_format_labels(labels)}}} {value!r}\n" for name, labels, value in samples)


def _format_labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    """Return a label's value as Prometheus reads it."""
    sound = value.encode("utf-8", "replace").decode("utf-8")
    return sound.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def read_metrics(home: Path) -> str:
    """Return the figures of all runs of a served Reelmill, with their words, in Prometheus' text format."""
    lines = [line for file in sorted((home / FOLDER).glob("[!.]*.prom")) for line in _read_lines(file)]
    parts = []
    for name, (kind, words) in HELP.items():
        own = [line for line in lines if line.startswith(f"{name}{{")]
        parts += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *own] if own else []
    return "\n".join([*parts, ""])


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
