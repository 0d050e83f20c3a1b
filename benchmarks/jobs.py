"""Many small jobs: what orchestration costs the generate flow, and its throughput with one worker and with two.

`python -m benchmarks.jobs [--jobs 500] [--rounds 1]` makes clips of 4 frames of 32x32 in 4 steps with the embedded
model, by the flow and by its steps bare (see benchmarks/orchestration.py), prints the table as Markdown and writes
benchmarks/jobs.md.
"""

import os
import platform
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.orchestration import arguments, load, measure, medians, run_here, table

SIDE, FRAMES, STEPS = 32, 4, 4


def pictures(folder: Path, number: int) -> Path:
    """That many pictures of noise."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for n in range(number):
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{n:04}.png")
    return folder


def flow_module() -> ModuleType:
    """The flow's module, imported when it is needed."""
    from flows import generate

    return generate


def config_of(source: Path, out: Path, workers: int) -> Any:
    """The defaults but for the size and the steps, which are small."""
    from flows.generate import GenerateConfig

    return GenerateConfig(jobs=source, out=out, workers=workers, steps=STEPS, frames=FRAMES, width=SIDE, height=SIDE)


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--jobs", type=int, default=500, help="Pictures, each a job.")
    asked = parser.parse_args()
    if asked.child:
        run_here(flow_module, config_of, asked.child)
        return
    with tempfile.TemporaryDirectory() as name:
        source = pictures(Path(name) / "pictures", asked.jobs)
        before = load()
        spent = measure("jobs", source, asked.rounds)
    about = (
        f"{asked.rounds} rounds of {asked.jobs} jobs of {FRAMES} frames of {SIDE}x{SIDE} in {STEPS} steps by the"
        f" embedded model (`python -m benchmarks.jobs`) on {len(os.sched_getaffinity(0))} cores"
        f" ({platform.machine()}). The load average was {before:.1f} before and {load():.1f} after, with that of the"
        " runs themselves. CPU time is that of all processes, Prefect's server included."
    )
    rates = [f"| {way}, clips per second | {asked.jobs / usual.body:.2f} | |" for way, usual in medians(spent).items()]
    text = "\n".join(["# Many jobs", "", about, "", *table(spent, ""), *rates, ""])
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
