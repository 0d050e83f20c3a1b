"""Encoded clips as training reads them: the windows of a dataset that are trained on, and batches of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.errors import BadInput
from models.svd.model import motion_bucket
from models.svd.training import TrainingBatch
from tasks.finetune.buckets import Bucket
from tasks.finetune.captions import CAPTION_COLUMNS, Captions, draw_caption
from tasks.ledger import resolve_inside
from tasks.manifest import ManifestRef, read_column_names, read_rows

PARTS = ("latents", "pictures", "sigmas", "embeddings")

CLIP_COLUMNS = ("clip_id", "video_id", "camera_motion", "motion_score")
"""What is read of a dataset's clips."""

ENCODED_COLUMNS = ("clip_id", "latents", "row", "fps", "frames", "width", "height", "motion_score")

MAY_HAVE = ("film", "side", *CAPTION_COLUMNS)
"""What is read of them where they have it: the film that a clip was cut from, if not its own file; its split, `train`
or another one; its captions."""

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
    """One encoded window: its clip, the source of that, where it is, its shape, and what its clip measured; an empty
    motion where that was not measured. `side` is its split, where the dataset has one."""

    clip_id: str
    source: str
    latents: Path
    row: int
    shape: Bucket
    motion: str
    motion_bucket: int
    side: str | None = None
    captions: Captions = (None, None, None)

    @property
    def name(self) -> str:
        """Return a name that no other window of the dataset has."""
        return f"{self.clip_id} {self.row}"


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

    def latent_shape(self, index: int) -> tuple[int, ...]:
        """Return [frames, channels, h, w] of the latents of a window."""
        example = self.all[index]
        with safe_open(example.latents, "pt") as file:
            return tuple(file.get_slice("latents").get_shape()[1:])

    def batch(self, indices: Sequence[int], draw: int) -> TrainingBatch:
        """Return the windows at `indices`, each with its picture's noise draw number `draw`, modulo the draws it
        has, and one of its captions."""
        chosen = [self.all[i] for i in indices]
        rows = [self._row(example, draw) for example in chosen]
        ids = [[e.shape.fps - 1, e.motion_bucket, float(r["sigma"])] for e, r in zip(chosen, rows, strict=True)]
        return TrainingBatch(
            latents=torch.stack([r["latents"] for r in rows]).float() * self.scaling_factor,
            pictures=torch.stack([r["picture"] for r in rows]).float(),
            embeddings=torch.stack([r["embedding"] for r in rows]).float(),
            ids=torch.tensor(ids),
            motions=[e.motion for e in chosen],
            captions=[draw_caption(e.captions, seed_of(f"{draw} {e.name}")) for e in chosen],
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


def seed_of(name: str) -> torch.Generator:
    """Return a source of randomness that depends on a name alone."""
    return torch.Generator().manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16))


def gather_examples(
    root: Path, encoded: Sequence[ManifestRef], clips: ManifestRef, choice: ExampleChoice
) -> list[Example]:
    """Return the windows to train on, below the dataset's `root`, with what its table of `clips` says of them; what it
    does not know of the motion was measured of the window. Raises BadInput when none is left."""
    there = read_column_names(clips)
    known = {row["clip_id"]: row for row in read_rows(clips, [*CLIP_COLUMNS, *(n for n in MAY_HAVE if n in there)])}
    examples = []
    for manifest in encoded:
        for row in read_rows(manifest, ENCODED_COLUMNS):
            clip = known.get(row["clip_id"])
            if row["latents"] is None or clip is None:
                continue
            score = row["motion_score"] if clip["motion_score"] is None else clip["motion_score"]
            if choice.wants(clip["camera_motion"], score):
                examples.append(_make_example(root, row, clip, score))
    if not examples:
        raise make_too_few_error(root, choice)
    return examples


def _make_example(root: Path, row: Mapping[str, Any], clip: Mapping[str, Any], score: float) -> Example:
    image, video, summary = (clip.get(name) for name in CAPTION_COLUMNS)
    return Example(
        clip_id=row["clip_id"],
        source=clip.get("film") or clip["video_id"],
        latents=resolve_inside(root, row["latents"]),
        row=row["row"],
        shape=Bucket(row["frames"], row["width"], row["height"], row["fps"]),
        motion=clip["camera_motion"] or "",
        motion_bucket=motion_bucket(score),
        side=clip.get("side"),
        captions=(image, video, summary),
    )


def make_too_few_error(root: Path, choice: ExampleChoice) -> BadInput:
    """Return the error of a dataset at `root` that has nothing to train on."""
    asked = f" of {', '.join(choice.motions)}" if choice.motions else ""
    return BadInput(f"{root}: no clip{asked} is long enough to train on. Curate more, or ask for other motions.")


def hold_out(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Return indices to train on and indices to judge with, of whole sources.

    Where the dataset has a split, what is not of its side `train` is held out; else sources are chosen by their names,
    none where there are few. Raises BadInput where a source is on both sides.
    """
    held = _find_held_out(examples)
    train = [i for i in range(len(examples)) if i not in held]
    leaks = {examples[i].source for i in train} & {examples[i].source for i in held}
    if leaks:
        raise BadInput(
            f"{min(leaks)}: clips of this source are to be trained on and held out, so the split would measure "
            f"what was learned by heart ({len(leaks)} such sources). Put each source on one side."
        )
    if not train:
        raise BadInput("Every clip is held out by its column side. Leave some on the side train.")
    return train, sorted(held)[:HELD_OUT_MOST]


def _find_held_out(examples: Sequence[Example]) -> set[int]:
    if any(example.side for example in examples):
        return {i for i, example in enumerate(examples) if example.side not in (None, "train")}
    sources = sorted({example.source for example in examples}, key=_hash_name)
    held: set[str] = set()
    while len(sources) >= HELD_OUT_FROM and len(held) < max(1, len(sources) // HELD_OUT_ONE_IN):
        held.add(sources[len(held)])
        if sum(example.source in held for example in examples) >= HELD_OUT_MOST:
            break
    return {i for i, example in enumerate(examples) if example.source in held}


def _hash_name(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
