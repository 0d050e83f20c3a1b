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

CLIP_COLUMNS = ("clip_id", "camera_motion", "motion_score")
"""What is read of a dataset's clips."""

HELD_OUT_ONE_IN, HELD_OUT_FROM, HELD_OUT_MOST = 20, 100, 48
"""One clip in 20 is held out, where there are at least 100 examples; at most 48 examples are."""


@dataclass(frozen=True)
class ExampleChoice:
    """Which clips are trained on: those of the camera motions named, all when None, but no moving ones slower than
    `min_speed` (sides/s)."""

    motions: tuple[str, ...] | None = None
    min_speed: float = 0.0

    def wants(self, motion: str | None, speed: float | None) -> bool:
        """Return whether a clip of that camera motion and mean flow is chosen."""
        if self.motions is not None and motion not in self.motions:
            return False
        return motion == "static" or (speed or 0.0) >= self.min_speed


@dataclass(frozen=True)
class Example:
    """One encoded window: where it is, and what its clip measured; an empty motion where that was not measured."""

    clip_id: str
    latents: Path
    row: int
    motion: str
    bucket: int


class Examples:
    """Encoded windows, read a batch at a time from memory-mapped safetensors."""

    def __init__(self, examples: Sequence[Example], fps: float) -> None:
        self.all = list(examples)
        self.fps = fps
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Sequence[int], draw: int) -> TrainingBatch:
        """Return the windows at `indices`, each with its picture's noise draw number `draw`, modulo the draws it
        has."""
        chosen = [self.all[i] for i in indices]
        rows = [self._row(example, draw) for example in chosen]
        ids = [[self.fps - 1, e.bucket, float(r["sigma"])] for e, r in zip(chosen, rows, strict=True)]
        return TrainingBatch(
            latents=torch.stack([r["latents"] for r in rows]).float(),
            pictures=torch.stack([r["picture"] for r in rows]).float(),
            embeddings=torch.stack([r["embedding"] for r in rows]).float(),
            ids=torch.tensor(ids),
            motions=[e.motion for e in chosen],
        )

    def _row(self, example: Example, draw: int) -> dict[str, Tensor]:
        file = self._open.get(example.latents)
        if file is None:
            file = self._open[example.latents] = safe_open(example.latents, "pt")
        parts = {name: file.get_slice(name)[example.row] for name in ("latents", "pictures", "sigmas", "embeddings")}
        draw %= len(parts["sigmas"])
        return {
            "latents": parts["latents"],
            "picture": parts["pictures"][draw],
            "sigma": parts["sigmas"][draw],
            "embedding": parts["embeddings"],
        }


def gather_examples(root: Path, encoded: Sequence[ManifestRef], choice: ExampleChoice) -> list[Example]:
    """Return the windows to train on, below the dataset's `root`. Raises BadInput when none is left."""
    clips = {row["clip_id"]: row for row in read_rows(root / "clips.parquet", CLIP_COLUMNS)}
    examples = []
    for manifest in encoded:
        for row in read_rows(manifest, ("clip_id", "latents", "row")):
            clip = clips.get(row["clip_id"])
            if row["latents"] is None or clip is None or not choice.wants(clip["camera_motion"], clip["motion_score"]):
                continue
            motion, bucket = clip["camera_motion"] or "", motion_bucket(clip["motion_score"] or 0.0)
            examples.append(Example(row["clip_id"], resolve_inside(root, row["latents"]), row["row"], motion, bucket))
    if not examples:
        raise make_too_few_error(root, choice)
    return examples


def make_too_few_error(root: Path, choice: ExampleChoice) -> BadInput:
    """Return the error of a dataset at `root` that has nothing to train on."""
    asked = f" of {', '.join(choice.motions)}" if choice.motions else ""
    return BadInput(f"{root}: no clip{asked} is long enough to train on. Curate more, or ask for other motions.")


def hold_out(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Return indices to train on and indices to probe with: one clip in twenty, by its name, where there are a
    hundred."""
    everything = range(len(examples))
    if len(examples) < HELD_OUT_FROM:
        return list(everything), []
    probe = [i for i in everything if _hash_name(examples[i].clip_id) % HELD_OUT_ONE_IN == 0]
    return sorted(set(everything) - set(probe)), probe[:HELD_OUT_MOST]


def _hash_name(clip_id: str) -> int:
    return int(hashlib.sha256(clip_id.encode()).hexdigest(), 16)
