"""Held-out scenes: their true clips, where their pixels come from, and what a model makes of their first pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.noise import draw_item_noise, stack_noise
from models.pictures import Frames, from_pixels
from models.svd.model import VideoModel, motion_bucket
from models.svd.regions import choose_word
from models.svd.sampling import sample_latents
from tasks.footage import Camera, Motion, Scene, compute_mean_flow, trace_view
from tasks.tiny.render import film

HELD_OUT = 10_000_000
"""Scenes from this seed on are never trained on."""

MOVERS = 2
"""Shapes that move in a scene with movers."""


@dataclass(frozen=True)
class Asked:
    """What a model is asked for: a camera motion and its speed, in as many sampling steps, with the noise of a seed."""

    motion: Motion
    speed: float
    steps: int
    seed: int = 0


def render_truth(scene: int, motion: Motion, speed: float, model: VideoModel, movers: int = MOVERS) -> Frames:
    """Render held-out scene number `scene` with a motion, at the model's size: uint8 RGB [frames, height, width, 3]."""
    facts = model.facts
    world = Scene(HELD_OUT + scene, movers)
    return film(world, Camera.doing(motion, speed), facts.frames, facts.fps, (facts.width, facts.height))


def trace_clip(motion: Motion, speed: float, model: VideoModel) -> NDArray[np.float32]:
    """Return where each pixel of each frame is in the first one: [frames, height, width, 2], x and y."""
    facts, camera = model.facts, Camera.doing(motion, speed)
    return np.stack([trace_view(camera, i / facts.fps, (facts.width, facts.height)) for i in range(facts.frames)])


def find_in_view(places: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels the first frame shows, [frames, height, width], by where they are in it."""
    height, width = places.shape[1:3]
    # A thousandth of a pixel for the rounding of float32.
    inside = (places > -1e-3) & (places < np.array([width, height]) - 1 + 1e-3)
    return inside[..., 0] & inside[..., 1]


def move_pixels(picture: NDArray[np.uint8], places: NDArray[np.float32]) -> Frames:
    """Return the clip that a picture [height, width, 3] makes when its pixels move as the camera says; beyond its edge
    they are repeated."""
    moved = [cv2.remap(picture, at, np.empty(0), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for at in places]
    return np.stack(moved).astype(np.uint8, copy=False)


def measure_errors(frames: Frames, truth: Frames, where: NDArray[np.bool_] | None = None) -> list[float]:
    """Return the mean squared error of each frame, in squared grey levels, over the pixels `where`, or all."""
    squared = ((frames.astype(np.float32) - truth) ** 2).mean(-1)
    counted = np.ones(squared.shape, bool) if where is None else where
    return [float(each[own].mean()) for each, own in zip(squared, counted, strict=True)]


def make_tensor(frame: NDArray[np.uint8]) -> Tensor:
    """Return a picture, uint8 [height, width, 3], as models take it: [3, height, width] in -1..1."""
    return from_pixels(torch.from_numpy(frame).permute(2, 0, 1))


def sample_asked(model: VideoModel, asked: Asked, names: Sequence[str], pictures: Sequence[Frames]) -> Tensor:
    """Return the latents [batch, frames, channels, h, w] that the model makes of pictures, uint8 [height, width, 3]; a
    name for each gives it its noise."""
    facts = model.facts
    shape, size = model.latent_shape(facts.frames, facts.height, facts.width), (facts.height, facts.width)
    noise = stack_noise([draw_item_noise(asked.seed, name, 0, shape, size) for name in names])
    return sample_latents(
        model,
        torch.stack([make_tensor(picture) for picture in pictures]),
        noise.latents,
        noise.augmentation,
        motions=[choose_word(asked.motion, facts.by_regions)] * len(names),
        steps=asked.steps,
        motion_buckets=[motion_bucket(compute_mean_flow(asked.motion, asked.speed))] * len(names),
    )
