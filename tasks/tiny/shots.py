"""Encoded shots in memory, and the batches that are drawn from them: each item a shot, forwards or backwards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.svd.model import motion_bucket
from models.svd.training import TrainingBatch

FPS_ID = 6.0
"""Stable Video Diffusion's condition of frames per second is their number less one."""


@dataclass(frozen=True)
class Item:
    """One way to show a shot: what its file holds, the shot's row there, whether it runs backwards, and what its camera
    does then."""

    parts: Mapping[str, Tensor]
    row: int
    reverse: bool
    motion: str
    bucket: int


def load_items(root: Path, rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Load one file of encoded shots below `root`, of which these are the rows: an item for each way that is learned
    from."""
    parts = load_file(root / rows[0]["latents"])
    return [
        Item(parts, row["row"], way == "backwards", row[way], motion_bucket(row["flow"]))
        for row in rows
        for way in ("forwards", "backwards")
        if row[way] is not None
    ]


def make_batch(items: Iterable[Item]) -> TrainingBatch:
    """Return the items as one batch, in float32."""
    chosen = list(items)
    ends = [{name: item.parts[name][item.row, -1 if item.reverse else 0].float() for name in ENDS} for item in chosen]
    ids = [[FPS_ID, float(item.bucket), end["sigmas"].item()] for item, end in zip(chosen, ends, strict=True)]
    return TrainingBatch(
        latents=torch.stack([_read_latents(item) for item in chosen]),
        pictures=torch.stack([end["pictures"] for end in ends]),
        embeddings=torch.stack([end["embeddings"] for end in ends]),
        ids=torch.tensor(ids),
        motions=[item.motion for item in chosen],
    )


ENDS = ("pictures", "sigmas", "embeddings")


def _read_latents(item: Item) -> Tensor:
    latents = item.parts["latents"][item.row].float()
    return latents.flip(0) if item.reverse else latents
