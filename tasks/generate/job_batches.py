"""Which clips are sampled together, and in which order: those with the same settings, the most urgent first; an
interrupted batch is repeated as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.device import Precision
from models.generation.by_family import is_sampled_in_batches
from models.svd.regions import list_words


class ItemSettings(BaseModel):
    """What decides an item's latents: these columns of its job, and its picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    key: str
    prompt: str | None
    negative_prompt: str | None
    picture_sha256: str | None
    seed: int
    take: int
    word: str | None
    steps: int
    fps: float
    motion_bucket: int | None
    guidance_min: float
    guidance_max: float
    noise_aug: float | None
    frames: int
    longer: str | None
    width: int
    height: int
    lora_sha256: str | None
    lora_strength: float | None
    dtype: Precision


SHARED = ("steps", "fps", "guidance_min", "guidance_max", "noise_aug", "frames", "width", "height")
"""What the items of a batch have in common, beside the model, the LoRA and how they ask for a motion: by a word, by
regions or not at all. A chain of hops shares none: each ends where its own frames stop being good."""


@dataclass(frozen=True)
class Item:
    """One job to sample: its settings, and where its picture and weights are."""

    item_key: str
    name: str
    picture: str | None
    model: str
    model_revision: str
    lora: str | None
    settings: ItemSettings
    priority: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Return what the order is by: every job's first take goes before any second one, the most urgent first."""
        return (self.settings.take, -self.priority)

    @property
    def shared(self) -> tuple[Any, ...]:
        """Return what must be equal for two items to share a batch."""
        own = self.settings
        if not is_sampled_in_batches(own.family) or own.longer == "chain":
            return (self.item_key,)
        return (
            self.model_revision,
            own.lora_sha256,
            own.lora_strength,
            own.dtype,
            len(list_words(own.word)),
            *(getattr(own, n) for n in SHARED),
        )


def make_item(row: Mapping[str, Any]) -> Item:
    """Return the item of a job's row."""
    settings = ItemSettings(**{name: row[name] for name in ItemSettings.model_fields})
    own = ("item_key", "name", "picture", "model", "model_revision", "lora")
    return Item(**{name: row[name] for name in own}, settings=settings, priority=row["priority"] or 0)


def plan_batches(items: Sequence[Item], done: Mapping[str, Sequence[str]], size: int) -> list[list[Item]]:
    """Return the batches that make what is missing of `items`; `done` has the batch of each finished item, by item key.

    A batch with some finished items is planned again as it was, if it still can be; others are filled in order.
    """
    known = {item.item_key: item for item in items}
    missing = {key: item for key, item in known.items() if key not in done}
    plans = []
    for batch in dict.fromkeys(tuple(batch) for batch in done.values()):
        if len(batch) <= size and set(batch) <= set(known) and set(batch) & set(missing):
            plans.append([known[key] for key in batch])
            missing = {key: item for key, item in missing.items() if key not in batch}
    return plans + fill_batches(list(missing.values()), size)


def fill_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Return batches of up to `size` items that may share one, by rank; items of one rank change places to share one,
    and none goes before one of a higher rank."""
    batches: list[list[Item]] = []
    for item in _order(items) if size > 1 else sorted(items, key=lambda item: item.rank):
        if batches and len(batches[-1]) < size and batches[-1][0].shared == item.shared:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _order(items: Sequence[Item]) -> list[Item]:
    """Return items by rank, and within a rank those that may share a batch next to one another."""
    ordered: list[Item] = []
    for _, same in groupby(sorted(items, key=lambda item: item.rank), key=lambda item: item.rank):
        groups: dict[tuple[Any, ...], list[Item]] = {}
        for item in same:
            groups.setdefault(item.shared, []).append(item)
        ordered += [item for group in groups.values() for item in group]
    return ordered
