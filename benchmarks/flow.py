"""What orchestration costs, and what a second worker gains: the whole curate flow beside its steps run bare.

`python -m benchmarks.flow [--minutes 10] [--rounds 3]` renders a corpus, then runs in turn, several times over, each in
a process of its own and into an empty folder: the flow with two workers, the same steps bare with two threads, and the
flow with one worker. It prints the table as Markdown and writes benchmarks/flow.md.

Bare means the body of the flow itself, whose steps are called as plain functions: the same chunks, in the same order,
on the same number of threads, with the same manifests, and no Prefect. What a run of any length pays once, Prefect's
own server and the engine, is timed by an empty flow before the flow, and stands in a row of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

SIZE, FPS, FILE_S, SHOT_S = (320, 180), 25, 20, 4

FIRST_SCENE = 620_000

ORCHESTRATION_BAR, SPEED_UP_BAR = 0.05, 1.7


class Spent(NamedTuple):
    """Seconds of one run: starting Prefect, the flow's body, and the body's CPU time, server and children included."""

    start: float
    body: float
    cpu: float


def render_file(path: Path, number: int) -> None:
    """One file: shots of four seconds joined by hard cuts, textured, with shapes and the camera moving."""
    from benchmarks.transitions import MOTIONS
    from tasks.footage import Camera, Scene, render_shot
    from tasks.video import write_video

    shots = []
    for shot in range(FILE_S // SHOT_S):
        camera = Camera.doing(MOTIONS[(number + shot) % len(MOTIONS)], 0.2)
        scene = Scene(FIRST_SCENE + 100 * number + shot, movers=shot)
        shots.append(render_shot(scene, camera, SHOT_S * FPS, FPS, SIZE))
    write_video(path, np.concatenate(shots), FPS, crf=23)


def render(folder: Path, minutes: float) -> int:
    """Write the corpus; how many files it has."""
    files = max(round(minutes * 60 / FILE_S), 2)
    folder.mkdir()
    for number in range(files):
        render_file(folder / f"{number:03}.mp4", number)
    return files


def bare(workers: int) -> Any:
    """A run like flows.running.Run, which calls steps as plain functions; a context manager as `running` is."""
    from flows.console import progress
    from flows.running import Run

    with_threads = ThreadPoolExecutor(workers)

    class BareRun(Run):
        def whole(self, step: Any, *arguments: Any) -> Any:
            return step.fn(self.folder, *arguments)

        def _submit(self, step: Any, config: Any) -> Any:
            return lambda chunk: with_threads.submit(step.fn, self.folder, config, chunk)

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

    from flows.running import run_flow

    started = time.perf_counter()
    run_flow(flow(name="empty")(lambda config: None), config)
    return time.perf_counter() - started


def body_of(way: str, workers: int) -> Callable[[Any], Any]:
    """The flow, or its body with steps that are called as plain functions."""
    from flows import curate
    from flows.running import run_flow

    if way == "flow":
        return partial(run_flow, curate.curate)
    curate.running = bare(workers)
    return curate.curate.fn


def run_here(way: str, workers: int, corpus: Path, out: Path) -> None:
    """One run in this process; prints its seconds as JSON."""
    from flows.local_server import ensure_server, settle_environment

    settle_environment()
    if way == "flow":
        ensure_server()
    from flows.curate import CurateConfig

    config = CurateConfig(sources=(str(corpus),), out=out, workers=workers)
    start, body = start_prefect(config) if way == "flow" else 0.0, body_of(way, workers)
    cpu, started = cpu_seconds(), time.perf_counter()
    body(config)
    print(json.dumps([start, time.perf_counter() - started, cpu_seconds() - cpu]))


def run_apart(way: str, workers: int, corpus: Path, folder: Path) -> Spent:
    """The same in a process of its own, into an empty folder."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        asked = json.dumps([way, workers, str(corpus), str(Path(out) / "dataset")])
        command = [sys.executable, "-m", "benchmarks.flow", "--child", asked]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Spent(*json.loads(done.stdout.splitlines()[-1]))


def measure(corpus: Path, rounds: int) -> dict[str, list[Spent]]:
    """The runs of each way, by name, in turn."""
    ways = {"flow, 2 workers": ("flow", 2), "bare, 2 threads": ("bare", 2), "flow, 1 worker": ("flow", 1)}
    spent: dict[str, list[Spent]] = {name: [] for name in ways}
    for number in range(rounds):
        # Every other round goes backwards, so that a machine that grows slower or faster favours none.
        for name in list(ways)[:: -1 if number % 2 else 1]:
            spent[name].append(run_apart(*ways[name], corpus, corpus.parent))
            print(name, spent[name][-1], flush=True)
    return spent


def medians(spent: Mapping[str, Sequence[Spent]]) -> dict[str, Spent]:
    """The median of each figure."""
    return {
        name: Spent(*(float(np.median(column)) for column in zip(*runs, strict=True))) for name, runs in spent.items()
    }


def table(spent: Mapping[str, Sequence[Spent]]) -> str:
    """The seconds of each way and what follows from them, as Markdown."""
    usual = medians(spent)
    two, bare_two, one = usual["flow, 2 workers"], usual["bare, 2 threads"], usual["flow, 1 worker"]
    lines = ["| run | wall time, s | CPU time, s | rounds, s |", "|---|---|---|---|"]
    for name, runs in spent.items():
        rounds = ", ".join(f"{run.body:.1f}" for run in runs)
        lines.append(f"| {name} | {usual[name].body:.1f} | {usual[name].cpu:.1f} | {rounds} |")
    starts = ", ".join(f"{run.start:.1f}" for run in spent["flow, 2 workers"])
    lines.append(f"| start of Prefect's server and engine, once | {two.start:.1f} | | {starts} |")
    share, of_cpu = 1 - bare_two.body / two.body, 1 - bare_two.cpu / two.cpu
    lines += ["", "| figure | measured | bar |", "|---|---|---|"]
    lines.append(f"| orchestration, share of the flow's wall time | {share:.1%} | at most {ORCHESTRATION_BAR:.0%} |")
    lines.append(f"| orchestration, share of the flow's CPU time | {of_cpu:.1%} | |")
    lines.append(f"| two workers, times one | {one.body / two.body:.2f} | at least {SPEED_UP_BAR} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="Length of the corpus.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each way.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        way, workers, corpus, out = json.loads(asked.child)
        run_here(way, workers, Path(corpus), Path(out))
        return
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        files = render(corpus, asked.minutes)
        load = os.getloadavg()[0]
        spent = measure(corpus, asked.rounds)
    about = (
        f"{files} rendered files of {FILE_S} s in {FILE_S // SHOT_S} shots, {SIZE[0]}x{SIZE[1]} at {FPS} frames per"
        f" second, curated with the defaults (`python -m benchmarks.flow`) on {len(os.sched_getaffinity(0))} cores"
        f" ({platform.machine()}); medians of {asked.rounds} rounds in turn. The load average was {load:.1f} before and"
        f" {os.getloadavg()[0]:.1f} after, with that of the runs themselves. Pictures are small, so a task of the flow"
        " has less work than with usual footage. CPU time is that of all processes, Prefect's server included."
    )
    text = f"# The flow\n\n{about}\n\n{table(spent)}\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
