"""How a flow runs its steps: in chunks of about half a minute of work, a bounded number at a time, one lock per folder.

Work is measured in seconds on one core, as the flow estimates it. A chunk is one Prefect task run, so that Prefect's
own cost stays under two percent of the work. A run never uses a folder that another run writes to.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial, wraps
from itertools import accumulate, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed
from pydantic import BaseModel
from rich.progress import Progress

from flows.running.claim import check_claim, claim
from flows.running.config import FlowConfig, dump_kept
from flows.running.given import keep_given
from flows.running.interrupt import stoppable
from flows.running.lock import exclusive
from flows.running.progress import progress
from flows.running.runners import count_cores, make_runner, make_thread_pool
from flows.running.story import Story, begin_story
from flows.running.told import read_outcome
from tasks.limits import get_limits, set_limits
from tasks.live import listening
from tasks.manifest import ManifestRef, publish_text, remove_asides
from tasks.stopping import ask_to_stop, check_stopped

log = logging.getLogger("reelmill")

T = TypeVar("T")

CHUNK_S = 30.0
"""The work in one chunk of a large step, in seconds on one core."""

MAX_CHUNKS = 36
"""The most chunks of one step: eight steps of chunks, as curation has where it cuts, stay below the 300 task runs that
Prefect's SQLite supports in one flow."""


def run_flow(flow: Flow[..., T], config: BaseModel) -> T:
    """Run a flow in this process, on the runner that its config names, without the heartbeat that delays its end."""
    runner = make_runner(config) if isinstance(config, FlowConfig) else make_thread_pool()
    with stoppable(), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        state: Any = flow.with_options(task_runner=runner)(config, return_state=True)
        return read_outcome(state)


def make_chunks(items: Sequence[T], seconds: Sequence[float], workers: int) -> list[list[T]]:
    """Cut `items`, in order, into chunks of about CHUNK_S by the seconds each takes.

    There are at most MAX_CHUNKS, and at least one for each worker where there are enough items; none is empty.
    """
    if not items:
        return []
    size, ends = measure_chunk(seconds, workers), accumulate(seconds)
    numbers = [min(int((end - s / 2) / size), MAX_CHUNKS - 1) for end, s in zip(ends, seconds, strict=True)]
    chunks = [[i for i, n in enumerate(numbers) if n == number] for number in sorted(set(numbers))]
    while len(chunks) < min(workers, len(items)):
        chunks = _halve_longest(chunks, seconds)
    return [[items[i] for i in chunk] for chunk in chunks]


def measure_chunk(seconds: Sequence[float], workers: int) -> float:
    """Return the seconds of work in one chunk, of items that take `seconds` each."""
    total = sum(seconds)
    return max(min(CHUNK_S, total / workers), total / MAX_CHUNKS) or 1.0


@contextmanager
def running(folder: Path, flow: str, config: FlowConfig) -> Iterator["Run"]:
    """Yield a flow's run on its own, locked output folder; its settings are in FLOW.yaml, its progress on a terminal.

    Raises BadInput where the folder has files of others, or is another flow's. A run that is stopped ends when the work
    that has begun is finished or saved, and until then the folder is locked.
    """
    set_limits(config.limits)
    check_claim(folder, flow)
    with exclusive(folder), progress() as bars:
        claim(folder, flow)
        remove_asides(folder)
        publish_text(folder / f"{flow}.yaml", dump_kept(config))
        keep_given(folder, flow, config)
        story = begin_story(flow, folder)
        run = Run(folder, config.workers or count_cores(), bars, here=config.runner == "threads", story=story)
        try:
            yield run
            story.end()
        except BaseException as error:
            if not isinstance(error, Exception):
                ask_to_stop()
            run.wait()
            raise


class Run:
    """A run of one flow: it runs steps in chunks, and logs for each step what ran and what was found.

    `here`: its workers are threads of this process.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        bars: Progress,
        begun: list[PrefectFuture[Any]] | None = None,
        here: bool = True,
        story: Story | None = None,
    ) -> None:
        self.folder, self.workers, self.bars, self.here = folder, workers, bars, here
        self.story = story or Story("", folder, None)
        self._begun: list[PrefectFuture[Any]] = [] if begun is None else begun

    def at(self, folder: Path) -> "Run":
        """Return the same run in another folder, after removing the unfinished files that killed runs left there."""
        remove_asides(folder)
        return Run(folder, self.workers, self.bars, self._begun, self.here, self.story)

    def whole(self, step: Task[..., T], *arguments: Any) -> T:
        """Run a step that takes everything at once, on this run's folder and `arguments`."""
        started, bar = time.monotonic(), self.bars.add_task(step.name, total=None)
        with listening(step.name, lambda done, total: self.bars.update(bar, total=total, completed=done)):
            made = self.submit(step, *arguments).result()
        self.bars.update(bar, total=1, completed=1)
        say(step.name, _list_manifests(made), started)
        return made

    def chunks(
        self,
        step: Task[..., list[ManifestRef]],
        config: BaseModel,
        items: Sequence[Any],
        seconds: Sequence[float],
    ) -> list[ManifestRef]:
        """Run a step over `items`, which take `seconds` each on one core; return a manifest for each, in order."""
        started, bar = time.monotonic(), self.bars.add_task(step.name, total=len(items))
        self.story.begin(step.name, len(items), sum(seconds))
        chunks = make_chunks(items, seconds, self.workers)
        names = [self.story.name_chunk(step.name, n, len(chunks), len(chunk)) for n, chunk in enumerate(chunks, 1)]
        submit = partial(self._submit_named, step, config)
        made: dict[int, list[ManifestRef]] = {}
        for number, manifests in _submit_windowed(submit, list(zip(names, chunks, strict=True)), self.workers):
            made[number] = manifests
            self.bars.advance(bar, len(chunks[number]))
            self.story.advance(step.name, len(chunks[number]), all(manifest.cached for manifest in manifests))
        manifests = [manifest for number in range(len(chunks)) for manifest in made[number]]
        say(step.name, manifests, started)
        return manifests

    def _submit_named(
        self, step: Task[..., list[ManifestRef]], config: BaseModel, chunk: tuple[str, list[Any]]
    ) -> PrefectFuture[list[ManifestRef]]:
        return self.submit(step, config, chunk[1], named=chunk[0])

    def submit(self, step: Task[..., T], *arguments: Any, named: str | None = None) -> PrefectFuture[T]:
        """Start a step on this run's folder and `arguments`, as a task of the flow, unless Ctrl-C was pressed."""
        check_stopped()
        future = report_cached(step, named or step.name).submit(self.folder, *arguments)
        self._begun.append(future)
        return future

    def wait(self) -> None:
        """Wait until no step works any more, however it ends."""
        for future in self._begun:
            if isinstance(future, PrefectConcurrentFuture):
                wait([future.wrapped_future])  # Its own `wait` raises what the step ended with.
            else:
                future.wait()


def report_cached(step: Task[..., T], named: str) -> Task[..., T]:
    """Return the step, as a task of this name, with its state named "Cached" when every manifest was found;
    tasks.caching does the caching. It has this process' limits wherever it runs."""
    compute, limits = step.fn, get_limits()

    @wraps(compute)
    def call(*arguments: Any, **named: Any) -> Any:
        set_limits(limits)
        made = compute(*arguments, **named)
        manifests = _list_manifests(made)
        found = bool(manifests) and all(manifest.cached for manifest in manifests)
        return Completed(name="Cached", message="Every manifest was found.", data=made) if found else made

    copy = step.with_options(cache_policy=NO_CACHE, persist_result=False, task_run_name=named)
    copy.fn = call
    return copy


def _submit_windowed(
    submit: Callable[[T], PrefectFuture[list[ManifestRef]]], chunks: Sequence[T], workers: int
) -> Iterator[tuple[int, list[ManifestRef]]]:
    """Submit chunks, at most `workers` at a time; yield their numbers and results as they end."""
    ended: SimpleQueue[tuple[int, PrefectFuture[list[ManifestRef]]]] = SimpleQueue()
    waiting = iter(enumerate(chunks))

    def start(batch: Iterable[tuple[int, T]]) -> None:
        for number, chunk in batch:
            submit(chunk).add_done_callback(lambda future, number=number: ended.put((number, future)))

    start(islice(waiting, workers))
    for _ in chunks:
        number, future = ended.get()
        yield number, future.result()
        start(islice(waiting, 1))


def _halve_longest(chunks: list[list[int]], seconds: Sequence[float]) -> list[list[int]]:
    divisible = [c for c in range(len(chunks)) if len(chunks[c]) > 1]
    longest = max(divisible, key=lambda c: sum(seconds[i] for i in chunks[c]))
    chunk = chunks[longest]
    middle = len(chunk) // 2
    return [*chunks[:longest], chunk[:middle], chunk[middle:], *chunks[longest + 1 :]]


def _list_manifests(made: Any) -> list[ManifestRef]:
    return [each for each in (made if isinstance(made, list) else [made]) if isinstance(each, ManifestRef)]


def say(step: str, manifests: Sequence[ManifestRef], started: float) -> None:
    """Log how many manifests of a step ran and were found; it began at `started` by time.monotonic."""
    spent = time.monotonic() - started
    found = sum(manifest.cached for manifest in manifests)
    if manifests:
        log.info("%s: %d ran, %d found (%.1f s)", step, len(manifests) - found, found, spent)
    else:
        log.info("%s: ran (%.1f s)", step, spent)
