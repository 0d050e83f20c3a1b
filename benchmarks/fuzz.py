"""Mutated video files through ingest, scan and split: each must become a row, and none may end or hold up the run.

    .venv/bin/python benchmarks/fuzz.py [--files 2000] [--seed 1] [--root FOLDER]

Small films in nine containers and codecs are rendered; each file is one of them with flipped bits, a cut end, a piece
moved or doubled, a run of zeros, or a changed length of a box, drawn by the seed. Writes benchmarks/fuzz.md. In a
FOLDER that stays, a run that was stopped goes on where it was.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tasks.curate.ingest import IngestConfig, ingest_sources, list_videos
from tasks.curate.scan import ScanConfig, scan_video
from tasks.curate.split import SplitConfig, split_video
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import SourceVideo, find_ffmpeg, run_ffmpeg, write_video

LIMIT_S = 20.0
"""What one probe or one decode of these films of a second may take; a plain one takes a fiftieth of a second."""

FILMS = {
    "plain.mp4": ("-c", "copy"),
    "index-last.mp4": ("-c", "copy", "-movflags", "-faststart"),
    "fragmented.mp4": ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov"),
    "edited.mov": ("-c", "copy", "-ss", "0.2"),
    "matroska.mkv": ("-c", "copy"),
    "broadcast.ts": ("-c", "copy"),
    "old.avi": ("-c:v", "mpeg4", "-bf", "2"),
    "web.webm": ("-c:v", "libvpx", "-b:v", "300k", "-deadline", "realtime"),
    "programme.mpg": ("-c:v", "mpeg2video", "-bf", "2"),
}

Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def flip_bits(content: bytearray, draw: np.random.Generator) -> bytearray:
    """From one to sixty-four bits, anywhere."""
    for place in draw.integers(0, len(content), int(2 ** draw.integers(0, 7))):
        content[place] ^= 1 << int(draw.integers(8))
    return content


def flip_header_bits(content: bytearray, draw: np.random.Generator) -> bytearray:
    """A few bits in the first or the last kilobyte, where headers and indexes lie."""
    edge = min(1024, len(content))
    for place in draw.integers(0, edge, 4):
        content[int(place) if draw.random() < 0.7 else len(content) - 1 - int(place)] ^= 1 << int(draw.integers(8))
    return content


def cut_end(content: bytearray, draw: np.random.Generator) -> bytearray:
    """The end is missing."""
    return content[: int(draw.integers(1, len(content)))]


def splice(content: bytearray, draw: np.random.Generator) -> bytearray:
    """A piece is taken out, or put in again elsewhere, once or twice."""
    start, end = sorted(int(place) for place in draw.integers(0, len(content), 2))
    piece, rest = content[start:end], content[:start] + content[end:]
    place = int(draw.integers(0, len(rest) + 1))
    return rest[:place] + piece * int(draw.integers(0, 3)) + rest[place:]


def zero_run(content: bytearray, draw: np.random.Generator) -> bytearray:
    """A run of zeros or ones in place of what was there."""
    start, length = int(draw.integers(0, len(content))), int(2 ** draw.integers(2, 14))
    end = min(start + length, len(content))
    content[start:end] = (b"\0" if draw.random() < 0.7 else b"\xff") * (end - start)
    return content


def wrong_length(content: bytearray, draw: np.random.Generator) -> bytearray:
    """A box, or whatever stands at a four-letter word, has another length."""
    words = [content.find(word) for word in (b"moov", b"trak", b"stbl", b"stsz", b"stts", b"mdat", b"avcC", b"idx1")]
    places = [place for place in words if place >= 4] or [int(draw.integers(4, len(content)))]
    place = int(draw.choice(places))
    content[place - 4 : place] = int(draw.integers(0, 2**32)).to_bytes(4, "big")
    return content


MUTATIONS: tuple[Mutation, ...] = (flip_bits, flip_header_bits, cut_end, splice, zero_run, wrong_length)


@dataclass(frozen=True)
class Result:
    """What became of the files: how many rows of which kind, by mutation; and the time it took."""

    files: int
    rows: int
    outcomes: Counter[tuple[str, str]]
    clips: int
    seconds: float
    slowest_s: float


def render_films(folder: Path) -> list[Path]:
    """The films to mutate: two shots of half a second each."""
    frames = [render_shot(Scene(seed), Camera(pan=0.3), 12, size=(64, 48)) for seed in (1, 2)]
    write_video(folder / "source.mp4", np.concatenate(frames), 24)
    for name, options in FILMS.items():
        command = [
            find_ffmpeg(),
            "-loglevel",
            "error",
            "-y",
            "-i",
            str(folder / "source.mp4"),
            *options,
            "-threads",
            "1",
        ]
        run_ffmpeg([*command, "-fflags", "+bitexact", "-flags:v", "+bitexact", str(folder / name)], None, name)
    return [folder / name for name in FILMS]


def write_mutated(films: list[Path], folder: Path, files: int, seed: int) -> None:
    """Write `files` mutated films, named by number and mutation."""
    for number in range(files):
        draw = np.random.default_rng([seed, number])
        film = films[number % len(films)]
        mutation = MUTATIONS[int(draw.integers(len(MUTATIONS)))]
        mutated = mutation(bytearray(film.read_bytes()), draw)
        (folder / f"{number:05}-{mutation.__name__}{film.suffix}").write_bytes(mutated)


def run(root: Path, files: int, seed: int) -> Result:
    """Mutate, ingest, scan and split below `root`; whatever is raised here would have ended a run."""
    films, mutated = root / "films", root / "mutated"
    films.mkdir(parents=True, exist_ok=True)
    mutated.mkdir(exist_ok=True)
    write_mutated(render_films(films), mutated, files, seed)
    started = time.monotonic()
    ingest = ingest_sources(root / "data", IngestConfig(probe_limit_s=LIMIT_S), [str(mutated)])
    with ThreadPoolExecutor(2) as pool:
        measured = list(pool.map(lambda video: _measure(root / "data", video), list_videos(root / "data", ingest)))
    seconds = time.monotonic() - started
    scans = {row["video_id"]: row for row, _, _ in measured}
    rows = read_rows(ingest)
    outcomes = Counter((Path(row["source"]).stem[6:], _outcome(row, scans)) for row in rows)
    slowest = max((spent for _, _, spent in measured), default=0.0)
    return Result(files, len(rows), outcomes, sum(clips for _, clips, _ in measured), seconds, slowest)


def _measure(root: Path, video: SourceVideo) -> tuple[dict[str, Any], int, float]:
    started = time.monotonic()
    scan = scan_video(root, ScanConfig(limit_floor_s=LIMIT_S, limit_factor=1e-9), video)
    split = split_video(root, SplitConfig(), scan)
    (row,) = read_rows(scan)
    return row, split.rows, time.monotonic() - started


def _outcome(row: dict[str, Any], scans: dict[str, dict[str, Any]]) -> str:
    """What the tables say of one file."""
    if row["status"] != "ok":
        return "duplicate" if row["status"] == "duplicate" else f"ingest: {row['error_code']}"
    scan = scans[row["video_id"]]
    return f"scan: {scan['error_code']}" if scan["error_code"] else "read"


def table(result: Result, seed: int) -> str:
    """The result as Markdown."""
    kinds = sorted({kind for _, kind in result.outcomes})
    lines = [f"| mutation | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for mutation in MUTATIONS:
        counts = [result.outcomes[(mutation.__name__, kind)] for kind in kinds]
        lines.append(f"| {mutation.__name__} | {' | '.join(map(str, counts))} |")
    return (
        f"# Mutated files\n\n`benchmarks/fuzz.py --files {result.files} --seed {seed}`: {result.rows} rows for "
        f"{result.files} files, {result.clips} clips, no crash of the run, {result.seconds:.0f} s, the slowest file "
        f"{result.slowest_s:.1f} s.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    """Run, print and write benchmarks/fuzz.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--root", type=Path)
    asked = parser.parse_args()
    logging.getLogger("reelmill").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        text = table(run(asked.root or Path(folder), asked.files, asked.seed), asked.seed)
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
