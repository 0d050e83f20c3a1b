"""A chain of steps over many items: each chunk goes on to the next step while others are still in those before.

So a clip is decoded and encoded while the next is sampled, and a run that ends early has whole videos, not latents. The
chain stops, between pieces of work, where a guard says so.
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
from flows.running.run import Run, chunks_of, say
from tasks.manifest import ManifestRef

T = TypeVar("T")

PIECE_S = 2.0
"""Work between two looks at the clock, the disk and the faults, in seconds on one core; or one item, if it is more."""


@dataclass(frozen=True)
class Stage:
    """A step of a chain with its config.

    All but the first `take` their items from the manifests of those before, each stage's in turn, and cost `share` of
    what the one before did.
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


def run_chain(
    run: Run, stages: Sequence[Stage], items: Sequence[Any], seconds: Sequence[float], guard: Guard
) -> list[list[ManifestRef]]:
    """Stages over `items`, which take `seconds` each in the first: each stage's manifests, in the items' order.

    What the guard lets not start has no manifest.
    """
    started, chain = time.monotonic(), _Chain(run, stages, items, seconds, guard)
    ended: Ended = SimpleQueue()
    at_work = 0
    while True:
        while at_work < run.workers and (work := chain.next_work()):
            chain.submit(work, ended)
            at_work += 1
        if not at_work:
            break
        work, future = ended.get()
        at_work -= 1
        chain.keep(work, future.result())
    made = chain.in_order()
    for stage, manifests in zip(stages, made, strict=True):
        say(stage.step.name, manifests, started)
    return made


class _Chain:
    """What of a chain is to be done and what was made; later stages go before earlier ones."""

    def __init__(
        self, run: Run, stages: Sequence[Stage], items: Sequence[Any], seconds: Sequence[float], guard: Guard
    ) -> None:
        self.run, self.stages, self.guard = run, stages, guard
        chunks = chunks_of(list(zip(items, seconds, strict=True)), seconds, run.workers)
        self.first = deque(Work(0, n, [i for i, _ in c], [s for _, s in c]) for n, c in enumerate(chunks))
        self.ready: list[Work] = []
        self.made: list[dict[int, list[ManifestRef]]] = [{} for _ in stages]
        self.bars = [run.bars.add_task(stage.step.name, total=len(items)) for stage in stages]

    def next_work(self) -> Work | None:
        """The chunk to start now, if one may."""
        if self.ready:
            return self.ready.pop(0)
        return self.first.popleft() if self.first and self.guard.may_start() else None

    def submit(self, work: Work, ended: Ended) -> None:
        """Start a chunk as a task; it is put on `ended` when it is done."""
        stage = self.stages[work.stage]
        step = guarded(stage.step, self.guard, begun=work.stage > 0)
        future = self.run.submit(step, stage.config, list(zip(work.items, work.seconds, strict=True)))
        future.add_done_callback(lambda done: ended.put((work, done)))

    def keep(self, work: Work, made: list[ManifestRef]) -> None:
        """Keep what a chunk came to, and make its next stage ready."""
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
        """The manifests of each stage, in the items' order."""
        return [[ref for number in sorted(made) for ref in made[number]] for made in self.made]


def guarded(step: Task[..., list[ManifestRef]], guard: Guard, begun: bool) -> Task[..., list[ManifestRef]]:
    """The step over pairs of items and seconds, in pieces of PIECE_S; it stops before one that may not start."""
    compute = step.fn

    @wraps(compute)
    def call(folder: Any, config: BaseModel, chunk: list[tuple[Any, float]]) -> list[ManifestRef]:
        made: list[ManifestRef] = []
        for piece in pieces_of(chunk):
            if not guard.may_start(begun):
                break
            part: list[ManifestRef] = compute(folder, config, piece)  # pyright: ignore[reportAssignmentType]
            guard.saw(part)
            made += part
        return made

    copy = step.with_options()
    copy.fn = call
    return copy


def pieces_of(chunk: Sequence[tuple[T, float]]) -> list[list[T]]:
    """The items of pairs of items and seconds, in runs of about PIECE_S."""
    ends = accumulate(seconds for _, seconds in chunk)
    numbered = [(int((end - s / 2) / PIECE_S), item) for end, (item, s) in zip(ends, chunk, strict=True)]
    return [[item for _, item in run] for _, run in groupby(numbered, key=lambda pair: pair[0])]
