"""Clips of four times the embedded model's own length: meters along the clip for each way of making them.

    .venv/bin/python benchmarks/length.py [--pictures 4] [--steps 10]

"at once" gives the model all frames as one clip; "windows" and "chain" are those of models/length.py; the true clip is
the scene as it was filmed. Values are means over the clips; frame 8 is where the model's own length ends.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.camera import measure_motion
from models.length import Ask, sample_chain, sample_windows
from models.meters import Meters, good_until, measure_meters
from models.noise import item_noise
from models.sampling import decode_latents
from models.svd import VideoModel, load_model
from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.tiny.evaluate import HELD_OUT

TIMES, SPEED, FIRST_SCENE = 4, 0.25, 400

MOTIONS: tuple[Motion, ...] = tuple(m for m in get_args(Motion) if m in ("static", "pan_left", "tilt_up"))

Sampler = Callable[[VideoModel, Tensor, Tensor, Tensor, Ask], Tensor]


def at_once(model: VideoModel, picture: Tensor, noise: Tensor, augmentation: Tensor, ask: Ask) -> Tensor:
    return sample_windows(_with_frames(model, noise.shape[1]), picture, noise, augmentation, ask)


WAYS: dict[str, Sampler] = {"at once": at_once, "windows": sample_windows, "chain": sample_chain}


def filmed(model: VideoModel, scene: int, motion: Motion) -> NDArray[np.uint8]:
    facts = model.facts
    size = (facts.width, facts.height)
    return render_shot(Scene(HELD_OUT + scene), Camera.doing(motion, SPEED), TIMES * facts.frames, facts.fps, size)


def clips_of(model: VideoModel, scene: int, motion: Motion, steps: int) -> dict[str, NDArray[np.uint8]]:
    """A scene's long clips by the way they were made, the true one first."""
    facts = model.facts
    truth = filmed(model, scene, motion)
    shape = model.latent_shape(len(truth), facts.height, facts.width)
    noise = item_noise(0, f"{scene} {motion}", 0, shape, (facts.height, facts.width))
    picture = torch.from_numpy(truth[0]).permute(2, 0, 1)[None] / 127.5 - 1
    ask = Ask.native(model, motion, steps)
    made = {
        way: sample(model, picture, noise.latents[None], noise.augmentation[None], ask) for way, sample in WAYS.items()
    }
    return {"true clip": truth} | {way: decode_latents(model, latents[0]) for way, latents in made.items()}


def table(found: dict[str, list[tuple[Meters, str, str]]], frames: int) -> list[str]:
    """A table for each meter along the clip, and one of where clips stop being good."""
    shown = [0, 3, *range(7, frames, 4)]
    lines = []
    for meter in ("sharpness", "colour", "identity"):
        lines += ["", f"## {meter}", "", "| way | " + " | ".join(f"{i + 1}" for i in shown) + " |"]
        lines.append("|---" * (len(shown) + 1) + "|")
        for way, clips in found.items():
            curve = np.mean([getattr(meters, meter) for meters, _, _ in clips], axis=0)
            lines.append(f"| {way} | " + " | ".join(f"{curve[i]:.2f}" for i in shown) + " |")
    lines += [
        "",
        "## good until frame",
        "",
        "| way | median | least | most | motion as asked |",
        "|---|---|---|---|---|",
    ]
    for way, clips in found.items():
        good = [good_until(meters).frames for meters, _, _ in clips]
        met = sum(asked == measured for _, asked, measured in clips)
        lines.append(f"| {way} | {np.median(good):.0f} | {min(good)} | {max(good)} | {met} of {len(clips)} |")
    return lines


def main() -> None:
    """Generate, measure and write benchmarks/length.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = load_model("tiny")
    frames = TIMES * model.facts.frames
    times = [i / model.facts.fps for i in range(frames)]
    found: dict[str, list[tuple[Meters, str, str]]] = {}
    for scene in range(FIRST_SCENE, FIRST_SCENE + asked.pictures):
        for motion in MOTIONS:
            clips = clips_of(model, scene, motion, asked.steps)
            for way, clip in clips.items():
                measured = measure_motion(clip, times).motion
                found.setdefault(way, []).append((measure_meters(clip, clips["true clip"][0]), motion, measured))
            print(scene, motion, flush=True)
    head = [
        "# Four times the model's own length",
        "",
        f"The embedded model ({model.facts.frames} frames), {frames} frames, {asked.pictures} held-out pictures,",
        f"{', '.join(MOTIONS)}, {asked.steps} steps. `.venv/bin/python benchmarks/length.py` makes these tables.",
        "Columns are frames, from 1 on. Sharpness: ratio to the first frame; colour: gray levels from the picture;",
        "identity: likeness to the picture, the camera's motion taken back.",
    ]
    text = "\n".join([*head, *table(found, frames)]) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


def _with_frames(model: VideoModel, frames: int) -> VideoModel:
    """The model taken for one of so many frames."""
    return VideoModel(**{**vars(model), "facts": model.facts.model_copy(update={"frames": frames})})


if __name__ == "__main__":
    main()
