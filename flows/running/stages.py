"""Overlapped stages over many items, in a strict order: each item moves to the next step while others are still in the
steps before.

So a clip is decoded and encoded while the next is sampled, and a run that ends early has complete videos, not latents.
A worker takes one item after the other from what waits, always the first, so that what is done when the guard stops the
stages are the first items, however many workers there are. What a worker does of one step, about half a minute of work
or a fortieth of all, is one task of Prefect: a lane. On a cluster, whose workers share no memory, the items of a lane
are chosen before it starts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from heapq import heappop, heappush
from itertools import accumulate, groupby
from queue import SimpleQueue
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from pydantic import BaseModel

from flows.running.guard import Guard
from flows.running.run import MAX_CHUNKS, Run, measure_chunk, say
from tasks.manifest import ManifestRef
from tasks.stopping import is_asked_to_stop

T = TypeVar("T")

PIECE_S = 2.0
"""The work between two checks of the clock, the disk and the faults on a cluster, in seconds on one core, but at least
one item."""


@dataclass(frozen=True)
class Stage:
    """A step with its config, as one of several stages.

    Each stage after the first makes its items by `take` from the manifests of all earlier stages, in order, and takes
    `share` of the time of the stage before.
    """

    step: Task[..., list[ManifestRef]]
    config: BaseModel
    take: Callable[..., list[Any]] | None = None
    share: float = 1.0


class Work(NamedTuple):
    """What a stage does without a break: its place in the order, its items, and the seconds of each."""

    number: int
    items: list[Any]
    seconds: list[float]


Ended = SimpleQueue[tuple[int, Work, PrefectFuture[list[ManifestRef]]]]


def run_stages(
    run: Run, stages: Sequence[Stage], items: Sequence[Any], seconds: Sequence[float], guard: Guard
) -> list[list[ManifestRef]]:
    """Run stages over `items`, which take `seconds` each in the first; return the manifests of each, in their order.

    Work that the guard does not let start has no manifest.
    """
    started, queue = time.monotonic(), _Queue(run, stages, items, seconds, guard)
    ended: Ended = SimpleQueue()
    at_work = 0
    while True:
        while at_work < run.workers and (lane := queue.next_lane()):
            queue.submit(*lane, ended)
            at_work += 1
        if not at_work:
            break
        stage, work, future = ended.get()
        at_work -= 1
        queue.end(stage, work, future.result())
    made = queue.in_order()
    for stage, manifests in zip(stages, made, strict=True):
        say(stage.step.name, manifests, started)
    return made


class _Queue:
    """The work that remains and the manifests that were made; full lanes of later stages go before earlier ones."""

    def __init__(
        self, run: Run, stages: Sequence[Stage], items: Sequence[Any], seconds: Sequence[float], guard: Guard
    ) -> None:
        self.run, self.stages, self.guard, self.lock = run, stages, guard, Lock()
        pairs = list(zip(items, seconds, strict=True))
        pieces = [[pair] for pair in pairs] if run.here else make_groups(pairs, max(PIECE_S, sum(seconds) / MAX_CHUNKS))
        works = [Work(n, [i for i, _ in piece], [s for _, s in piece]) for n, piece in enumerate(pieces)]
        self.waiting: list[list[Work]] = [works, *([] for _ in stages[1:])]
        shares = list(accumulate((stage.share for stage in stages[1:]), lambda a, b: a * b, initial=1.0))
        self.lanes = [measure_chunk(seconds, run.workers) * share for share in shares]
        self.made: list[dict[int, list[ManifestRef]]] = [{} for _ in stages]
        self.bars = [run.bars.add_task(stage.step.name, total=len(items)) for stage in stages]
        for stage, share in zip(stages, shares, strict=True):
            run.story.begin(stage.step.name, len(items), sum(seconds) * share)

    def next_lane(self) -> tuple[int, Work] | None:
        """Return the stage of the lane to start now, with its first work; None where none may start."""
        later = [number for number in range(len(self.stages) - 1, 0, -1) if self.waiting[number]]
        full = [number for number in later if self._is_full(number)]
        for number in (*full, 0, *later):
            if work := self.pull(number):
                return number, work
        return None

    def _is_full(self, stage: int) -> bool:
        with self.lock:
            # Sums of shares differ in their last digits.
            return sum(sum(work.seconds) for work in self.waiting[stage]) >= 0.999 * self.lanes[stage]

    def pull(self, stage: int) -> Work | None:
        """Take the first work that waits for a stage, if there is any and the guard lets it start."""
        with self.lock:
            if self.waiting[stage] and self.guard.may_start(begun=stage > 0):
                return heappop(self.waiting[stage])
            return None

    def submit(self, stage: int, first: Work, ended: Ended) -> None:
        """Start a lane as a task that is put on `ended` when it is done."""
        own = self.stages[stage]
        step, items = self._make_lane(stage, first), first.items
        if not self.run.here:
            step = guard_step(own.step, self.guard, begun=stage > 0)
            items = list(zip(first.items, first.seconds, strict=True))
        named = f"{own.step.name}: from {self.run.story.noun} {first.number + 1} on"
        future = self.run.submit(step, own.config, items, named=named)
        future.add_done_callback(lambda done: ended.put((stage, first, done)))

    def _make_lane(self, stage: int, first: Work) -> Task[..., list[ManifestRef]]:
        """Return the step over the items of the first work, and then of what else waits, until the lane is full."""
        compute = self.stages[stage].step.fn

        @wraps(compute)
        def call(folder: Any, config: BaseModel, items: list[Any]) -> list[ManifestRef]:
            made, spent, work = list[ManifestRef](), 0.0, first
            while work:
                part: list[ManifestRef] = compute(folder, config, items)  # pyright: ignore[reportAssignmentType]
                self.guard.saw(part)
                self.keep(stage, work, part)
                made += part
                spent += sum(work.seconds)
                full = spent >= self.lanes[stage] or is_asked_to_stop()
                work = None if full else self.pull(stage)
                items = work.items if work else []
            return made

        copy = self.stages[stage].step.with_options()
        copy.fn = call
        return copy

    def end(self, stage: int, work: Work, made: list[ManifestRef]) -> None:
        """Keep what a lane of a cluster made; the others have kept it themselves."""
        if not self.run.here:
            self.keep(stage, work, made)

    def keep(self, stage: int, work: Work, made: list[ManifestRef]) -> None:
        """Keep the manifests of a work, and let its items wait for the next stage."""
        self.made[stage][work.number] = made
        self.run.bars.advance(self.bars[stage], len(work.items))
        self.run.story.advance(self.stages[stage].step.name, len(work.items), all(manifest.cached for manifest in made))
        following = self.stages[stage + 1] if stage + 1 < len(self.stages) else None
        before = [manifests[work.number] for manifests in self.made[: stage + 1]]
        items = following.take(*before) if following and following.take else []
        if following and items:
            each = following.share * sum(work.seconds) / len(items)
            with self.lock:
                heappush(self.waiting[stage + 1], Work(work.number, items, [each] * len(items)))

    def in_order(self) -> list[list[ManifestRef]]:
        """Return the manifests of each stage, in the items' order."""
        return [[ref for number in sorted(made) for ref in made[number]] for made in self.made]


def guard_step(step: Task[..., list[ManifestRef]], guard: Guard, begun: bool) -> Task[..., list[ManifestRef]]:
    """Return the step over pairs of items and seconds, in pieces of PIECE_S; it stops before one that may not start."""
    compute = step.fn

    @wraps(compute)
    def call(folder: Any, config: BaseModel, chunk: list[tuple[Any, float]]) -> list[ManifestRef]:
        made: list[ManifestRef] = []
        for piece in make_groups(chunk, PIECE_S):
            if not guard.may_start(begun):
                break
            part: list[ManifestRef] = compute(folder, config, [item for item, _ in piece])  # pyright: ignore[reportAssignmentType]
            guard.saw(part)
            made += part
        return made

    copy = step.with_options()
    copy.fn = call
    return copy


def make_groups(pairs: Sequence[tuple[T, float]], size: float) -> list[list[tuple[T, float]]]:
    """Group pairs of items and seconds, in order, so that each group takes about `size` seconds."""
    ends = accumulate(seconds for _, seconds in pairs)
    numbered = [(int((end - pair[1] / 2) / size), pair) for end, pair in zip(ends, pairs, strict=True)]
    return [[pair for _, pair in group] for _, group in groupby(numbered, key=lambda each: each[0])]
