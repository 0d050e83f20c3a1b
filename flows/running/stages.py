"""Overlapped stages over many items: each chunk moves to the next step while others are still in the steps before.

So a clip is decoded and encoded while the next is sampled, and a run that ends early has complete videos, not latents.
A guard may stop the stages between pieces of work.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate, groupby
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from pydantic import BaseModel

from flows.running.guard import Guard
from flows.running.run import Run, make_chunks, say
from tasks.manifest import ManifestRef

T = TypeVar("T")

PIECE_S = 2.0
"""The work between two checks of the clock, the disk and the faults, in seconds on one core, but at least one item."""


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
    """A chunk for one stage: its number among the first stage's chunks, its items, and the seconds of each."""

    stage: int
    number: int
    items: list[Any]
    seconds: list[float]


Ended = SimpleQueue[tuple[Work, PrefectFuture[list[ManifestRef]]]]


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
        while at_work < run.workers and (work := queue.next_work()):
            queue.submit(work, ended)
            at_work += 1
        if not at_work:
            break
        work, future = ended.get()
        at_work -= 1
        queue.keep(work, future.result())
    made = queue.in_order()
    for stage, manifests in zip(stages, made, strict=True):
        say(stage.step.name, manifests, started)
    return made


class _Queue:
    """The work that remains and the manifests that were made; later stages go before earlier ones."""

    def __init__(
        self, run: Run, stages: Sequence[Stage], items: Sequence[Any], seconds: Sequence[float], guard: Guard
    ) -> None:
        self.run, self.stages, self.guard = run, stages, guard
        chunks = make_chunks(list(zip(items, seconds, strict=True)), seconds, run.workers)
        self.first = deque(Work(0, n, [i for i, _ in c], [s for _, s in c]) for n, c in enumerate(chunks))
        self.ready: list[Work] = []
        self.made: list[dict[int, list[ManifestRef]]] = [{} for _ in stages]
        self.bars = [run.bars.add_task(stage.step.name, total=len(items)) for stage in stages]

    def next_work(self) -> Work | None:
        """Return the chunk to start now; None where none may start."""
        if self.ready:
            return self.ready.pop(0)
        return self.first.popleft() if self.first and self.guard.may_start() else None

    def submit(self, work: Work, ended: Ended) -> None:
        """Start a chunk as a task that is put on `ended` when it is done."""
        stage = self.stages[work.stage]
        step = guard_step(stage.step, self.guard, begun=work.stage > 0)
        future = self.run.submit(step, stage.config, list(zip(work.items, work.seconds, strict=True)))
        future.add_done_callback(lambda done: ended.put((work, done)))

    def keep(self, work: Work, made: list[ManifestRef]) -> None:
        """Keep the manifests of a chunk, and make its next stage ready."""
        self.made[work.stage][work.number] = made
        self.run.bars.advance(self.bars[work.stage], len(work.items))
        following = self.stages[work.stage + 1] if work.stage + 1 < len(self.stages) else None
        before = [stage[work.number] for stage in self.made[: work.stage + 1]]
        items = following.take(*before) if following and following.take else []
        if following and items:
            each = following.share * sum(work.seconds) / len(items)
            self.ready.append(Work(work.stage + 1, work.number, items, [each] * len(items)))
            self.ready.sort(key=lambda waiting: (-waiting.stage, waiting.number))

    def in_order(self) -> list[list[ManifestRef]]:
        """Return the manifests of each stage, in the items' order."""
        return [[ref for number in sorted(made) for ref in made[number]] for made in self.made]


def guard_step(step: Task[..., list[ManifestRef]], guard: Guard, begun: bool) -> Task[..., list[ManifestRef]]:
    """Return the step over pairs of items and seconds, in pieces of PIECE_S; it stops before one that may not start."""
    compute = step.fn

    @wraps(compute)
    def call(folder: Any, config: BaseModel, chunk: list[tuple[Any, float]]) -> list[ManifestRef]:
        made: list[ManifestRef] = []
        for piece in make_pieces(chunk):
            if not guard.may_start(begun):
                break
            part: list[ManifestRef] = compute(folder, config, piece)  # pyright: ignore[reportAssignmentType]
            guard.saw(part)
            made += part
        return made

    copy = step.with_options()
    copy.fn = call
    return copy


def make_pieces(chunk: Sequence[tuple[T, float]]) -> list[list[T]]:
    """Group the items of pairs of items and seconds into pieces of about PIECE_S."""
    ends = accumulate(seconds for _, seconds in chunk)
    numbered = [(int((end - s / 2) / PIECE_S), item) for end, (item, s) in zip(ends, chunk, strict=True)]
    return [[item for _, item in run] for _, run in groupby(numbered, key=lambda pair: pair[0])]
