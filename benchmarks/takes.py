"""Camera motion asked and measured with the embedded model on held-out pictures: one take, and four with the gate.

    .venv/bin/python benchmarks/takes.py [--pictures 60] [--steps 10] [--out out/takes]

Every class is asked for as `reelmill generate` asks: pans, tilts and the still camera by their words, zooms and rolls
by words in regions (models/svd/regions.py). Further takes are made one at a time, and only where all before missed.
That changes no count: the gate never prefers a take that misses the motion to one that meets it. Clips are kept below
--out, so that a second call only writes the table.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.measures.camera import measure_motion
from models.measures.meters import count_good_frames, measure_meters
from models.noise import draw_item_noise, stack_noise
from models.svd.model import VideoModel, load_facts, load_model, motion_bucket
from models.svd.regions import choose_word
from models.svd.sampling import decode_latents, sample_latents
from models.weights.names import TINY
from tasks.footage import Motion
from tasks.generate.calibrate import measure_own_speed
from tasks.generate.choose import GateConfig, Take, choose
from tasks.generate.job_resolver import FLOW_PER_STRENGTH
from tasks.manifest import publish
from tasks.tiny.held_out import render_truth

MOTIONS: tuple[Motion, ...] = get_args(Motion)

FLOW, TAKES, BATCH = 0.5, 4, 4
"""The mean optical flow asked for, in short sides per second; takes at most; clips sampled together."""

FIRST_SCENE = 200
"""The embedded model's own figures rest on the held-out scenes before."""

Asked = tuple[int, Motion, int]


@dataclass(frozen=True)
class Made:
    """A clip as the gate sees it, and its camera's speed in the motion's own unit."""

    take: Take
    speed: float

    @property
    def met(self) -> bool:
        """Whether the camera does what was asked."""
        return self.take.motion_measured == self.take.motion_asked


def clip_path(out: Path, asked: Asked, steps: int) -> Path:
    scene, motion, take = asked
    return out / f"{steps}-{scene}-{motion}-{take}.npy"


def picture_of(model: VideoModel, scene: int) -> NDArray[np.uint8]:
    """A held-out picture; the first frame is the same for every motion."""
    return render_truth(FIRST_SCENE + scene, "static", 0.0, model)[0]


def make(model: VideoModel, asked: Sequence[Asked], steps: int, out: Path) -> None:
    """Generate what is not there yet of a batch."""
    missing = [each for each in asked if not clip_path(out, each, steps).is_file()]
    if not missing:
        return
    facts = model.facts
    shape = model.latent_shape(facts.frames, facts.height, facts.width)
    size = (facts.height, facts.width)
    noise = stack_noise([draw_item_noise(0, f"{scene}", take, shape, size) for scene, _, take in missing])
    pictures = [torch.from_numpy(picture_of(model, scene)).permute(2, 0, 1) / 127.5 - 1 for scene, _, _ in missing]
    latents = sample_latents(
        model,
        torch.stack(pictures),
        noise.latents,
        noise.augmentation,
        motions=[choose_word(motion, facts.by_regions) for _, motion, _ in missing],
        steps=steps,
        motion_buckets=[motion_bucket(0.0 if motion == "static" else FLOW) for _, motion, _ in missing],
    )
    for each, own in zip(missing, latents, strict=True):
        with publish(clip_path(out, each, steps)) as aside:
            np.save(aside, decode_latents(model, own))


def batches_of(model: VideoModel, asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    """Clips that may share a batch: motions told by regions apart from the others."""
    for regional in (False, True):
        alike = [each for each in asked if (each[1] in model.facts.by_regions) == regional]
        yield from (alike[start : start + BATCH] for start in range(0, len(alike), BATCH))


def made_of(model: VideoModel, asked: Asked, steps: int, out: Path) -> Made:
    """A clip that is there, measured."""
    _, motion, _ = asked
    frames = np.load(clip_path(out, asked, steps))
    meters = measure_meters(frames, picture_of(model, asked[0]))
    moved = measure_motion(frames, [i / model.facts.fps for i in range(len(frames))])
    take = Take(
        item_key=f"{asked}", motion_asked=motion, motion_measured=moved.motion, frames=len(frames),
        good_frames=count_good_frames(meters).frames, **meters.summary(),
    )  # fmt: skip
    return Made(take, moved.strength if motion == "static" else measure_own_speed(motion, moved))


def run(pictures: int, steps: int, out: Path) -> dict[tuple[int, Motion], list[Made]]:
    """Every picture's takes for every motion, the first one first."""
    model = load_model("tiny")
    takes: dict[tuple[int, Motion], list[Made]] = {(s, motion): [] for motion in MOTIONS for s in range(pictures)}
    for number in range(TAKES):
        asked: list[Asked] = [(*key, number) for key, own in takes.items() if not any(made.met for made in own)]
        for done, batch in enumerate(batches_of(model, asked)):
            make(model, batch, steps, out)
            print(f"take {number + 1}: {done * BATCH + len(batch)} of {len(asked)}", flush=True)
        for each in asked:
            takes[each[:2]].append(made_of(model, each, steps, out))
    return takes


def counts(own: Sequence[Sequence[Made]]) -> tuple[int, int, int]:
    """Of the clips of one or more classes: how many, how many first takes miss, and how many that the gate chose."""
    chosen = [made[choose([each.take for each in made], GateConfig()).best] for made in own]
    return len(own), sum(not made[0].met for made in own), sum(not made.met for made in chosen)


def speed_asked(motion: Motion) -> tuple[float, str]:
    """FLOW as a speed in the motion's own unit, and the unit."""
    if motion == "static":
        return 0.0, "sides/s"
    unit = {"zoom": "e-folds/s", "roll": "degrees/s"}.get(motion.split("_")[0], "sides/s")
    return FLOW / FLOW_PER_STRENGTH.get(motion, 1.0), unit


def table(takes: Mapping[tuple[int, Motion], Sequence[Made]], by_regions: Collection[str]) -> list[str]:
    """Speeds, asked and of the first takes, and misses by class; and misses over all."""
    columns = ("asked", "told by", "speed asked", "measured, median", "clips", "missed, one take")
    lines = [f"| {' | '.join([*columns, 'missed, four takes and the gate'])} |", "|---" * 7 + "|"]
    for motion in MOTIONS:
        own = [made for (_, asked), made in takes.items() if asked == motion]
        clips, first, gated = counts(own)
        asked, unit = speed_asked(motion)
        measured = float(np.median([made[0].speed for made in own]))
        how = "words in regions" if motion in by_regions else "its word"
        lines.append(f"| {motion} | {how} | {asked:.2f} {unit} | {measured:.2f} | {clips} | {first} | {gated} |")
    clips, first, gated = counts(list(takes.values()))
    return [*lines, f"| **all** | | | | **{clips}** | **{first}** | **{gated}** |"]


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
    size = f"{asked.pictures} held-out pictures, {len(MOTIONS)} classes, {asked.steps} steps"
    head = [
        "# Camera motion asked and measured: one take, and four takes with the gate",
        "",
        f"The embedded model, {size}, a mean flow",
        f"of {FLOW} short sides per second asked for. `.venv/bin/python benchmarks/takes.py` makes this table.",
        "",
    ]
    text = "\n".join([*head, *table(takes, load_facts(TINY).by_regions)]) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
