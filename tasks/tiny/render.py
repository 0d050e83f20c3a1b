"""The footage that the embedded model learns from: rendered scenes whose camera motion is known, not measured.

Drawing a scene takes ten times as long as filming it, so each is filmed several times, from different places. A shot is
shown forwards and backwards: the same pictures with the opposite motion, so that only the motion distinguishes the two.
A roll backwards is a roll the other way, which has no name of its own, so each roll is shown one way: the one in which
the picture turns clockwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.pictures import Frames
from tasks.footage import CANVAS_SIDES, OPPOSITE, Camera, Motion, Scene, compute_mean_flow, render_shot

SIDE, FRAMES, FPS = 64, 8, 7.0
"""The embedded model's picture, clip and rate."""

SUPERSAMPLED = 2
"""Scenes are rendered this many times larger than the model's pictures and then shrunk."""

SHARES: dict[Motion, float] = {"static": 0.1, "pan_right": 0.24, "tilt_up": 0.24, "zoom_in": 0.24, "roll": 0.18}
"""How often a scene is filmed with each motion; backwards it shows the opposite one."""

ROLL_PER_SPEED = float(np.radians(Camera.doing("roll", 1.0).roll))
"""Radians per second that a roll of speed 1 turns."""


class RenderConfig(BaseModel):
    """How the scenes are filmed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(default=8, ge=1, description="Shots of each scene")
    moving: float = Field(default=0.15, ge=0, le=1, description="Share of the shots with shapes that move")
    slowest: float = Field(default=0.15, gt=0, description="Slowest pan or tilt, short sides per second")
    fastest: float = Field(default=0.6, gt=0, description="Fastest pan or tilt, short sides per second")
    slowest_turn: float = Field(default=0.2, gt=0, description="Slowest zoom or roll, e-folds or radians per second")
    fastest_turn: float = Field(default=0.9, gt=0, description="Fastest zoom or roll, e-folds or radians per second")
    seed: int = Field(default=0, ge=0, description="First scene's seed")


@dataclass(frozen=True)
class Shot:
    """A filmed shot: what it shows forwards and backwards, None where that way has no name, its mean flow in short
    sides per second, and its frames, uint8 RGB [frames, SIDE, SIDE, 3]."""

    forwards: Motion | None
    backwards: Motion | None
    flow: float
    frames: Frames


def film_scene(number: int, config: RenderConfig) -> Iterator[Shot]:
    """Film scene `number` as often as asked; yield the shots."""
    rng = np.random.default_rng([config.seed, number, 7])
    return (_film_shot(number, config, rng) for _ in range(config.shots))


def _film_shot(number: int, config: RenderConfig, rng: np.random.Generator) -> Shot:
    motion = list(SHARES)[rng.choice(len(SHARES), p=list(SHARES.values()))]
    speed = _draw_speed(motion, config, rng)
    moving = rng.random() < config.moving
    # Shapes move in the middle of the world, so that is where the camera begins then.
    start = None if moving else tuple((rng.uniform(0.25, 0.75, 2) * CANVAS_SIDES).tolist())
    scene = Scene(config.seed + number, movers=int(rng.integers(1, 4)) if moving else 0, start=start)
    turned = motion == "roll" and rng.random() < 0.5
    frames = film(scene, Camera.doing(motion, -speed if turned else speed), FRAMES, FPS, (SIDE, SIDE))
    if motion == "roll":
        return Shot(None if turned else "roll", "roll" if turned else None, compute_mean_flow(motion, speed), frames)
    return Shot(motion, OPPOSITE[motion], compute_mean_flow(motion, speed), frames)


def _draw_speed(motion: Motion, config: RenderConfig, rng: np.random.Generator) -> float:
    if motion not in ("zoom_in", "roll"):
        return rng.uniform(config.slowest, config.fastest)
    turn = rng.uniform(config.slowest_turn, config.fastest_turn)
    return turn / ROLL_PER_SPEED if motion == "roll" else turn


def film(scene: Scene, camera: Camera, frames: int, fps: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Render a shot of `size` (width, height) as the model learns it, shrunk from a larger one: uint8 RGB [frames,
    height, width, 3]."""
    width, height = size
    large = render_shot(scene, camera, frames, fps, (width * SUPERSAMPLED, height * SUPERSAMPLED))
    blocks = large.reshape(frames, height, SUPERSAMPLED, width, SUPERSAMPLED, 3)
    return blocks.mean((2, 4)).round().astype(np.uint8)
