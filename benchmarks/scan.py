"""Cost of the scan, as CPU time beside that of a plain decode of the same file in the same run.

`python -m benchmarks.scan` renders a 720p H.264 file, then runs in turn, several times over: ffmpeg's decode to
nothing, our scan, PySceneDetect's command line, and the scan's results by a pass per step. It prints the table as
Markdown and writes benchmarks/scan.md. CPU time is user and system time of a process, its threads and its children. In
a flow, a scan runs in a process that has Python and the libraries loaded, so its cost stands there without and with
their start; the others' start is included.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.transitions import MOTIONS
from tasks.footage import Camera, Scene, render_shot
from tasks.media.video import find_ffmpeg

SECONDS, FPS, SIZE = 60, 25, (1280, 720)

SHOT_S = 5

ROUNDS = 3

WITH_START = "Reelmill's scan, with the start of Python"

SCAN = """
import sys, time
from pathlib import Path
from tasks.curate.scan import Sampling, scan_file
started = time.process_time()
scan_file(Path(sys.argv[1]), Path(sys.argv[2]), Sampling())
print(time.process_time() - started)
"""

PASSES = """
import sys, cv2, numpy as np
from pathlib import Path
from fractions import Fraction
from scenedetect import AdaptiveDetector, ContentDetector, ThresholdDetector, detect
from tasks.media.frame_store import frame_writer
from tasks.media.canonical_picture import make_picture
from tasks.media.video import FullPass, open_video, read_frames
cv2.setNumThreads(1)
path = Path(sys.argv[1])
for detector in (AdaptiveDetector(), ContentDetector(), ThresholdDetector()):
    detect(str(path), detector)
with frame_writer(Path(sys.argv[2])) as writer:
    for number, (time, frame) in enumerate(read_frames(path)):
        if number % 12 == 0:
            writer.add(frame.pts, float(time), make_picture(frame, short_side=360))
"""
"""Cuts by three detectors and frames for later steps, each with a decode of its own."""


def render(path: Path) -> None:
    """Write the film: shots of five seconds, textured, with shapes and the camera moving, at the usual quality."""
    command = [find_ffmpeg(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "1280x720"]
    command += ["-r", str(FPS), "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "21", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin
        for shot in range(SECONDS // SHOT_S):
            camera = Camera.doing(MOTIONS[shot % len(MOTIONS)], 0.2)
            frames = render_shot(Scene(700 + shot, movers=4), camera, SHOT_S * FPS, FPS, (640, 360))
            grain = np.random.default_rng(shot).integers(-6, 7, (*SIZE[::-1], 1))
            for frame in frames:
                large = frame.repeat(2, axis=0).repeat(2, axis=1) + np.roll(grain, int(frame[0, 0, 0]), axis=1)
                encoder.stdin.write(np.clip(large, 0, 255).astype(np.uint8).tobytes())


def cpu_seconds(command: Sequence[str]) -> tuple[float, str]:
    """User and system time of a command and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def commands(film: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured, by name; the first is the measure of the others."""
    store = str(folder / "frames.parquet")
    scenedetect = str(Path(sys.executable).with_name("scenedetect"))
    return {
        "ffmpeg -threads 2 -f null": [find_ffmpeg(), "-threads", "2", "-i", str(film), "-f", "null", "-"],
        WITH_START: [sys.executable, "-c", SCAN, str(film), store],
        "PySceneDetect, detect-adaptive": [scenedetect, "-i", str(film), "-o", str(folder), "detect-adaptive"],
        "a pass per step": [sys.executable, "-c", PASSES, str(film), store],
    }


def table(seconds: Mapping[str, Sequence[float]]) -> str:
    """The medians and their ratios to the first one, as Markdown."""
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    measure = next(iter(medians.values()))
    lines = ["| command | CPU seconds | times the decode | rounds |", "|---|---|---|---|"]
    for name, median in medians.items():
        rounds = ", ".join(f"{value:.1f}" for value in seconds[name])
        lines.append(f"| {name} | {median:.1f} | {median / measure:.2f} | {rounds} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as name:
        film = Path(name) / "film.mp4"
        render(film)
        megabits = film.stat().st_size * 8e-6 / SECONDS
        todo = commands(film, Path(name))
        seconds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for what, command in todo.items():
                spent, said = cpu_seconds(command)
                if what == WITH_START:
                    seconds.setdefault("Reelmill's scan", []).append(float(said))
                seconds.setdefault(what, []).append(spent)
    about = (
        f"{SECONDS} s of rendered 720p H.264 at {FPS} frames per second and {megabits:.1f} Mbit/s, on "
        f"{os.cpu_count()} cores ({platform.machine()}); CPU time, the median of {ROUNDS} rounds in turn"
        " (`python -m benchmarks.scan`). The scan writes the signals of every frame and the frame store."
    )
    text = f"# Cost of the scan\n\n{about}\n\n{table(seconds)}\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
