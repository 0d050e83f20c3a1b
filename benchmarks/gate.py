"""The gate on rendered takes with planted faults: how often it ranks the clean take first, and which fault fools it.

    .venv/bin/python benchmarks/gate.py [--sets 240]

A set is one rendered clip with a camera motion, as a camera with some noise would have filmed it, and the same with
each fault: blur growing, colours drifting, frozen, flickering, and a camera that moves another way. The strength of
each fault is drawn anew for each set.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.measures.camera import measure_motion
from models.measures.meters import count_good_frames, measure_meters
from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.generate.choose import GateConfig, Take, choose, list_failed_rules

Frames = NDArray[np.uint8]

FRAMES, FPS, SIZE = 8, 7.0, (64, 64)

NOISE = 2.0
"""Deviation of the noise on every frame, in gray levels."""

FIRST_SCENE = 30_000


def noisy(frames: NDArray, rng: np.random.Generator) -> Frames:
    return np.clip(frames + rng.normal(0, NOISE, frames.shape), 0, 255).round().astype(np.uint8)


def blurring(frames: Frames, rng: np.random.Generator) -> Frames:
    """Blur that grows evenly to 1.2 to 3 pixels."""
    widths = np.linspace(0, rng.uniform(1.2, 3.0), len(frames))
    blurred = [frame if not width else cv2.GaussianBlur(frame, (0, 0), float(width)) for frame, width in zip(frames, widths, strict=True)]  # fmt: skip  # noqa: E501
    return np.stack(blurred).astype(np.uint8)


def drifting(frames: Frames, rng: np.random.Generator) -> Frames:
    """Each channel drifts evenly, the one that drifts most by 20 to 50 gray levels."""
    direction = rng.uniform(-1, 1, 3)
    target = direction / np.abs(direction).max() * rng.uniform(20, 50)
    drift = np.linspace(0, 1, len(frames))[:, None, None, None] * target
    return np.clip(frames + drift, 0, 255).astype(np.uint8)


def frozen(frames: Frames, rng: np.random.Generator) -> Frames:
    """One of the first half's frames is held to the end."""
    held = int(rng.integers(0, len(frames) // 2))
    return frames[np.minimum(np.arange(len(frames)), held)]


def flickering(frames: Frames, rng: np.random.Generator) -> Frames:
    """Light that jumps up and down by 4 to 16 gray levels from frame to frame."""
    sign = np.where(np.arange(len(frames)) % 2, 1.0, -1.0)[:, None, None, None]
    return np.clip(frames + sign * rng.uniform(4, 16), 0, 255).astype(np.uint8)


FAULTS: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "blur growing": blurring,
    "colour drifting": drifting,
    "frozen": frozen,
    "flickering": flickering,
}


def takes_of_set(number: int) -> tuple[Motion, dict[str, Frames]]:
    """The motion asked of a set, and its takes by their fault; the clean one stands last."""
    rng = np.random.default_rng([FIRST_SCENE, number])
    motions = get_args(Motion)
    motion: Motion = motions[number % len(motions)]
    other: Motion = rng.choice([each for each in motions if each not in (motion, "static")])
    speed = rng.uniform(0.25, 0.6)
    scene = Scene(FIRST_SCENE + number, movers=int(rng.integers(1, 4)))

    def filmed(doing: Motion) -> Frames:
        return render_shot(scene, Camera.doing(doing, speed), FRAMES, FPS, SIZE)

    clean = filmed(motion)
    clips = {name: noisy(fault(clean, rng), rng) for name, fault in FAULTS.items() if fault is not frozen}
    held = {"frozen": frozen(noisy(clean, rng), rng)}
    return motion, clips | held | {"wrong motion": noisy(filmed(other), rng), "clean": noisy(clean, rng)}


def judged(name: str, asked: Motion, frames: Frames) -> Take:
    """A clip as the gate sees it; the first frame stands for the picture."""
    meters = measure_meters(frames, frames[0])
    moved = measure_motion(frames, [i / FPS for i in range(len(frames))])
    return Take(
        item_key=name, motion_asked=asked, motion_measured=moved.motion, frames=len(frames),
        good_frames=count_good_frames(meters).frames, **meters.summary(),
    )  # fmt: skip


def run(sets: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Which take came first, which faults the gate let pass or stopped, and a line for each set that went wrong."""
    first: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    wrong = []
    for number in range(sets):
        motion, clips = takes_of_set(number)
        takes = [judged(name, motion, frames) for name, frames in clips.items()]
        choice = choose(takes, GateConfig())
        best = takes[choice.best].item_key
        first[best] += 1
        passed.update(take.item_key for take in takes if not list_failed_rules(take, GateConfig()))
        if best != "clean":
            clean = takes[-1]
            wrong.append(f"set {number}: {motion}, measured {clean.motion_measured}; {best} first")
    return first, passed, wrong


def report(sets: int, first: Counter[str], passed: Counter[str], wrong: list[str]) -> str:
    """The page of figures."""
    lines = [
        "# The gate on rendered takes with planted faults",
        "",
        f"{sets} sets of {FRAMES} frames of {SIZE[0]}x{SIZE[1]}; by `.venv/bin/python benchmarks/gate.py`.",
        "",
        f"The clean take is ranked first in {first['clean']} of {sets} sets ({first['clean'] / sets:.1%}).",
        "",
        "| take | ranked first | passes the gate |",
        "|---|---|---|",
        *(f"| {name} | {first[name]} | {passed[name]} |" for name in ("clean", *FAULTS, "wrong motion")),
        "",
        *(["Ranked wrongly:", "", *(f"- {line}" for line in wrong)] if wrong else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Measure and write benchmarks/gate.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=240)
    sets = parser.parse_args().sets
    cv2.setNumThreads(1)
    text = report(sets, *run(sets))
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
