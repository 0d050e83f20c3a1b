"""The whole curate flow: what orchestration costs, and what a second worker gains (see benchmarks/orchestration.py).

`python -m benchmarks.flow [--minutes 10] [--rounds 3]` renders a corpus, runs the flow and its steps bare, prints the
table as Markdown and writes benchmarks/flow.md.
"""

import os
import platform
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.orchestration import arguments, load, measure, run_here, table

SIZE, FPS, FILE_S, SHOT_S = (320, 180), 25, 20, 4

FIRST_SCENE = 620_000

SPEED_UP_BAR = "at least 1.7"


def render_file(path: Path, number: int) -> None:
    """One file: shots of four seconds joined by hard cuts, textured, with shapes and the camera moving."""
    from benchmarks.transitions import MOTIONS
    from tasks.footage import Camera, Scene, render_shot
    from tasks.media.video import write_video

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


def flow_module() -> ModuleType:
    """The flow's module, imported when it is needed."""
    from flows import curate

    return curate


def config_of(source: Path, out: Path, workers: int) -> Any:
    """The defaults."""
    from flows.curate import CurateConfig

    return CurateConfig(sources=(str(source),), out=out, workers=workers)


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--minutes", type=float, default=10, help="Length of the corpus.")
    asked = parser.parse_args()
    if asked.child:
        run_here(flow_module, config_of, asked.child)
        return
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        files = render(corpus, asked.minutes)
        before = load()
        spent = measure("flow", corpus, asked.rounds)
    about = (
        f"{files} rendered files of {FILE_S} s in {FILE_S // SHOT_S} shots, {SIZE[0]}x{SIZE[1]} at {FPS} frames per"
        f" second, curated with the defaults (`python -m benchmarks.flow`) on {len(os.sched_getaffinity(0))} cores"
        f" ({platform.machine()}); medians of {asked.rounds} rounds in turn. The load average was {before:.1f} before"
        f" and {load():.1f} after, with that of the runs themselves. Pictures are small, so a task of the flow has less"
        " work than with usual footage. CPU time is that of all processes, Prefect's server included."
    )
    text = "\n".join(["# The flow", "", about, "", *table(spent, SPEED_UP_BAR), ""])
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
