"""Ten simulated nights: in which order clips are done, and which are done when the time is over.

`python -m benchmarks.nights` runs the flow with the embedded model on small clips, with one to four workers, priorities
and a budget, prints a table and writes benchmarks/nights.md. The clock is the night's own: each clip sampled takes a
minute of it.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EVENING = datetime.fromisoformat("2026-01-01T22:00:00+00:00")

SMALL: dict[str, Any] = {"steps": 1, "frames": 2, "width": 32, "height": 32, "guidance": (1.0, 1.0)}


ABOUT = (
    "Ten nights by the flow with the embedded model on clips of 2 frames of 32x32 (`python -m benchmarks.nights`). A"
    " clip is named by its job's priority, with /take where there are several; the order is that of the files' times."
    " Each clip sampled is a minute of the night's clock; what has begun when the minutes are over is finished, so up"
    " to a batch for each worker may be more. Right: the clips done are the first ones, first takes before second ones"
    " and by priority, and whenever one was done, those before it were done or at work: fewer than a batch for each"
    " worker."
)


class Clip(NamedTuple):
    """A take of a job, with the job's priority."""

    take: int
    priority: int
    job: int


@dataclass(frozen=True)
class Night:
    """The priorities of the jobs in the order of the list, takes of each, workers, minutes, and clips of a batch."""

    priorities: Sequence[int]
    workers: int
    minutes: int
    takes: int = 1
    batch: int = 1

    def order(self) -> list[Clip]:
        """Return all clips in the order they are to be made in."""
        clips = [Clip(take, p, job) for job, p in enumerate(self.priorities) for take in range(self.takes)]
        return sorted(clips, key=lambda clip: (clip.take, -clip.priority, clip.job))


def shuffle(count: int, seed: int) -> list[int]:
    """Return the numbers from 1 in another order."""
    return random.Random(seed).sample(range(1, count + 1), count)


NIGHTS = (
    Night(shuffle(16, 0), workers=1, minutes=6),
    Night(shuffle(16, 1), workers=2, minutes=6),
    Night(shuffle(16, 2), workers=3, minutes=6),
    Night(shuffle(16, 3), workers=4, minutes=6),
    Night([5, 5, 1, 9, 1, 9, 5, 1], workers=2, minutes=5),
    Night([0, 3, -2, 3], workers=2, minutes=6, takes=3),
    Night([2, 1, 3], workers=4, minutes=4, takes=3),
    Night(range(1, 13), workers=3, minutes=100),
    Night([7, 1, 8, 2, 9, 3, 7, 2], workers=2, minutes=4, batch=2),
    Night(shuffle(12, 4), workers=4, minutes=0),
)


class Outcome(NamedTuple):
    """The clips whose latents and whose videos were done, in the order they were, and those that wait."""

    sampled: list[Clip]
    written: list[Clip]
    waiting: list[Clip]


def write_jobs(folder: Path, night: Night) -> Path:
    """Write a picture and a row of a table for each job."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for job, priority in enumerate(night.priorities):
        name = f"{job:02}.png"
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
        rows.append(json.dumps({"image": name, "priority": priority}))
    (folder / "jobs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "jobs.jsonl"


@contextmanager
def clock_of(out: Path) -> Iterator[None]:
    """Set the flow's clock to one that is a minute further with each clip sampled into its folder."""

    def read_clock() -> datetime:
        return EVENING + timedelta(minutes=len(list(out.glob("latents/[!.]*.safetensors"))))

    with ExitStack() as patched:
        for module in ("flows.running.guard", "flows.generate"):
            patched.enter_context(patch(f"{module}.read_local_time", read_clock))
        yield


def run_night(folder: Path, night: Night) -> Outcome:
    """Run the flow below `folder` by the night's own clock."""
    from flows.generate import GenerateConfig, generate
    from flows.running.run import run_flow
    from tasks.manifest import read_rows

    jobs, out = write_jobs(folder / "jobs", night), folder / "out"
    budget = timedelta(minutes=night.minutes)
    asked = {"jobs": jobs, "out": out, "budget": budget, "takes": night.takes, "batch": night.batch}
    config = GenerateConfig.model_validate(SMALL | asked | {"workers": night.workers})

    with clock_of(out):
        run_flow(generate, config)
    rows = read_rows(out / "outputs.parquet")
    clips = {row["item_key"]: Clip(row["take"], row["priority"], row["job"]) for row in rows}
    done = [row for row in rows if row["status"] == "ok"]

    def order_by(column: str) -> list[Clip]:
        return [clips[row["item_key"]] for row in sorted(done, key=lambda row: (out / row[column]).stat().st_mtime_ns)]

    waiting = [clips[row["item_key"]] for row in rows if row["status"] == "waiting"]
    return Outcome(order_by("latents"), order_by("video"), waiting)


def list_faults(night: Night, outcome: Outcome) -> list[str]:
    """Return what of a night is not in order.

    What is done are the first clips, and no more of them than the minutes allow beside what the workers had begun.
    Wherever a clip was done, those before it were done or at work: fewer than a batch for each worker.
    """
    order, at_once = night.order(), night.workers * night.batch
    faults = []
    for name, done in (("sampled", outcome.sampled), ("written", outcome.written)):
        places = [order.index(clip) for clip in done]
        if sorted(places) != list(range(len(done))):
            faults.append(f"{name} are not the first {len(done)}")
        if any(len(set(range(place)) - set(places[:i])) >= at_once for i, place in enumerate(places)):
            faults.append(f"{name} out of order: {places}")
    least = min(night.minutes, len(order))
    most = min(len(order), night.minutes + at_once - 1 if night.minutes else 0)
    if not least <= len(outcome.written) <= most:
        faults.append(f"{len(outcome.written)} done, not {least} to {most}")
    if len(outcome.written) + len(outcome.waiting) != len(order):
        faults.append("some are neither done nor waiting")
    return faults


def spell(night: Night, clips: Sequence[Clip]) -> str:
    """Return clips by their priorities, with the take where there are several."""
    return " ".join(f"{clip.priority}" + (f"/{clip.take}" if night.takes > 1 else "") for clip in clips) or "none"


def main() -> None:
    """Run, print and write."""
    from flows.command.prefect_server import ensure_server, settle_environment

    settle_environment()
    ensure_server()
    lines = []
    for number, night in enumerate(NIGHTS, 1):
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_night(Path(folder), night)
        faults = list_faults(night, outcome)
        listed = spell(night, sorted(night.order(), key=lambda clip: (clip.job, clip.take)))
        asked = (number, night.workers, night.batch, night.takes, night.minutes, listed)
        done = (spell(night, outcome.sampled), spell(night, outcome.written), len(outcome.waiting))
        lines.append(f"| {' | '.join(map(str, (*asked, *done, '; '.join(faults) or 'yes')))} |")
        print(lines[-1], flush=True)
    head = "| night | workers | batch | takes | minutes | list | sampled | written | waiting | right |"
    text = "\n".join(["# Nights", "", ABOUT, "", head, "|---" * 10 + "|", *lines, ""])
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
