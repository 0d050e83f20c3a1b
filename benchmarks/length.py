"""Clips of four times the embedded model's own length: meters along the clip for each way of making them.

    .venv/bin/python benchmarks/length.py [--pictures 4] [--steps 10]

"at once" gives the model all frames as one clip; "windows" and "chain" are what `reelmill generate --longer` offers,
the chain here without its meters, which would end it; the true clip is the scene as it was filmed. Values are means
over the clips; frame 8 is where the model's own length ends. The last table has where the meters say that a clip stops
being good: there the flow's chain ends.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.generation.long_clips import sample_chain
from models.measures.camera import measure_motion
from models.measures.meters import Meters, count_good_frames, measure_meters
from models.noise import Noise, draw_item_noise
from models.svd.model import VideoModel, load_model, motion_bucket
from models.svd.sampling import decode_latents, sample_latents
from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.tiny.held_out import HELD_OUT

TIMES, SPEED, FIRST_SCENE = 4, 0.25, 400

MOTIONS: tuple[Motion, ...] = tuple(m for m in get_args(Motion) if m in ("static", "pan_left", "tilt_up"))

WAYS = ("at once", "windows", "chain")


def sampled(model: VideoModel, picture: Tensor, noise: Noise, motion: Motion, steps: int, way: str) -> Tensor:
    """Latents [1, frames, channels, h, w] of a long clip."""
    bucket = motion_bucket(0.0 if motion == "static" else SPEED)

    def part(model: VideoModel, own: Tensor, going_on: Tensor | None = None) -> Tensor:
        asked = {"steps": steps, "motion_buckets": [bucket], "going_on": going_on}
        return sample_latents(model, picture, own, noise.augmentation[None], [motion], **asked)

    latents = noise.latents[None]
    if way == "chain":
        return sample_chain(partial(part, model), latents, model.facts.frames, good_frames=lambda made: made.shape[1])
    longest = replace(model, facts=model.facts.model_copy(update={"frames": latents.shape[1]}))
    return part(longest if way == "at once" else model, latents)


def filmed(model: VideoModel, scene: int, motion: Motion) -> NDArray[np.uint8]:
    facts = model.facts
    size = (facts.width, facts.height)
    return render_shot(Scene(HELD_OUT + scene), Camera.doing(motion, SPEED), TIMES * facts.frames, facts.fps, size)


def clips_of(model: VideoModel, scene: int, motion: Motion, steps: int) -> dict[str, NDArray[np.uint8]]:
    """A scene's long clips by the way they were made, the true one first."""
    facts = model.facts
    truth = filmed(model, scene, motion)
    shape = model.latent_shape(len(truth), facts.height, facts.width)
    noise = draw_item_noise(0, f"{scene} {motion}", 0, shape, (facts.height, facts.width))
    picture = torch.from_numpy(truth[0]).permute(2, 0, 1)[None] / 127.5 - 1
    made = {way: sampled(model, picture, noise, motion, steps, way)[0] for way in WAYS}
    return {"true clip": truth} | {way: decode_latents(model, latents) for way, latents in made.items()}


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
    head = "| way | median | least | most | all frames good | motion as asked |"
    lines += ["", "## good until frame", "", head, "|---|---|---|---|---|---|"]
    for way, clips in found.items():
        good = [count_good_frames(meters).frames for meters, _, _ in clips]
        met = sum(asked == measured for _, asked, measured in clips)
        whole, spread = sum(each == frames for each in good), f"{np.median(good):.0f} | {min(good)} | {max(good)}"
        lines.append(f"| {way} | {spread} | {whole} of {len(clips)} | {met} of {len(clips)} |")
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


if __name__ == "__main__":
    main()
