"""Running steps: how work is cut, bounded, found again and locked, with Prefect's engine and server for real."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import Task, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from pydantic import Field
from rich.progress import Progress

from flows.running.config import FlowConfig
from flows.running.run import CHUNK_S, MAX_CHUNKS, Run, exclusive, make_chunks, make_thread_pool, run_flow, running
from models.errors import BadInput, BadMedia
from tasks.caching import Step, find_or_compute
from tasks.ledger import mark
from tasks.manifest import ManifestRef, make_table, read_rows

STEP = Step("double", 1, pa.schema([("item", pa.int64()), ("double", pa.int64())]))


class DoubleConfig(FlowConfig):
    """A flow that doubles numbers."""

    out: Path = Field(description="Output folder.")
    items: tuple[int, ...] = Field(default=(), description="Numbers.")


class Watch:
    """How many chunks are at work at once."""

    lock, now, most = threading.Lock(), 0, 0


@task(name="double")
def double(root: Path, config: DoubleConfig, items: list[int]) -> list[ManifestRef]:
    with Watch.lock:
        Watch.now += 1
        Watch.most = max(Watch.most, Watch.now)
    time.sleep(0.05)
    with Watch.lock:
        Watch.now -= 1
    if 13 in items:
        raise BadMedia("13.mp4: unlucky. Take another.")
    return [
        find_or_compute(
            STEP, root, None, [str(i)], lambda _, i=i: make_table([{"item": i, "double": 2 * i}], STEP.schema)
        )
        for i in items
    ]


@flow(name="double", task_runner=make_thread_pool())
def doubled(config: DoubleConfig) -> list[int]:
    """Double every item, each a chunk of its own."""
    with running(config.out, "double", config) as run:
        manifests = run.chunks(double, config, config.items, [CHUNK_S] * len(config.items))
        return [row["double"] for manifest in manifests for row in read_rows(manifest)]


WEIGHTS = st.lists(st.floats(0, 1e4), max_size=80)


@given(WEIGHTS, st.integers(1, 16))
def test_chunks_hold_every_item_once_in_order_and_none_is_empty(seconds: list[float], workers: int):
    chunks = make_chunks(range(len(seconds)), seconds, workers)
    assert [item for chunk in chunks for item in chunk] == list(range(len(seconds)))
    assert all(chunks)
    assert len(chunks) <= max(MAX_CHUNKS, workers)
    assert len(chunks) >= min(workers, len(seconds))


def test_chunks_are_of_about_half_a_minute_when_there_is_much_work():
    chunks = make_chunks(range(60), [10.0] * 60, workers=4)
    assert [len(chunk) for chunk in chunks] == [3] * 20


def test_chunks_grow_when_there_would_be_too_many():
    assert len(make_chunks(range(10_000), [10.0] * 10_000, workers=4)) == MAX_CHUNKS


def test_little_work_is_shared_among_the_workers():
    assert [len(chunk) for chunk in make_chunks(range(8), [0.1] * 8, workers=4)] == [2, 2, 2, 2]


def test_one_long_item_does_not_hold_the_others_in_its_chunk():
    assert make_chunks("abc", [1.0, 500.0, 1.0], workers=2) == [["a"], ["b"], ["c"]]


def test_nothing_to_do_is_no_chunk():
    assert make_chunks([], [], workers=4) == []


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reelmill logs during the test."""
    handler = Lines()
    monkeypatch.setattr(logging.getLogger("reelmill"), "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger("reelmill"), "handlers", [handler])
    return handler.said


def test_a_flow_runs_its_steps_in_chunks_and_a_second_run_finds_everything(
    tmp_path: Path, prefect_server: str, lines: list[str]
):
    config = DoubleConfig(out=tmp_path / "out", items=(5, 3, 8, 1, 4), workers=2)
    Watch.most = 0
    first, second = run_flow(doubled, config), run_flow(doubled, config)
    assert first == second == [10, 6, 16, 2, 8]
    assert Watch.most == 2
    assert [line.partition(" (")[0] for line in lines] == ["double: 5 ran, 0 found", "double: 0 ran, 5 found"]
    assert (
        (tmp_path / "out" / "double.yaml")
        .read_text()
        .partition("workers: 2\nrunner: threads\n")[2]
        .startswith("limits:\n")
    )


def test_the_task_runs_of_a_second_run_are_named_cached(tmp_path: Path, prefect_server: str):
    config = DoubleConfig(out=tmp_path / "out", items=(1, 2), workers=2)
    run_flow(doubled, config)
    state = doubled(config, return_state=True)
    with get_client(sync_client=True) as client:
        runs: list[Any] = []
        for _ in range(50):
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
            runs = client.read_task_runs(flow_run_filter=chosen)
            if [run.state_name for run in runs] == ["Cached", "Cached"]:
                break
            time.sleep(0.2)
    assert [run.state_name for run in runs] == ["Cached", "Cached"]


def test_an_error_of_a_step_ends_the_flow_as_that_error_and_prints_no_traceback(
    tmp_path: Path, prefect_server: str, capfd: pytest.CaptureFixture[str]
):
    config = DoubleConfig(out=tmp_path / "out", items=(1, 13, *range(20, 60)), workers=1)
    with pytest.raises(BadMedia, match=r"^13\.mp4: unlucky\. Take another\.$"):
        run_flow(doubled, config)
    assert len(list((tmp_path / "out").rglob("*.parquet"))) < 5
    assert "Traceback" not in capfd.readouterr().err


def test_a_runner_that_is_not_installed_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"--runner ray needs a package that is not installed"):
        run_flow(doubled, DoubleConfig(out=tmp_path, runner="ray"))


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match=r"file/out: the output folder cannot be created"),
        exclusive(tmp_path / "file" / "out"),
    ):
        raise AssertionError


HOLD = """
import sys, time
from pathlib import Path
from flows.running.run import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_folder_belongs_to_one_run_until_that_run_ends_or_is_killed(tmp_path: Path, repository: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=rf"another run \(process {holder.pid}\) is working"), exclusive(tmp_path):
            raise AssertionError
        os.kill(holder.pid, signal.SIGKILL)
    with exclusive(tmp_path):
        pass


def test_a_flow_within_a_flow_may_use_the_same_folder(tmp_path: Path):
    with exclusive(tmp_path), exclusive(tmp_path / "." / ".." / tmp_path.name):
        pass
    with exclusive(tmp_path):
        pass


def test_what_a_killed_run_left_half_written_is_swept_away_and_that_of_a_living_one_is_not(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    manifests = tmp_path / "manifests" / "scan"
    manifests.mkdir(parents=True)
    dead, alive = (manifests / f".k.parquet.{pid}-0a1b2c3d.parquet" for pid in (ended.pid, os.getpid()))
    kept = manifests / "k.parquet"
    for path in (dead, alive, kept):
        path.write_text("")
    mark(tmp_path, "double", "1")
    with running(tmp_path, "double", DoubleConfig(out=tmp_path)):
        pass
    assert sorted(p.name for p in manifests.iterdir()) == sorted([alive.name, kept.name])


@pytest.mark.usefixtures("prefect_server")
def test_a_ctrl_c_that_a_library_lets_go_by_stops_the_run_at_its_next_step(tmp_path: Path):
    ways: list[str] = []

    @flow(name="swallowing")
    def swallowing(config: DoubleConfig) -> None:
        with running(config.out, "swallowing", config) as run:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            ways.append("went on")
            run.chunks(double, config, (1,), (1.0,))
            ways.append("did the step")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_flow(swallowing, DoubleConfig(out=tmp_path))
    assert ways == ["went on"]
    assert signal.getsignal(signal.SIGINT) is before
    run_flow(doubled, DoubleConfig(out=tmp_path / "another", items=(1,)))


class Here(Run):
    """A run whose chunks are done at once, in this thread, without Prefect."""

    def submit(self, step: Task[..., Any], *arguments: Any, named: str | None = None) -> Any:
        done: Future[Any] = Future()
        done.set_result(step.fn(self.folder, *arguments))
        return done


def test_the_bar_of_a_step_goes_from_nothing_to_all_of_its_items(tmp_path: Path):
    bars = Progress(disable=True)
    Here(tmp_path, 2, bars).chunks(double, DoubleConfig(out=tmp_path), range(5), [CHUNK_S] * 5)
    (bar,) = bars.tasks
    assert (bar.description, bar.completed, bar.total) == ("double", 5, 5)
