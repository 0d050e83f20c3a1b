"""Small runs of every flow, on rendered films and pictures: what kills and flips of bytes are tried on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.media.video import write_video

FPS, SIZE = 12.0, (96, 72)

SHOTS: tuple[tuple[Motion, ...], ...] = (
    ("pan_right", "static"),
    ("pan_left", "pan_right"),
    ("zoom_in", "pan_right"),
)
"""The motions of each film's shots, of 2.2 s each."""

TRAINING = ["--train.steps", "6", "--train.batch", "2", "--train.rank", "2", "--train.checkpoint-every", "2"]

CLIPS = ["--steps", "4", "--frames", "4", "--width", "32", "--height", "32"]


def make_inputs(home: Path, pictures: int) -> None:
    """Render the films and as many pictures below `home`."""
    for number, motions in enumerate(SHOTS):
        shots = [
            render_shot(Scene(10 * number + place), Camera.doing(motion), round(2.2 * FPS), FPS, SIZE)
            for place, motion in enumerate(motions)
        ]
        write_video(home / f"films/{number}.mp4", np.concatenate(shots), FPS)
    draw = np.random.default_rng(0)
    (home / "pictures").mkdir(parents=True)
    for number in range(pictures):
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / f"pictures/{number:03}.png")


def list_commands(home: Path, world: Path) -> Mapping[str, list[str]]:
    """Return the arguments of `reelmill` by the folder below `world` that they write: a dataset, an export, two runs, a
    folder of videos, and all of it by the pipeline."""
    films, pictures, dataset = str(home / "films"), str(home / "pictures"), str(world / "dataset")
    whole = [*TRAINING, "--generate.steps", "4", "--generate.frames", "4", "--generate.width", "32"]
    return {
        "dataset": ["curate", films, "--out", dataset],
        "export": ["export", dataset, "--out", str(world / "export")],
        "lora": ["finetune", dataset, "--recipe", "motion-lora", "--out", str(world / "lora"), *TRAINING],
        "full": ["finetune", dataset, "--recipe", "image-to-video", "--out", str(world / "full"), *TRAINING],
        "videos": ["generate", pictures, "--out", str(world / "videos"), "--batch", "4", *CLIPS],
        "pipeline": [
            *("pipeline", films, "--jobs", pictures, "--out", str(world / "pipeline")),
            *(*whole, "--generate.height", "32"),
        ],
    }
