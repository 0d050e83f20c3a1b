"""Encoded clips as training reads them: the windows of a dataset that are trained on, and batches of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.errors import BadInput
from models.svd.model import motion_bucket
from models.svd.training import TrainingBatch
from tasks.ledger import resolve_inside
from tasks.manifest import ManifestRef, read_rows

PARTS = ("latents", "pictures", "sigmas", "embeddings")

CLIP_COLUMNS = ("clip_id", "video_id", "camera_motion", "motion_score")
"""What is read of a dataset's clips."""

HELD_OUT_ONE_IN, HELD_OUT_FROM, HELD_OUT_MOST = 20, 4, 48
"""One source in 20 is held out, at least one where there are at least 4; at most 48 examples are measured."""


@dataclass(frozen=True)
class ExampleChoice:
    """Which clips are trained on: those of the camera motions named, all when None, but no moving ones slower than
    `min_speed` (sides/s)."""

    motions: tuple[str, ...] | None = None
    min_speed: float = 0.0

    def wants(self, motion: str | None, speed: float | None) -> bool:
        """Return whether a clip of that camera motion and mean flow is chosen; a flow of None will be measured."""
        if self.motions is not None and motion not in self.motions:
            return False
        return motion == "static" or speed is None or speed >= self.min_speed


@dataclass(frozen=True)
class Example:
    """One encoded window: where it is, its frames per second, and what its clip measured; an empty motion where that
    was not measured."""

    clip_id: str
    video_id: str
    latents: Path
    row: int
    fps: float
    motion: str
    bucket: int


class Examples:
    """Encoded windows, read a batch at a time from memory-mapped safetensors.

    The UNet works on latents times the autoencoder's `scaling_factor`; the picture's latent conditions it unscaled.
    """

    def __init__(self, examples: Sequence[Example], scaling_factor: float) -> None:
        self.all = list(examples)
        self.scaling_factor = scaling_factor
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Sequence[int], draw: int) -> TrainingBatch:
        """Return the windows at `indices`, each with its picture's noise draw number `draw`, modulo the draws it
        has."""
        chosen = [self.all[i] for i in indices]
        rows = [self._row(example, draw) for example in chosen]
        ids = [[e.fps - 1, e.bucket, float(r["sigma"])] for e, r in zip(chosen, rows, strict=True)]
        return TrainingBatch(
            latents=torch.stack([r["latents"] for r in rows]).float() * self.scaling_factor,
            pictures=torch.stack([r["picture"] for r in rows]).float(),
            embeddings=torch.stack([r["embedding"] for r in rows]).float(),
            ids=torch.tensor(ids),
            motions=[e.motion for e in chosen],
        )

    def _row(self, example: Example, draw: int) -> dict[str, Tensor]:
        with safe_open(example.latents, "pt") as file:
            parts = {name: file.get_slice(name)[example.row] for name in PARTS}
        draw %= len(parts["sigmas"])
        return {
            "latents": parts["latents"],
            "picture": parts["pictures"][draw],
            "sigma": parts["sigmas"][draw],
            "embedding": parts["embeddings"],
        }


def gather_examples(
    root: Path, encoded: Sequence[ManifestRef], clips: ManifestRef, choice: ExampleChoice
) -> list[Example]:
    """Return the windows to train on, below the dataset's `root`, with what its table of `clips` says of them; what it
    does not know of the motion was measured of the window. Raises BadInput when none is left."""
    known = {row["clip_id"]: row for row in read_rows(clips, CLIP_COLUMNS)}
    examples = []
    for manifest in encoded:
        for row in read_rows(manifest, ("clip_id", "latents", "row", "fps", "motion_score")):
            clip = known.get(row["clip_id"])
            if row["latents"] is None or clip is None:
                continue
            score = row["motion_score"] if clip["motion_score"] is None else clip["motion_score"]
            if choice.wants(clip["camera_motion"], score):
                place = (row["clip_id"], clip["video_id"], resolve_inside(root, row["latents"]), row["row"], row["fps"])
                examples.append(Example(*place, clip["camera_motion"] or "", motion_bucket(score)))
    if not examples:
        raise make_too_few_error(root, choice)
    return examples


def make_too_few_error(root: Path, choice: ExampleChoice) -> BadInput:
    """Return the error of a dataset at `root` that has nothing to train on."""
    asked = f" of {', '.join(choice.motions)}" if choice.motions else ""
    return BadInput(f"{root}: no clip{asked} is long enough to train on. Curate more, or ask for other motions.")


def hold_out(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Return indices to train on and indices to measure with: those of whole sources, chosen by their names, so that
    no source is in both; none to measure with where there are few sources."""
    sources = sorted({example.video_id for example in examples}, key=_hash_name)
    held: set[str] = set()
    while len(sources) >= HELD_OUT_FROM and len(held) < max(1, len(sources) // HELD_OUT_ONE_IN):
        held.add(sources[len(held)])
        if sum(example.video_id in held for example in examples) >= HELD_OUT_MOST:
            break
    probe = [i for i, example in enumerate(examples) if example.video_id in held]
    return [i for i, example in enumerate(examples) if example.video_id not in held], probe[:HELD_OUT_MOST]


def _hash_name(video_id: str) -> str:
    return hashlib.sha256(video_id.encode()).hexdigest()
