"""A run that is killed again and again, against one that is not.

    .venv/bin/python -m benchmarks.kills [--kills 20] [--jobs 60]

Each time the same command is started and killed by SIGKILL, without a chance to tidy up, at a random moment of its
work. In the end there must be a video for each job, none twice, and every manifest and video as in the undisturbed run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "flows.command.main", "generate"]

SETTINGS = ["--steps", "4", "--frames", "4", "--width", "32", "--height", "32", "--batch", "4", "--workers", "2"]

SETTLED = {".reelmill.lock", "generate.yaml"}


def pictures(folder: Path, number: int) -> Path:
    """That many pictures of noise."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for n in range(number):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{n:03}.png")
    return folder


def start(home: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command, working in a process group of its own."""
    with out.with_suffix(".log").open("ab") as log:
        command = [*COMMAND, str(home), "--out", str(out), *SETTINGS]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def made(out: Path) -> int:
    """Whole latents and videos so far."""
    return sum(1 for pattern in ("latents/[!.]*", "videos/[!.]*.mp4") for _ in out.glob(pattern))


def killed_at(home: Path, out: Path, more: int, chance: random.Random) -> None:
    """Run until `more` files are made and a moment longer, then kill it."""
    process, before = start(home, out), made(out)
    while process.poll() is None and made(out) < before + more:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.1))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def content(out: Path) -> dict[str, bytes]:
    """Everything a run leaves, but for its lock and the path of its own folder."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name not in SETTLED)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def main() -> int:
    """Run, print and write benchmarks/kills.md; 1 if the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=60)
    asked, chance = parser.parse_args(), random.Random(0)
    with TemporaryDirectory() as folder:
        home = pictures(Path(folder) / "in", asked.jobs)
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        start(home, whole).wait()
        after: list[int] = []
        for _ in range(asked.kills):
            killed_at(home, killed, chance.randint(0, max(1, 2 * asked.jobs // (asked.kills + 2))), chance)
            after.append(made(killed))
        code = start(home, killed).wait()
        one, other = content(whole), content(killed)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    videos = sum(name.endswith(".mp4") for name in other)
    said = f"{asked.jobs} jobs, {asked.kills} kills, then exit code {code}: {videos} videos; {len(other)} files,"
    said += f" {len(differ)} of them not as in the undisturbed run{': ' if differ else '.'}{', '.join(differ[:5])}"
    moments = f"Whole latents and videos at each kill, of {2 * asked.jobs}: {', '.join(map(str, after))}."
    text = "\n".join(["# Kills", "", *(__doc__ or "").strip().splitlines(), "", said, "", moments, ""])
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    return int(bool(differ) or code != 0 or videos != asked.jobs)


if __name__ == "__main__":
    sys.exit(main())
