"""Sampling one batch: the pictures and the noise of its items become latents, by the model they name and a memory plan.

Items of families other than Stable Video Diffusion are batches of their own (models/generation/by_family.py), and so
are clips made as a chain of hops (models/generation/long_clips.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.device import CPU, watch_costs
from models.errors import BadInput, BadModel
from models.generation.by_family import is_sampled_in_batches, make_request, plan_by_family, sample_by_family
from models.generation.long_clips import make_judge, sample_chain
from models.generation.model_cache import model_with_lora, waited_for_model
from models.memory.placement import feed_forward_in_pieces, place_for_sampling
from models.memory.plan import Plan
from models.memory.planner import learn_sampling, plan_sampling
from models.noise import Noise, draw_item_noise, stack_noise
from models.pictures import Picture, from_pixels, open_picture
from models.svd.model import VideoModel
from models.svd.regions import list_words
from models.svd.sampling import sample_latents
from tasks.generate.job_batches import Item
from tasks.ledger import resolve_inside
from tasks.source_files import read_as


def plan_batch(items: Sequence[Item], size: int, device: torch.device) -> Plan:
    """Return what memory allows for items that may share a batch of up to `size`; raises BadModel and BadInput."""
    first = items[0]
    if not is_sampled_in_batches(first.settings.family):
        return plan_by_family(first.model, first.settings.dtype, device)
    with waited_for_model(first.model, first.settings.dtype, device) as model:
        shape = model.latent_shape(first.settings.frames, first.settings.height, first.settings.width)
        return plan_sampling(model, shape, size, device)


def sample(root: Path, items: Sequence[Item], plan: Plan, device: torch.device) -> Tensor:
    """Sample the batch's latents with the model its items name; raises BadModel when that is no longer the model
    planned."""
    with _unchanged_lora(root, items[0]):
        return _sample(root, items, plan, device)


@contextmanager
def _unchanged_lora(root: Path, item: Item) -> Iterator[None]:
    """Check that an item's LoRA, where it has one, is the one that its job names, before and after it is used."""
    if item.lora is None:
        yield
        return
    with read_as(root, Path(item.lora), str(item.settings.lora_sha256)):
        yield


def _sample(root: Path, items: Sequence[Item], plan: Plan, device: torch.device) -> Tensor:
    first = items[0]
    own = first.settings
    if not is_sampled_in_batches(own.family):
        return sample_alone(root, first, plan, device)
    strength = 1.0 if own.lora_strength is None else own.lora_strength
    with model_with_lora(first.model, Path(first.lora) if first.lora else None, strength, own.dtype, device) as model:
        if model.revision != first.model_revision:
            raise BadModel(f"{first.model}: the model's files changed while it was in use. Start the run again.")
        noise = draw_noise(model, items)

        def sampled(frames: Tensor, going_on: Tensor | None = None) -> Tensor:
            with (
                place_for_sampling(model, device, plan.offload) as ready,
                feed_forward_in_pieces(ready.unet, plan.feed_forward),
                watch_costs(device) as used,
            ):
                latents = sample_batch(root, ready, items, plan, replace(noise, latents=frames), going_on)
            learn_sampling(ready, plan, latents.shape, own.steps * max(1, len(list_words(own.word))), used)
            return latents

        if own.longer != "chain":
            return sampled(noise.latents)
        good_frames = make_judge(replace(model, device=device), _read_own_pixels(root, first), root, plan.offload)
        return sample_chain(sampled, noise.latents, model.facts.frames, good_frames)


def sample_alone(root: Path, item: Item, plan: Plan, device: torch.device = CPU) -> Tensor:
    """Sample latents [1, latent frames, channels, h, w] of an item of a family that has no batches."""
    pixels = _read_pixels(resolve_inside(root, item.picture)) if item.picture else None
    request = make_request(item.settings.model_dump(), pixels, item.lora)
    return sample_by_family(item.model, item.model_revision, request, plan, item.settings.dtype, device)[None]


def draw_noise(model: VideoModel, items: Sequence[Item]) -> Noise:
    """Draw the noise of items that may share a batch, each by itself."""
    first, own = items[0].settings, [item.settings for item in items]
    shape = model.latent_shape(first.frames, first.height, first.width)
    return stack_noise([draw_item_noise(s.seed, s.key, s.take, shape, (s.height, s.width)) for s in own])


def sample_batch(
    root: Path, model: VideoModel, items: Sequence[Item], plan: Plan, noise: Noise, going_on: Tensor | None = None
) -> Tensor:
    """Sample latents [batch, frames, channels, h, w] of items that may share a batch; pictures are read below
    `root`."""
    first, own = items[0].settings, [item.settings for item in items]
    return sample_latents(
        model,
        torch.stack([_read_picture(root, item) for item in items]),
        noise.latents,
        noise.augmentation,
        [s.word for s in own],
        steps=first.steps,
        fps=first.fps,
        motion_buckets=[s.motion_bucket for s in own if s.motion_bucket is not None],
        guidance=(first.guidance_min, first.guidance_max),
        noise_aug=first.noise_aug,
        guidance_together=plan.guidance_together,
        going_on=going_on,
    )


def _read_picture(root: Path, item: Item) -> Tensor:
    return from_pixels(torch.from_numpy(_read_own_pixels(root, item).copy()).permute(2, 0, 1)).contiguous()


def _read_own_pixels(root: Path, item: Item) -> Picture:
    if item.picture is None:
        raise BadInput(f"{item.name}: needs a picture. Set image.")
    return _read_pixels(resolve_inside(root, item.picture))


def _read_pixels(path: Path) -> Picture:
    with open_picture(path) as picture:
        return np.asarray(picture)
