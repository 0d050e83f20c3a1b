"""Buckets: windows of one length, size and rate, which can share a batch; and the batches of each epoch.

A window has about as many pixels as the model's own picture, in the shape of its film: a portrait film is trained on as
a portrait. In an epoch every clip is shown once, by one of its windows. A bucket whose clips are no multiple of the
batch has a smaller last batch. The order is a function of the seed and the step alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

WIDEST = 2.4
"""The longest side of a bucket, in shorter ones: that of wide-screen films."""

EPOCHS_APART = 1 << 40
"""Seeds of epochs are this far from those of steps."""


class Bucket(NamedTuple):
    """What the windows of a batch have in common: frames, their size in pixels, and frames per second."""

    frames: int
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.frames}x{self.width}x{self.height} at {self.fps:g} fps"


def list_sizes(width: int, height: int, unit: int) -> list[tuple[int, int]]:
    """Return the sizes (width, height) of buckets for a model of that size: sides are multiples of `unit`, the area is
    the model's or little less."""
    area = width * height
    tall = ((w, area // w // unit * unit) for w in range(unit, area // unit + 1, unit))
    sizes = {(w, h) for w, h in tall if h and max(w, h) <= WIDEST * min(w, h)}
    return sorted(sizes | {(width, height)})


def choose_size(shape: tuple[int, int] | None, width: int, height: int, unit: int) -> tuple[int, int]:
    """Return the size of the bucket nearest in aspect to a picture of `shape` (width, height), the larger of two as
    near; the model's own size where the shape is unknown."""
    if shape is None:
        return width, height
    aspect = shape[0] / shape[1]

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return round(abs(math.log(size[0] / size[1] / aspect)), 6), -size[0] * size[1]

    return min(list_sizes(width, height, unit), key=distance)


class Batches:
    """The batches of a training: `windows` are the clip and the bucket of each window by its number, `size` is the
    most clips of a batch."""

    def __init__(self, windows: Mapping[int, tuple[str, Bucket]], size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.clips: dict[Bucket, dict[str, list[int]]] = {}
        for number, (clip, bucket) in windows.items():
            self.clips.setdefault(bucket, {}).setdefault(clip, []).append(number)
        self._order = lru_cache(maxsize=1)(self._make_order)

    @property
    def per_epoch(self) -> int:
        """Return the number of batches in which every clip is shown once."""
        return sum(math.ceil(len(clips) / self.size) for clips in self.clips.values())

    def at(self, step: int) -> list[int]:
        """Return the numbers of the windows of a step."""
        epoch, place = divmod(step, self.per_epoch)
        return self._order(epoch)[place]

    def _make_order(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(EPOCHS_APART + self.seed * 1_000_003 + epoch)
        batches = [batch for clips in self.clips.values() for batch in self._cut(list(clips.values()), generator)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _cut(self, clips: Sequence[Sequence[int]], generator: torch.Generator) -> Iterator[list[int]]:
        shuffled = torch.randperm(len(clips), generator=generator).tolist()
        picked = [clips[i][int(torch.randint(len(clips[i]), (), generator=generator))] for i in shuffled]
        return (picked[i : i + self.size] for i in range(0, len(picked), self.size))


def describe_buckets(batches: Batches) -> str:
    """Return the buckets of a training and their clips, as a sentence's part."""
    return ", ".join(f"{len(clips)} of {bucket}" for bucket, clips in sorted(batches.clips.items()))
