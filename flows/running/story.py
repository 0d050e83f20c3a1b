"""What Prefect's UI shows of a run while it works: a name and tags that say what it is, names of its tasks, and a
progress that moves, with rate and time left.

A run outside of Prefect has no story, and where the server cannot be told, the run goes on.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from flows.running.messages import make_line
from tasks.pages.page import format_count, format_duration

log = logging.getLogger("reelmill")

TELL_EVERY_S = 5.0
"""Seconds between two updates of a run's progress: one costs the server about 30 ms."""

LONGEST_NAME = 120

UNSEEN = "REELMILL_UNSEEN"
"""Set where the server is one command's own and has no UI: nobody is told."""


@dataclass
class _Bar:
    """A step's progress: its items, and how many seconds of work on one core they are estimated to be."""

    items: int
    seconds: float
    done: int = 0


@dataclass
class Story:
    """What is told of the run `run`, if there is one; `items` are what it works on, as "9 films"."""

    flow: str
    folder: Path
    run: UUID | None
    clock: Callable[[], float] = time.monotonic
    noun: str = "item"
    _bars: dict[str, _Bar] = field(default_factory=dict)
    _expected: float = 0.0
    _done: float = 0.0
    _found: float = 0.0
    _artifact: UUID | None = None
    _told_at: float = float("-inf")
    _begun_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._begun_at = self.clock()

    def call(self, count: int | None = None, noun: str = "item", seconds: float = 0.0) -> None:
        """Name the run by its flow, its folder, and the number of its items; `seconds` of work are expected of all
        steps."""
        self.noun, self._expected = noun, seconds
        if self.run:
            named = make_run_name(self.flow, self.folder, None if count is None else format_count(count, noun))
            tags = ["reelmill", self.flow, f"folder:{self.folder.resolve().name}"]
            tell(lambda: _rename(self.run, named, tags))

    def name_chunk(self, step: str, number: int, of: int | None, items: int) -> str:
        """Return the name of a chunk's task: "scan 3 of 12: 40 films"."""
        counted = f"{step} {number}" + (f" of {of}" if of else "")
        return f"{counted}: {format_count(items, self.noun)}"

    def begin(self, step: str, items: int, seconds: float = 0.0) -> None:
        """Begin a step."""
        with self._lock:
            self._bars[step] = _Bar(items, seconds)
        self._show(step)

    def advance(self, step: str, items: int, found: bool = False) -> None:
        """Count `items` of a step as done; they took no time where they were `found`."""
        with self._lock:
            bar = self._bars[step]
            bar.done += items
            done = bar.seconds * items / max(bar.items, 1)
            self._done += done
            self._found += done if found else 0.0
        self._show(step)

    def end(self) -> None:
        """Say that all is done."""
        self._show(None, True)

    def describe(self, step: str | None) -> tuple[float, str]:
        """Return the percentage of all work that is done, and a sentence on the step at work."""
        with self._lock:
            if step is None:
                return 100.0, f"done in {format_duration(self.clock() - self._begun_at)}"
            total = max(self._expected, sum(bar.seconds for bar in self._bars.values()), 1e-9)
            share = min(self._done / total, 0.99)
            return 100.0 * share, self._say(step, total)

    def _say(self, step: str, total: float) -> str:
        bar, spent = self._bars[step], max(self.clock() - self._begun_at, 1e-9)
        said = f"{step}: {bar.done} of {format_count(bar.items, self.noun)}"
        worked = self._done - self._found
        if not worked or not bar.done:
            return said
        rate = bar.items * worked / spent / bar.seconds if bar.seconds else 0.0
        left = max(total - self._done, 0.0) * spent / worked
        return f"{said}, {_say_rate(rate)}, about {format_duration(left)} left of the run"

    def _show(self, step: str | None, at_once: bool = False) -> None:
        now = self.clock()
        with self._lock:
            if not self.run or (not at_once and now - self._told_at < TELL_EVERY_S):
                return
            self._told_at = now
        percent, said = self.describe(step)
        tell(lambda: self._write(percent, said))

    def _write(self, percent: float, said: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=said)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            update_progress_artifact(self._artifact, percent, said)


def is_seen() -> bool:
    """Say whether a person can look at the run that this code runs in."""
    return UNSEEN not in os.environ


def begin_story(flow: str, folder: Path) -> Story:
    """Return the story of the run of a flow that this code runs in, named by its folder until its items are known."""
    context = FlowRunContext.get()
    run = context.flow_run if context and is_seen() else None
    story = Story(flow, folder, run.id if run else None)
    story.call()
    return story


def make_run_name(flow: str, folder: Path, items: str | None) -> str:
    """Return the name of a run: "curate dataset: 9 films"."""
    named = make_line(f"{flow} {folder.resolve().name}")[:LONGEST_NAME]
    return f"{named}: {items}" if items else named


def _say_rate(per_s: float) -> str:
    for unit, seconds in (("second", 1), ("minute", 60), ("hour", 3600)):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:.1f} a {unit}"
    return f"{per_s * 86400:.1f} a day"


def _rename(run: UUID | None, name: str, tags: list[str]) -> None:
    assert run
    with get_client(sync_client=True) as client:
        there = client.read_flow_run(run)
        client.update_flow_run(run, name=name, tags=sorted({*there.tags, *tags}))


def tell(call: Callable[[], Any]) -> None:
    """Tell the server something that the run does not depend on."""
    try:
        call()
    except (PrefectException, httpx.HTTPError, OSError) as error:
        log.debug("The UI could not be told: %s", error)
