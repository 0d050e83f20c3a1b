"""Overlapped stages: how work is cut, what goes first, and what is done when the guard stops them."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect import Task, task
from pydantic import BaseModel
from rich.progress import Progress

from flows.running.guard import Guard, NightConfig
from flows.running.run import CHUNK_S, Run
from flows.running.stages import Stage, make_groups, run_stages
from tasks.manifest import ManifestRef


def groups(*seconds: float) -> list[list[int]]:
    return [[item for item, _ in group] for group in make_groups(list(enumerate(seconds)), 2.0)]


def test_work_is_cut_into_groups_of_about_two_seconds():
    assert groups(*[0.5] * 9) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert groups(*[30.0] * 3) == [[0], [1], [2]]
    assert groups(*[0.0] * 3) == [[0, 1, 2]]
    assert groups() == []


class Nothing(BaseModel):
    """No settings."""


class OnThreads(Run):
    """A run whose lanes are functions on threads, without Prefect; `lanes` are the steps of those it started."""

    def __init__(self, workers: int, here: bool) -> None:
        super().__init__(Path(), workers, Progress(disable=True), here=here)
        self.pool, self.lanes = ThreadPoolExecutor(workers), list[str]()

    def submit(self, step: Task[..., Any], *arguments: Any, named: str | None = None) -> Any:
        self.lanes.append(step.name)
        future: Future[Any] = self.pool.submit(step.fn, self.folder, *arguments)
        return future


class UntilSome(Guard):
    """A guard that lets so many items of the first stage start."""

    left = 0

    def may_start(self, begun: bool = False) -> bool:
        """Say whether work may start."""
        self.left -= not begun
        return begun or self.left >= 0


def stages(done: list[tuple[str, int]]) -> list[Stage]:
    def run(name: str) -> Task[..., list[ManifestRef]]:
        @task(name=name)
        def step(folder: Path, config: Nothing, items: list[int]) -> list[ManifestRef]:
            done.extend((name, item) for item in items)
            return [ManifestRef(path=Path(str(item)), digest=str(item), rows=1, cached=True) for item in items]

        return step

    def take(*before: list[ManifestRef]) -> list[int]:
        return [int(ref.digest) for ref in before[-1]]

    own = Nothing()
    return [Stage(run("first"), own), Stage(run("second"), own, take, 0.5), Stage(run("third"), own, take)]


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_passes_every_stage_and_is_returned_in_its_place(here: bool, workers: int):
    done = list[tuple[str, int]]()
    guard = Guard(Path(), NightConfig(), None)
    made = run_stages(OnThreads(workers, here), stages(done), range(50), [7.0] * 50, guard)
    assert [[int(ref.digest) for ref in stage] for stage in made] == [list(range(50))] * 3
    assert sorted(done) == sorted((name, item) for name in ("first", "second", "third") for item in range(50))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_is_done_when_the_guard_stops_are_the_first_items_whatever_the_number_of_workers(workers: int):
    guard = UntilSome(Path(), NightConfig(), None)
    guard.left = 11
    made = run_stages(OnThreads(workers, True), stages([]), range(40), [20.0] * 40, guard)
    assert [[int(ref.digest) for ref in stage] for stage in made] == [list(range(11))] * 3


def test_one_worker_does_half_a_minute_of_each_step_in_turn_and_later_steps_first():
    run = OnThreads(1, True)
    run_stages(run, stages([]), range(9), [CHUNK_S / 3] * 9, Guard(Path(), NightConfig(), None))
    assert run.lanes == ["first", "second", "third"] * 3
