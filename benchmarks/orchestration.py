"""What orchestration costs, and what a second worker gains: a whole flow beside its steps run bare.

Each run is a process of its own that works into an empty folder: the flow with two workers, the same steps bare with
two threads, and the flow with one worker, in turn, several times over.

Bare means the body of the flow itself, whose steps are called as plain functions: the same chunks, in the same order,
on the same number of threads, with the same manifests, and no Prefect. What a run of any length pays once, Prefect's
own server and the engine, is timed by an empty flow before the flow, and stands in a row of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import psutil

ORCHESTRATION_BAR = 0.05

ConfigOf = Callable[[Path, Path, int], Any]
"""The settings of a run: of its source, its output folder and its number of workers."""


class Spent(NamedTuple):
    """Seconds of one run: starting Prefect, the flow's body, and the body's CPU time, server and children included."""

    start: float
    body: float
    cpu: float


def bare(workers: int) -> Any:
    """In place of flows.running.run.running: runs whose steps are called as plain functions, on threads."""
    from flows.running.progress import progress
    from flows.running.run import Run

    with_threads = ThreadPoolExecutor(workers)

    class BareRun(Run):
        def submit(self, step: Any, *arguments: Any, named: str | None = None) -> Any:
            return with_threads.submit(step.fn, self.folder, *arguments)

    @contextmanager
    def running(folder: Path, flow: str, config: Any) -> Iterator[BareRun]:
        folder.mkdir(parents=True)
        with progress() as bars, with_threads:
            yield BareRun(folder, workers, bars)

    return running


def cpu_seconds() -> float:
    """User and system time of this process and all below it, those that have ended included."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (here, *here.children(recursive=True)))


def start_prefect(config: Any) -> float:
    """Run an empty flow, which waits until the server is up; the seconds it took."""
    from prefect import flow

    from flows.running.run import run_flow

    started = time.perf_counter()
    run_flow(flow(name="empty")(lambda config: None), config)
    return time.perf_counter() - started


def run_here(module: Callable[[], ModuleType], config_of: ConfigOf, asked: str) -> None:
    """One run in this process, of the flow that has its module's name; prints its seconds as JSON.

    Prefect and the flow are imported only when the environment is set, as the command does.
    """
    from flows.command.prefect_server import ensure_server, settle_environment

    way, workers, source, out = json.loads(asked)
    settle_environment()
    if way == "flow":
        ensure_server()
    from flows.running.run import run_flow

    flows, config = module(), config_of(Path(source), Path(out), workers)
    whole_flow = getattr(flows, flows.__name__.rpartition(".")[2])
    if way == "flow":
        start, body = start_prefect(config), partial(run_flow, whole_flow)
    else:
        flows.__dict__["running"] = bare(workers)
        start, body = 0.0, whole_flow.fn
    cpu, started = cpu_seconds(), time.perf_counter()
    body(config)
    print(json.dumps([start, time.perf_counter() - started, cpu_seconds() - cpu]))


def run_apart(script: str, way: str, workers: int, source: Path) -> Spent:
    """The same in a process of its own, into an empty folder beside `source`."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        asked = json.dumps([way, workers, str(source), str(Path(out) / "out")])
        command = [sys.executable, "-m", f"benchmarks.{script}", "--child", asked]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Spent(*json.loads(done.stdout.splitlines()[-1]))


def measure(script: str, source: Path, rounds: int) -> dict[str, list[Spent]]:
    """The runs of each way, by name, in turn."""
    ways = {"flow, 2 workers": ("flow", 2), "bare, 2 threads": ("bare", 2), "flow, 1 worker": ("flow", 1)}
    spent: dict[str, list[Spent]] = {name: [] for name in ways}
    for number in range(rounds):
        # Every other round goes backwards, so that a machine that grows slower or faster favours none.
        for name in list(ways)[:: -1 if number % 2 else 1]:
            spent[name].append(run_apart(script, *ways[name], source))
            print(name, spent[name][-1], flush=True)
    return spent


def medians(spent: Mapping[str, Sequence[Spent]]) -> dict[str, Spent]:
    """The median of each figure."""
    return {
        name: Spent(*(float(np.median(column)) for column in zip(*runs, strict=True))) for name, runs in spent.items()
    }


def table(spent: Mapping[str, Sequence[Spent]], speed_up_bar: str) -> list[str]:
    """The seconds of each way and what follows from them, as lines of Markdown.

    Shares are the medians of those of each round, whose runs follow one another: a machine's speed drifts over all.
    """
    usual = medians(spent)
    two, one = usual["flow, 2 workers"], usual["flow, 1 worker"]
    lines = ["| run | wall time, s | CPU time, s | rounds, s |", "|---|---|---|---|"]
    for name, runs in spent.items():
        rounds = ", ".join(f"{run.body:.1f}" for run in runs)
        lines.append(f"| {name} | {usual[name].body:.1f} | {usual[name].cpu:.1f} | {rounds} |")
    starts = ", ".join(f"{run.start:.1f}" for run in spent["flow, 2 workers"])
    lines.append(f"| start of Prefect's server and engine, once | {two.start:.1f} | | {starts} |")
    pairs = list(zip(spent["flow, 2 workers"], spent["bare, 2 threads"], strict=True))
    share = float(np.median([1 - bare.body / flow.body for flow, bare in pairs]))
    of_cpu = float(np.median([1 - bare.cpu / flow.cpu for flow, bare in pairs]))
    lines += ["", "| figure | measured | bar |", "|---|---|---|"]
    lines.append(f"| orchestration, share of the flow's wall time | {share:.1%} | at most {ORCHESTRATION_BAR:.0%} |")
    lines.append(f"| orchestration, share of the flow's CPU time | {of_cpu:.1%} | |")
    lines.append(f"| two workers, times one | {one.body / two.body:.2f} | {speed_up_bar} |")
    return lines


def arguments(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """What every script that compares ways is given."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="Runs of each way.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]
