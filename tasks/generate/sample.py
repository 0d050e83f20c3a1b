"""Sampling: the latents of every job, written before anything is decoded.

Items with the same sampling settings share a batch. An item's noise never depends on its batch; its latents do in the
last bits. So each item's row names its batch, and a batch that was interrupted while it was being written is sampled
again as it was: a run killed at any moment ends with the same bits as one that was not. Items of families other than
Stable Video Diffusion are batches of their own (models/generation/by_family.py).

A memory plan is made before, and when it proves too large, the next lower one is used (models/memory/planner.py). Each
row has the plan that made it, the plans that failed before, and the device.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch
from prefect import task
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from models.device import DEVICE_HELP, DeviceName, empty_cache, explain_not_finite, find_device, format_device
from models.memory.plan import Plan
from models.memory.planner import find_lower_plan
from tasks.attempts import ItemCall, caught, failure_of
from tasks.caching import Step, find
from tasks.generate.job_batches import Item, ItemSettings, fill_batches, make_item, plan_batches
from tasks.generate.sample_batch import plan_batch, sample
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish, read_rows

VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("item_key", pa.string()),
        pa.field("latents", pa.string()),
        pa.field("latents_sha256", pa.string()),
        pa.field("batch", pa.list_(pa.string())),
        pa.field("plan", pa.string()),
        pa.field("too_large", pa.list_(pa.string())),
        pa.field("device", pa.string()),
        *ERROR_FIELDS,
    ]
)
"""`latents_sha256` is of the float32 values, not of the file; `batch` has the item keys sampled together, in order.
`plan` says how the memory was used, `too_large` which plans ran out of it before, `device` on what GPU, or `cpu`."""

STEP = Step("sample", VERSION, SCHEMA, files=("latents",))

log = logging.getLogger("reelmill")


class SampleConfig(BaseModel):
    """How many clips are sampled together, and where; an item's key depends on neither.

    Devices differ in the last bits of what they compute, as batches do, so the row records the device. The precision
    differs in more than that: it is one of the item's settings, and in its key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1, le=256, description="Most clips sampled together, where memory allows it")
    device: DeviceName = Field(default="auto", description=DEVICE_HELP)


NEEDS = (
    "status",
    "item_key",
    "name",
    "picture",
    "model",
    "model_revision",
    "lora",
    "priority",
    *ItemSettings.model_fields,
)

SampledBatch = tuple[ManifestRef, tuple[str, ...]]
"""The jobs' manifest, and the keys of those of its items that are sampled together."""


def _call(root: Path, item: Item) -> ItemCall:
    """Return the call whose key names an item's manifest and its latents."""
    return ItemCall(STEP, root, item.settings, (item.item_key,), item.model_revision)


def list_ready_items(jobs: ManifestRef) -> Sequence[Item]:
    """Return the jobs that can be made, in their order."""
    return _read_ready_items(jobs.path, jobs.digest)


@lru_cache(maxsize=2)
def _read_ready_items(path: Path, _: str) -> Sequence[Item]:
    """Read what is asked for at every batch; the digest tells two manifests at one path apart."""
    items: dict[str, Item] = {}
    for row in read_rows(path, NEEDS):
        if row["status"] == "ready":
            items.setdefault(row["item_key"], make_item(row))
    return list(items.values())


def plan_all_batches(
    jobs: ManifestRef, config: SampleConfig, wanted: Collection[str] | None = None
) -> list[SampledBatch]:
    """Return the batches that all of the jobs make, or the `wanted` item keys, whatever is done of them, in the order
    they are to be made in: what `sample_jobs` takes, in chunks."""
    items = [item for item in list_ready_items(jobs) if wanted is None or item.item_key in wanted]
    return [(jobs, tuple(item.item_key for item in batch)) for batch in fill_batches(items, config.batch)]


def digest_latents(latents: Tensor) -> str:
    """Return the SHA-256 of latents' float32 values in C order."""
    return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()


Failure = dict[str, str]
"""Why an item has no latents: `error_code` and `error_message`."""


@dataclass(frozen=True)
class Attempt:
    """How items are sampled: those of the batch, where, the plan, and the plans that ran out of memory before it."""

    items: Sequence[Item]
    device: torch.device
    plan: Plan
    too_large: tuple[Plan, ...] = ()


def _try_batch(root: Path, attempt: Attempt) -> Iterator[tuple[Item, Attempt, Tensor | Failure]]:
    """Yield each item with the attempt that made its latents, or with what went wrong with it alone."""
    items, device = attempt.items, attempt.device
    latents = caught(lambda: sample(root, items, attempt.plan, device), f"{items[0].name}: sampling")
    if not isinstance(latents, Exception):
        for item, own in zip(items, latents, strict=True):
            yield item, attempt, own if own.isfinite().all() else _check_finite(item)
        return
    lower = find_lower_plan(attempt.plan, latents, device)
    # Without its traceback, which holds all that the attempt had on the device.
    failed = latents.with_traceback(None)
    empty_cache(device)
    if lower:
        log.warning("%s: out of memory; tried again as %s.", items[0].name, lower)
        for part in _split(items, lower.batch):
            yield from _try_batch(root, Attempt(part, device, lower, (*attempt.too_large, attempt.plan)))
    elif len(items) > 1:
        log.warning("A batch of %d clips failed (%s); its clips are sampled one by one.", len(items), failed)
        for item in items:
            yield from _try_batch(root, Attempt([item], device, attempt.plan, attempt.too_large))
    else:
        yield items[0], attempt, failure_of(failed, items[0].name, "sampling")


def _plan_attempts(
    root: Path, items: Sequence[Item], device: torch.device
) -> Iterator[tuple[Item, Attempt, Tensor | Failure]]:
    """Yield a batch's attempts, in the parts that memory allows."""
    plan = caught(lambda: plan_batch(items, len(items), device), f"{items[0].name}: planning")
    if isinstance(plan, Exception):
        yield from ((item, Attempt(items, device, Plan()), failure_of(plan, item.name, "sampling")) for item in items)
        return
    for part in _split(items, plan.batch):
        yield from _try_batch(root, Attempt(part, device, plan))


def _split(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _check_finite(item: Item) -> Failure:
    said = f"{item.name}: the latents are not finite numbers: {explain_not_finite(item.settings.dtype)}."
    return {"error_code": "not_finite", "error_message": said}


def _keep(root: Path, item: Item, attempt: Attempt, latents: Tensor) -> ManifestRef:
    """Return the item's manifest; latents that are there already stay."""
    keys = [i.item_key for i in attempt.items]
    memory = {"plan": str(attempt.plan), "too_large": [str(plan) for plan in attempt.too_large]}
    memory |= {"device": format_device(attempt.device)}

    def compute(key: str) -> pa.Table:
        name = f"latents/{key}.safetensors"
        # One entry, because safetensors writes several in an order that changes from run to run.
        facts = item.settings.model_dump() | {"item_key": item.item_key, "model_revision": item.model_revision}
        with publish(root / name) as aside:
            about = {"reelmill": json.dumps(facts | {"batch": keys}, sort_keys=True)}
            save_file({"latents": latents.contiguous()}, aside, metadata=about)
        row = {"item_key": item.item_key, "latents": name, "latents_sha256": digest_latents(latents)}
        return make_table([row | memory | {"batch": keys, "attempt": 1}], SCHEMA)

    return _call(root, item).made(compute)


@task(name="sample")
def sample_jobs(root: Path, config: SampleConfig, batches: list[SampledBatch]) -> list[ManifestRef]:
    """Sample the latents of batches of jobs; return one manifest for each item, in their order. What is there stays."""
    device = find_device(config.device)
    items = {item.item_key: item for jobs in dict(batches) for item in list_ready_items(jobs)}
    chunk = [items[key] for _, keys in batches for key in keys]
    made = {item.item_key: found for item in chunk if (found := find(STEP, root, _call(root, item).key))}
    done = {key: read_rows(found, ("batch",))[0]["batch"] for key, found in made.items()}
    for batch in plan_batches(chunk, done, config.batch):
        for item, attempt, outcome in _plan_attempts(root, batch, device):
            if isinstance(outcome, Tensor):
                made[item.item_key] = _keep(root, item, attempt, outcome)
            else:
                made[item.item_key] = _call(root, item).failed({"item_key": item.item_key, **outcome})
    return [made[item.item_key] for item in chunk]
