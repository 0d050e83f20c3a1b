"""How often the camera's class is right on rendered shots, of which the truth is known.

`python -m benchmarks.camera [--shots 30]` renders so many shots of each class, prints the table as Markdown and writes
benchmarks/camera.md. Each shot goes the way of footage: it is compressed, scanned, and measured on its stored frames.

The truth of a shot is how it was made. A plain motion moves the average pixel at 0.05 to 0.6 short sides a second, with
a little of the other motions mixed in; a complex one has two or three of them in equal parts, or turns back halfway. A
static camera may have shapes moving before it, as all the others have.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import cv2
import numpy as np

from models.errors import ReelmillError
from models.measures.camera import MotionClass, mean_radius
from models.pictures import Frames
from tasks.curate.motion import MotionConfig, measure_clip
from tasks.curate.scan import Sampling, scan_file
from tasks.footage import Camera, Scene, render_shot
from tasks.media.video import write_video

FPS, SIZE = 25, (320, 180)

FIRST_SCENE = 600_000
"""No threshold was chosen on these scenes, and no other benchmark or test has them."""

SECONDS = (2.0, 4.0)

SPEEDS = (0.05, 0.6)
"""How fast the average pixel moves, in short sides per second; drawn evenly on a logarithmic scale."""

ZOOM_LIMIT = 1.2
"""Natural logarithm of the magnification over the shot, at most: past that, little of the scene is left to see."""

STRAY = 0.2
"""The most that a plain motion has of the three others together, as a share of its own speed."""

BAR = 0.95

CLASSES: tuple[MotionClass, ...] = tuple(motion for motion in get_args(MotionClass) if motion != "unknown")

AXES: Mapping[str, int] = {"pan": 0, "tilt": 1, "zoom": 2, "roll": 3}


def camera_of(moves: np.ndarray, seconds: float) -> Camera:
    """The camera whose pan, tilt, zoom and roll each move the average pixel at `moves`, in short sides per second.

    The renderer's pan and tilt are speeds over the scene, which a zoom makes faster or slower to see: they are set so
    that `moves` is what is seen in the middle of the shot.
    """
    radius = mean_radius(SIZE[1], SIZE[0])
    zoom = float(np.clip(moves[2] / radius, -ZOOM_LIMIT / seconds, ZOOM_LIMIT / seconds))
    pan, tilt = moves[:2] * np.exp(-zoom * seconds / 2)
    return Camera(float(pan), float(tilt), zoom, float(np.rad2deg(moves[3] / radius)))


def plain_moves(motion: MotionClass, speed: float, draw: np.random.Generator) -> np.ndarray:
    """One motion at `speed`, and a stray share of the others."""
    if motion == "static":
        return np.zeros(4)
    axis = AXES[motion.split("_")[0]]
    backwards = motion in ("pan_left", "tilt_down", "zoom_out") or (motion == "roll" and draw.random() < 0.5)
    moves = draw.uniform(-STRAY, STRAY, 4) * speed / np.sqrt(3)
    moves[axis] = -speed if backwards else speed
    return moves


def complex_moves(speed: float, draw: np.random.Generator) -> np.ndarray:
    """Two or three motions, none of which is more than a tenth faster than the slowest of them."""
    axes = draw.permutation(4)[: draw.integers(2, 4)]
    moves = np.zeros(4)
    moves[axes] = speed * draw.uniform(0.95, 1.05, len(axes)) * draw.choice([-1, 1], len(axes))
    return moves


def render(motion: MotionClass, number: int) -> Frames:
    """The shot of this number: its scene, length, speed and shapes are drawn by the number."""
    draw = np.random.default_rng([FIRST_SCENE, number])
    seconds, speed = draw.uniform(*SECONDS), float(np.exp(draw.uniform(*np.log(SPEEDS))))
    if motion.startswith("zoom") or motion == "complex":
        speed = min(speed, ZOOM_LIMIT / seconds * mean_radius(SIZE[1], SIZE[0]))
    scene, frames = Scene(FIRST_SCENE + number, movers=int(draw.integers(0, 5))), round(seconds * FPS)
    if motion == "complex" and draw.random() < 0.3:
        there = plain_moves(CLASSES[int(draw.integers(1, 5))], speed, draw)
        half = render_shot(scene, camera_of(there, seconds), frames // 2, FPS, SIZE)
        return np.concatenate([half, half[::-1]])
    moves = complex_moves(speed, draw) if motion == "complex" else plain_moves(motion, speed, draw)
    return render_shot(scene, camera_of(moves, seconds), frames, FPS, SIZE)


def measured(motion: MotionClass, number: int) -> str:
    """What curation calls the shot, or its error."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        film, store = Path(folder) / "shot.mp4", Path(folder) / "frames.parquet"
        write_video(film, render(motion, number), FPS, crf=23)
        scan = scan_file(film, store, Sampling())
        clip = {"clip_id": film.name, "start_pts": int(scan["pts"][0]), "end_pts": scan["end_pts"]}
        try:
            return measure_clip(store, clip, MotionConfig())["camera_motion"]
        except ReelmillError as error:
            return error.code


def measure(shots: int, workers: int) -> Counter[tuple[str, str]]:
    """How many shots of a class (the first) are called what (the second)."""
    truth = [motion for motion in CLASSES for _ in range(shots)]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        found = list(pool.map(measured, truth, range(len(truth))))
    return Counter(zip(truth, found, strict=True))


def table(counts: Counter[tuple[str, str]]) -> str:
    """The confusion as Markdown: a row for each true class."""
    others = sorted({called for _, called in counts} - set(CLASSES))
    columns = [*CLASSES, *others]
    lines = [f"| truth | {' | '.join(columns)} | right |", "|---" * (len(columns) + 2) + "|"]
    for motion in CLASSES:
        row = [counts[motion, called] for called in columns]
        lines.append(
            f"| {motion} | {' | '.join(str(n or '') for n in row)} | {counts[motion, motion] / sum(row):.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shots", type=int, default=30, help="Shots of each class.")
    parser.add_argument("--workers", type=int, default=2, help="Processes that render and measure.")
    asked = parser.parse_args()
    counts = measure(asked.shots, asked.workers)
    right = sum(counts[motion, motion] for motion in CLASSES)
    about = (
        f"{counts.total()} rendered shots of {SECONDS[0]:g} to {SECONDS[1]:g} s, {SIZE[0]}x{SIZE[1]} at {FPS} frames"
        " per second, compressed, scanned and measured with the defaults (`python -m benchmarks.camera`). A plain"
        f" motion moves the average pixel at {SPEEDS[0]:g} to {SPEEDS[1]:g} short sides a second, with up to"
        f" {STRAY / np.sqrt(3):.0%} of each other motion; a complex one has two or three motions in equal parts or"
        " turns back halfway; up to four shapes move about in each."
    )
    verdict = f"Right: {right} of {counts.total()} ({right / counts.total():.1%}; the bar is {BAR:.0%})."
    text = f"# The camera's class\n\n{about}\n\n{verdict}\n\n{table(counts)}\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
