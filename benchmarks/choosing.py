"""How fast deciding, comparing and showing are: `python benchmarks/choosing.py` prints a table and writes choosing.md.

- A million clips: `select` on the loaded columns, and `reelmill select` as a command, from its start to its end.
- The report of 10,000 clips, with its page's size.
- Near-duplicates among 10,000 to 100,000 clips with random hashes, one in twenty a copy with a few bits changed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.synthetic import make_dataset  # noqa: E402
from tasks.clip_columns import measure_seconds  # noqa: E402
from tasks.curate.dedup import link_hashes  # noqa: E402
from tasks.curate.report import ReportConfig, write_report  # noqa: E402
from tasks.curate.select import read_measures  # noqa: E402
from tasks.keep_rules import judge_clips, paper  # noqa: E402
from tasks.keep_verdicts import count_funnel, make_verdict_columns  # noqa: E402
from tasks.manifest import read_manifest_ref  # noqa: E402

MILLION, SHOWN, VIDEOS = 1_000_000, 10_000, 200

COMPARED = (10_000, 30_000, 100_000)

Row = tuple[str, str, str]


def best_of(times: int, work: Callable[[], Any]) -> float:
    """The shortest of some runs, in seconds: what else the machine does only ever adds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def deciding(folder: Path, count: int) -> list[Row]:
    clips = make_dataset(folder, count, max(count // 50, 1))
    loaded, _ = read_measures(clips)

    def decide() -> None:
        verdict = judge_clips(loaded, paper())
        make_verdict_columns(verdict.bits)
        count_funnel(verdict, measure_seconds(loaded))

    command = [sys.executable, "-m", "flows.command.main", "select", str(folder), "--preset", "paper"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = os.times()
    whole = best_of(3, lambda: subprocess.run(command, check=True, capture_output=True, env=environment))
    after = os.times()
    busy = (after.children_user + after.children_system - before.children_user - before.children_system) / 3
    return [
        (f"decide on {count:,} loaded clips", f"{best_of(3, decide):.2f} s", "under 1 s"),
        (f"`reelmill select` on {count:,} clips", f"{whole:.2f} s ({busy:.2f} s of CPU)", "under 3 s"),
    ]


def showing(folder: Path, count: int) -> list[Row]:
    clips = read_manifest_ref(make_dataset(folder, count, VIDEOS))
    taken = best_of(1, lambda: write_report.fn(folder, ReportConfig(), clips))
    size = (folder / "report/index.html").stat().st_size / 1e6
    return [
        (f"report of {count:,} clips", f"{taken:.1f} s", "under 20 s"),
        (f"its page of {count:,} clips", f"{size:.1f} MB", "under 25 MB"),
    ]


def comparing(counts: Sequence[int]) -> list[Row]:
    rows, former = [], (0, 0.0)
    for count in counts:
        rng = np.random.default_rng(0)
        hashes = rng.integers(0, 2**64, (count, 3), dtype=np.uint64)
        copies = count // 20
        hashes[-copies:] = hashes[:copies]
        for _ in range(6):
            hashes[-copies:] ^= np.uint64(1) << rng.integers(0, 64, (copies, 3), dtype=np.uint64)
        shots = np.arange(count)
        taken = best_of(2, lambda hashes=hashes, shots=shots: link_hashes(hashes, shots, 10))
        grown = f"{taken / former[1]:.1f} times for {count / former[0]:.1f} times the clips" if former[0] else ""
        rows.append((f"near-duplicates among {count:,} clips", f"{taken:.2f} s", grown))
        former = (count, taken)
    return rows


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | measured | bar, or growth |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/choosing.md", help="The file to write.")
    parser.add_argument("--scale", type=float, default=1.0, help="Shares of the numbers of clips, to try it quickly.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *deciding(Path(folder) / "million", int(MILLION * arguments.scale)),
            *showing(Path(folder) / "shown", int(SHOWN * arguments.scale)),
            *comparing([int(count * arguments.scale) for count in COMPARED]),
        ]
    cores = len(os.sched_getaffinity(0))
    text = (
        f"# Deciding, comparing, showing\n\nBy benchmarks/choosing.py on {cores} cores; the shortest of 1 to 3 runs.\n"
    )
    arguments.out.write_text(f"{text}\n{table(rows)}\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
