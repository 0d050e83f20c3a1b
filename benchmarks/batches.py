"""An item's noise and latents alone, in batches of two and of four, and in another order.

    .venv/bin/python -m benchmarks.batches

Four pictures, two of them with more motion asked than the others, sampled with the embedded model at its defaults. The
noise of each is drawn from (run seed, item key, take) alone, so its digest must be one. Latents are compared with those
of the item sampled alone: they must be equal where the batch is (in whatever order), and within 1e-4 where it is not.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.noise import draw_item_noise, stack_noise
from models.svd.model import VideoModel, load_model
from models.svd.sampling import sample_latents
from tasks.footage import Camera, Scene, render_shot

ITEMS = range(4)

FIRST_SCENE = 7_000

ORDERS: dict[str, list[list[int]]] = {
    "alone": [[0], [1], [2], [3]],
    "alone, in reversed order": [[3], [2], [1], [0]],
    "batches of two": [[0, 1], [2, 3]],
    "batches of two, reversed": [[3, 2], [1, 0]],
    "a batch of four": [[0, 1, 2, 3]],
    "a batch of four, reversed": [[3, 2, 1, 0]],
}

BAR = 1e-4


def picture(item: int) -> Tensor:
    """A rendered picture [3, 64, 64] in -1..1."""
    (frame,) = render_shot(Scene(FIRST_SCENE + item), Camera(), 1, 7.0, (64, 64))
    return torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1


def sampled(model: VideoModel, batch: Sequence[int]) -> dict[int, tuple[str, Tensor]]:
    """The digest of each item's noise, and its latents [frames, channels, h, w], sampled as one batch."""
    shape = model.latent_shape(model.facts.frames, 64, 64)
    own = [draw_item_noise(0, f"item {item}", 0, shape, (64, 64)) for item in batch]
    noise = stack_noise(own)
    pictures = torch.stack([picture(item) for item in batch])
    latents = sample_latents(
        model, pictures, noise.latents, noise.augmentation, [None] * len(batch), guidance=(1.0, 3.0),
        motion_buckets=[60 + 80 * (item % 2) for item in batch],
    )  # fmt: skip
    digests = [hashlib.sha256(each.latents.numpy().tobytes()).hexdigest() for each in own]
    return {item: (digest, made) for item, digest, made in zip(batch, digests, latents, strict=True)}


def table(model: VideoModel) -> list[str]:
    """A row for each way; the first is what the others are compared with."""
    lines = ["| way | noise digests equal | latents equal, bit for bit | largest difference |", "|---|---|---|---|"]
    alone: dict[int, tuple[str, Tensor]] = {}
    for name, batches in ORDERS.items():
        made = {item: found for batch in batches for item, found in sampled(model, batch).items()}
        alone = alone or made
        same = sum(made[item][0] == alone[item][0] for item in ITEMS)
        equal = sum(torch.equal(made[item][1], alone[item][1]) for item in ITEMS)
        apart = max((made[item][1] - alone[item][1]).abs().max().item() for item in ITEMS)
        lines.append(f"| {name} | {same} of {len(ITEMS)} | {equal} of {len(ITEMS)} | {apart:.1e} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print and write benchmarks/batches.md."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = ["# Batches", "", *(__doc__ or "").strip().splitlines(), "", *table(load_model("tiny"))]
    text += ["", f"Latents are of deviation about 1; the bar is {BAR:.0e}.", ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
