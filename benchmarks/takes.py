"""Camera motion asked and measured with the embedded model on held-out pictures: one take, and four with the gate.

    .venv/bin/python benchmarks/takes.py [--pictures 60] [--steps 10] [--out out/takes]

Takes after the first are made only where the first one misses. That changes no count: the gate never prefers a take
that misses the motion to one that meets it. A class that fewer than one first take in ten meets is not known to the
model, and choosing among takes cannot teach it: no further takes are made of it. Clips are kept below --out, so that a
second call only writes the table.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.camera import measure_motion
from models.meters import good_until, measure_meters
from models.noise import item_noise, stack_noise
from models.sampling import decode_latents, sample_latents
from models.svd import VideoModel, load_model, motion_bucket
from tasks.footage import Motion
from tasks.generate.choose import GateConfig, Take, choose
from tasks.manifest import publish
from tasks.tiny.evaluate import mean_flow, true_clip

MOTIONS: tuple[Motion, ...] = tuple(motion for motion in get_args(Motion) if motion != "roll")

SPEED, TAKES, BATCH = 0.5, 4, 4

FIRST_SCENE = 200
"""The embedded model's own figures rest on the held-out scenes before."""

Asked = tuple[int, Motion, int]


def clip_path(out: Path, asked: Asked, steps: int) -> Path:
    scene, motion, take = asked
    return out / f"{steps}-{scene}-{motion}-{take}.npy"


def picture_of(model: VideoModel, scene: int) -> NDArray[np.uint8]:
    """A held-out picture; the first frame is the same for every motion."""
    return true_clip(FIRST_SCENE + scene, "static", SPEED, model)[0]


def make(model: VideoModel, asked: Sequence[Asked], steps: int, out: Path) -> None:
    """Generate what is not there yet of a batch."""
    missing = [each for each in asked if not clip_path(out, each, steps).is_file()]
    if not missing:
        return
    facts = model.facts
    shape = model.latent_shape(facts.frames, facts.height, facts.width)
    size = (facts.height, facts.width)
    noise = stack_noise([item_noise(0, f"{scene}", take, shape, size) for scene, _, take in missing])
    pictures = [torch.from_numpy(picture_of(model, scene)).permute(2, 0, 1) / 127.5 - 1 for scene, _, _ in missing]
    latents = sample_latents(
        model,
        torch.stack(pictures),
        noise.latents,
        noise.augmentation,
        motions=[motion for _, motion, _ in missing],
        steps=steps,
        motion_buckets=[motion_bucket(mean_flow(motion, SPEED)) for _, motion, _ in missing],
    )
    for each, own in zip(missing, latents, strict=True):
        with publish(clip_path(out, each, steps)) as aside:
            np.save(aside, decode_latents(model, own))


def in_batches(asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    return (asked[start : start + BATCH] for start in range(0, len(asked), BATCH))


def take_of(model: VideoModel, asked: Asked, steps: int, out: Path) -> Take:
    """A clip as the gate sees it."""
    frames = np.load(clip_path(out, asked, steps))
    meters = measure_meters(frames, picture_of(model, asked[0]))
    moved = measure_motion(frames, [i / model.facts.fps for i in range(len(frames))])
    return Take(
        item_key=f"{asked}", motion_asked=asked[1], motion_measured=moved.motion, frames=len(frames),
        good_frames=good_until(meters).frames, **meters.summary(),
    )  # fmt: skip


def run(pictures: int, steps: int, out: Path) -> dict[tuple[int, Motion], list[Take]]:
    """Every picture's takes for every motion, the first one first."""
    model = load_model("tiny")
    firsts: list[Asked] = [(scene, motion, 0) for scene in range(pictures) for motion in MOTIONS]
    for number, batch in enumerate(in_batches(firsts)):
        make(model, batch, steps, out)
        print(f"first takes: {(number + 1) * BATCH} of {len(firsts)}", flush=True)
    takes = {asked[:2]: [take_of(model, asked, steps, out)] for asked in firsts}
    missed = [key for key, (first,) in takes.items() if first.motion_measured != key[1] and known(takes, key[1])]
    further: list[Asked] = [(*key, take) for key in missed for take in range(1, TAKES)]
    for number, batch in enumerate(in_batches(further)):
        make(model, batch, steps, out)
        print(f"further takes: {(number + 1) * BATCH} of {len(further)}", flush=True)
    for asked in further:
        takes[asked[:2]].append(take_of(model, asked, steps, out))
    return takes


def known(takes: dict[tuple[int, Motion], list[Take]], motion: Motion) -> bool:
    """Whether the model knows a class: at least one first take in ten meets it."""
    met = [own[0].motion_measured == motion for (_, asked), own in takes.items() if asked == motion]
    return sum(met) >= 0.1 * len(met)


def table(takes: dict[tuple[int, Motion], list[Take]]) -> list[str]:
    """Misses by class, and over the classes that the model knows."""
    lines = ["| asked | clips | missed, one take | missed, four takes and the gate |", "|---|---|---|---|"]
    sums = np.zeros(3, int)
    for motion in MOTIONS:
        those = [own for (_, asked), own in takes.items() if asked == motion]
        first = sum(own[0].motion_measured != motion for own in those)
        gated = sum(own[choose(own, GateConfig()).best].motion_measured != motion for own in those)
        if known(takes, motion):
            sums += np.array([len(those), first, gated])
        lines.append(
            f"| {motion} | {len(those)} | {first} | {gated if known(takes, motion) else 'not known to the model'} |"
        )
    clips, first, gated = sums
    return [*lines, f"| **all that the model knows** | **{clips}** | **{first}** | **{gated}** |"]


def main() -> None:
    """Generate, count and write benchmarks/takes.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/takes"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    takes = run(asked.pictures, asked.steps, asked.out)
    head = [
        "# Camera motion asked and measured: one take, and four takes with the gate",
        "",
        f"The embedded model, {asked.pictures} held-out pictures, {len(MOTIONS)} classes, {asked.steps} steps,",
        f"{SPEED} short sides per second asked. `.venv/bin/python benchmarks/takes.py` makes this table.",
        "",
    ]
    text = "\n".join([*head, *table(takes)]) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
