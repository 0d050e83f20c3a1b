"""How good a training is while it runs: the error on clips that were held out, and clips that it generates.

The error is measured with noise that depends on the clip alone, at the middle of four bands of sigma, so that two looks
differ by the weights alone. Clips are generated from the pictures of held-out clips, of fixed noise, and measured as
those of `reelmill generate` are (models/measures/meters.py), beside the motion of the true clip.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.device import CPU
from models.measures.camera import measure_motion
from models.measures.meters import measure_meters
from models.svd.edm import loss_weight
from models.svd.model import Conditions, VideoModel
from models.svd.sampling import decode_latents, sample_conditioned
from models.svd.training import Network, TrainingBatch, make_context, measure_errors
from tasks.finetune.train_examples import Examples, seed_of
from tasks.footage import OPPOSITE
from tasks.media.video import write_video

SIGMAS = (0.5, 2.0, 8.0, 30.0)
"""The middles of four bands: detail, shapes, where things are, and how they move."""

SAMPLING_STEPS = 15

METERS = ("sharpness", "colour", "identity", "flicker", "frozen_share")

SAMPLE_COLUMNS = (*METERS, "first_colour", "motion", "true_motion")
"""Of generated clips, their means; `first_colour` is the first frame's distance in colour from the picture, in gray
levels; motions are mean optical flows, in short sides per second."""


class Judge:
    """Looks at a network with held-out windows, and where none are held out, with those it learns from."""

    def __init__(self, examples: Examples, held_out: Sequence[int], learned: Sequence[int], batch: int) -> None:
        self.examples, self.held_out, self.size = examples, list(held_out), batch
        self.shown = _spread_clips(examples, held_out or learned)

    def measure(self, network: nn.Module, told: bool, device: torch.device = CPU) -> dict[str, float]:
        """Return the errors on held-out windows by column, none where none are held out; `told`: the network is told
        its motion words. `held_out` is their mean over the bands, weighted as the loss is."""
        if not self.held_out:
            return {}
        rows = [row for part in self._parts() for row in self._measure_part(network, told, part, device)]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        weighted = [loss_weight(torch.tensor(sigma)).item() * means[f"right_{sigma:g}"] for sigma in SIGMAS]
        return means | {"held_out": float(np.mean(weighted))}

    def _parts(self) -> list[list[int]]:
        by_shape: dict[Any, list[int]] = {}
        for i in self.held_out:
            by_shape.setdefault(self.examples.all[i].shape, []).append(i)
        return [every[i : i + self.size] for every in by_shape.values() for i in range(0, len(every), self.size)]

    def _measure_part(
        self, network: nn.Module, told: bool, part: Sequence[int], device: torch.device
    ) -> list[dict[str, float]]:
        batch = self.examples.batch(part, draw=0)
        noise = torch.stack([self._draw_noise(i) for i in part])
        asked: dict[str, list[str] | None] = {"right": batch.motions if told else None}
        if told:
            asked["opposite"] = [OPPOSITE.get(motion, motion) for motion in batch.motions]
        columns = {
            f"{kind}_{sigma:g}": measure_errors(network, batch, noise, sigma, motions, device).tolist()
            for kind, motions in asked.items()
            for sigma in SIGMAS
        }
        columns["copy"] = (batch.latents - batch.latents[:, :1]).square().flatten(1).mean(1).tolist()
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _draw_noise(self, index: int) -> torch.Tensor:
        return torch.randn(self.examples.latent_shape(index), generator=seed_of(self.examples.all[index].name))

    def sample(self, model: VideoModel, network: Network, told: bool, number: int, folder: Path) -> dict[str, float]:
        """Generate up to `number` clips into `folder`, as 0.mp4 and so on, beside the true ones; return the means of
        what they measure, by SAMPLE_COLUMNS."""
        chosen = self.shown[:number]
        measured = [self._sample(model, network, told, i, folder / f"{n}.mp4") for n, i in enumerate(chosen)]
        return {name: float(np.mean([row[name] for row in measured])) for name in SAMPLE_COLUMNS} if measured else {}

    def _sample(self, model: VideoModel, network: Network, told: bool, index: int, path: Path) -> dict[str, float]:
        batch, fps = self.examples.batch([index], draw=0), self.examples.all[index].shape.fps
        conditions = _make_conditions(network, batch, told, model.device)
        made = sample_conditioned(model, conditions, self._draw_noise(index)[None], SAMPLING_STEPS)
        frames, truth = (decode_latents(model, latents[0]) for latents in (made, batch.latents))
        write_video(path, frames, fps)
        write_video(path.parent.parent / "true" / path.name, truth, fps)
        meters, times = measure_meters(frames, truth[0]), [i / fps for i in range(len(frames))]
        return meters.summary() | {
            "first_colour": float(meters.colour[0]),
            "motion": measure_motion(frames, times).magnitude,
            "true_motion": measure_motion(truth, times).magnitude,
        }


def _spread_clips(examples: Examples, indices: Sequence[int]) -> list[int]:
    """Return a window of each clip that moves in time, of different sources first."""
    firsts: dict[str, int] = {}
    for i in indices:
        if examples.all[i].shape.frames > 1:
            firsts.setdefault(examples.all[i].clip_id, i)
    seen: dict[str, int] = {}
    ranks = {}
    for i in firsts.values():
        source = examples.all[i].source
        ranks[i] = seen[source] = seen.get(source, -1) + 1
    return sorted(firsts.values(), key=lambda i: (ranks[i], i))


def _make_conditions(network: Network, batch: TrainingBatch, told: bool, device: torch.device) -> Conditions:
    words = {name: word.cpu() for name, word in network.words.items()} if told else {}
    context = make_context(batch.embeddings, words, batch.motions)
    return Conditions(context.to(device), batch.pictures.to(device), batch.ids.to(device))


def place_for_judging(model: VideoModel, device: torch.device) -> VideoModel:
    """Return the model as it samples and decodes on a device that its UNet is on already."""
    model.vae.to(device)  # pyright: ignore[reportArgumentType]
    return replace(model, device=device)
