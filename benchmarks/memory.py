"""Peak memory of a worker of curation on a file of three hours, beside one of three minutes.

`python -m benchmarks.memory [--minutes 180]` renders three minutes of shots, joins copies of them to a long file
without encoding again, and lets one worker curate each in a process of its own. Meanwhile it reads, twenty times a
second, what the kernel says that each process held at most. It prints the table as Markdown and writes
benchmarks/memory.md.

A worker is the child that decodes, and a thread of the command's process, in which the other steps run. `look` and
`motion` go from clip to clip, so a short file shows them; but a clip's stored frames are held at once, so a file
that is one shot stands in the table too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.transitions import MOTIONS
from tasks.footage import Camera, Scene, render_shot
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video

FPS, SIZE = 25, (320, 180)

SHOT_S = 15

SHOTS = 12

BAR_MB = 1500

POLL_S = 0.05

STILL_MIN = 10
"""Length of the file that is one shot."""


DECODED, MEASURED = "scan, split", "scan, split, look, motion"

STEPS = """
import sys
from pathlib import Path
from tasks.curate.ingest import IngestConfig, ingest_sources, source_videos
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.motion import MotionConfig, measure_motion
from tasks.curate.scan import ScanConfig, scan_video
from tasks.curate.split import SplitConfig, split_video
from tasks.curate.video_manifests import VideoManifests
root, film, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(video,) = source_videos(root, ingest_sources(root, IngestConfig(), [film]))
scan = scan_video(root, ScanConfig(), video)
split = split_video(root, SplitConfig(), scan)
if "motion" in steps:
    measure_look.fn(root, LookConfig(), [VideoManifests(scan, split)])
    measure_motion.fn(root, MotionConfig(), [VideoManifests(scan, split)])
"""


class Peaks(NamedTuple):
    """The most that processes held, in MB: the one that decodes, and the one of the other steps; and the seconds."""

    child: float
    own: float
    seconds: float


def join(films: list[Path], out: Path) -> None:
    """The films one after the other in one file, their packets as they are."""
    listed = out.with_suffix(".txt")
    listed.write_text("".join(f"file '{film.name}'\n" for film in films), encoding="utf-8")
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-f", "concat", "-i", str(listed), "-c", "copy", str(out)]
    run_ffmpeg(command, None, str(out))


def render(folder: Path) -> list[Path]:
    """The shots, a file each; in the first one nothing moves, so that copies of it are one shot."""
    films = [folder / f"shot-{number:02}.mp4" for number in range(SHOTS)]
    for number, film in enumerate(films):
        camera = Camera.doing(MOTIONS[number % len(MOTIONS)], 0.1)
        scene = Scene(610_000 + number, movers=3 if number else 0)
        write_video(film, render_shot(scene, camera, SHOT_S * FPS, FPS, SIZE), FPS, crf=23)
    return films


def peak_mb(process: int | str) -> float:
    """The most memory that a process has held so far (VmHWM: what it was started from does not count), in MB."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def decoders(command: psutil.Process) -> Iterator[int]:
    """The fork server and its children; a worker's child that decodes is the largest of them."""
    for process in command.children(recursive=True):
        if any("forkserver" in word for word in process.cmdline()):
            yield process.pid


def curate(film: Path, steps: str) -> Peaks:
    """Let a worker do the steps on a film, and watch."""
    command = [sys.executable, "-c", STEPS, str(film.with_suffix("")), str(film), steps]
    own, child, started = 0.0, 0.0, time.monotonic()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            # A child may end between being listed and being read; it was read before.
            with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
                own = max(own, peak_mb(process.pid))
                child = max([child, *map(peak_mb, decoders(psutil.Process(process.pid)))])
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{film}: its steps ended with exit code {process.returncode}.")
    return Peaks(child, own, time.monotonic() - started)


def films(folder: Path, minutes: int) -> Iterator[tuple[str, str, Path]]:
    """What is measured: its name, the steps, and the file."""
    shots, short = render(folder), SHOTS * SHOT_S // 60
    whole = [
        (f"{short} min", DECODED, shots),
        (f"{minutes} min", DECODED, shots * (minutes // short)),
        (f"{short} min", MEASURED, shots),
        (f"{STILL_MIN} min, one shot", MEASURED, shots[:1] * (STILL_MIN * 60 // SHOT_S)),
    ]
    for number, (name, steps, parts) in enumerate(whole):
        film = folder / f"film-{number}.mp4"
        join(parts, film)
        yield name, steps, film


def table(found: Sequence[tuple[str, str, Peaks]]) -> str:
    """The peaks as Markdown."""
    names = ("file", "steps", "the child that scans, MB", "the other process, MB", f"both (bar {BAR_MB})", "s")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, steps, peaks in found:
        figures = (peaks.child, peaks.own, peaks.child + peaks.own, peaks.seconds)
        lines.append(f"| {name} | {steps} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=180, help="Length of the long file.")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        found = [(name, steps, curate(film, steps)) for name, steps, film in films(Path(folder), minutes)]
    about = (
        f"Files of {SIZE[0]}x{SIZE[1]} at {FPS} frames per second, in shots of {SHOT_S} s but for the last one, curated"
        f" by one worker on {len(os.sched_getaffinity(0))} cores (`python -m benchmarks.memory`): the peak of each"
        " process's resident memory, libraries included."
    )
    text = f"# Memory\n\n{about}\n\n{table(found)}\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
