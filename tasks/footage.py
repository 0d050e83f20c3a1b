"""Rendered footage with known truth: textured scenes, moving shapes, a camera whose motion is given in numbers.

Unit of length: the frame's short side. A camera that pans at 0.5 crosses half a short side every second, at any
resolution and frame rate. Directions are the camera's: when it pans right, the picture slides to the left.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pictures import Frames

Motion = Literal["static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll"]

OPPOSITE: dict[str, Motion] = {
    "static": "static",
    "pan_left": "pan_right",
    "pan_right": "pan_left",
    "tilt_up": "tilt_down",
    "tilt_down": "tilt_up",
    "zoom_in": "zoom_out",
    "zoom_out": "zoom_in",
}

CANVAS_SIDES = 4
"""The world's width and height in short sides; beyond its edge it is mirrored."""

OVERSAMPLING = 1.25
"""Canvas pixels per frame pixel, so that a moderate zoom in stays sharp."""

MEAN_RADIUS = 0.38
"""The mean distance of a square picture's pixels from its centre, in short sides."""


@dataclass(frozen=True)
class Camera:
    """A camera motion at constant speed.

    pan, tilt: short sides per second, positive to the right and up. zoom: natural logarithm of magnification per
    second, positive inwards. roll: degrees per second, positive when the picture turns clockwise.
    """

    pan: float = 0.0
    tilt: float = 0.0
    zoom: float = 0.0
    roll: float = 0.0

    @classmethod
    def doing(cls, motion: Motion, speed: float = 0.4) -> "Camera":
        """Return the camera that performs one named motion; `roll` turns 60 degrees for each unit of speed."""
        sign = -1.0 if motion in ("pan_left", "tilt_down", "zoom_out") else 1.0
        if motion == "static":
            return cls()
        if motion == "roll":
            return cls(roll=60.0 * speed)
        return cls(**{motion.split("_")[0]: sign * speed})


def compute_mean_flow(motion: Motion, speed: float) -> float:
    """Return the mean optical flow, in short sides per second, of a square picture filmed with `motion`."""
    camera = Camera.doing(motion, speed)
    turning = math.hypot(camera.zoom, math.radians(camera.roll))
    return math.hypot(camera.pan, camera.tilt) + MEAN_RADIUS * turning


@dataclass(frozen=True)
class Scene:
    """A world to film: its seed fixes the texture, the colours and the `movers` shapes that move in it.

    `start` is where the camera begins, in short sides from the world's left and top; by default the seed fixes it too.
    """

    seed: int
    movers: int = 2
    start: tuple[float, float] | None = None


def render_shot(
    scene: Scene, camera: Camera, frames: int, fps: float = 24.0, size: tuple[int, int] = (320, 192)
) -> Frames:
    """Film `scene` with `camera`: uint8 RGB [frames, height, width, 3]; `size` is (width, height) in pixels."""
    if frames < 1:
        raise ValueError(f"A shot needs at least one frame, not {frames}.")
    return np.stack(list(_film(scene, camera, frames, fps, size)))


def trace_view(camera: Camera, seconds: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return where each pixel of a frame is in the frame `seconds` earlier, of a world that does not move itself:
    [height, width, 2], x and y in pixels. It is in view in both where that is inside the picture."""
    centre = np.array([camera.pan, -camera.tilt]) * seconds * min(size) * OVERSAMPLING
    before = _make_view(np.zeros(2), OVERSAMPLING, 0.0, size)
    now = _make_view(centre, np.exp(-camera.zoom * seconds) * OVERSAMPLING, -np.deg2rad(camera.roll * seconds), size)
    there = np.linalg.inv(np.vstack([before, [0, 0, 1]])) @ np.vstack([now, [0, 0, 1]])
    y, x = np.mgrid[: size[1], : size[0]]
    return np.tensordot(np.stack([x, y, np.ones_like(x)], axis=-1), there[:2], axes=(2, 1)).astype(np.float32)


def dissolve(before: Frames, after: Frames, length: int) -> Frames:
    """Join two shots by a cross-fade of `length` frames taken from the end of one and the start of the other."""
    _check_overlap(before, after, length)
    mix = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    blended = before[-length:] * (1 - mix) + after[:length] * mix
    return np.concatenate([before[:-length], blended.round().astype(np.uint8), after[length:]])


def fade_through(before: Frames, after: Frames, length: int, level: int = 0) -> Frames:
    """Join two shots by a fade to a flat picture of `level` (0 black, 255 white) and back, `length` frames each way."""
    _check_overlap(before, after, length)
    mix = (np.arange(1, length + 1) / length)[:, None, None, None]
    out = before[-length:] * (1 - mix) + level * mix
    back = after[:length] * mix + level * (1 - mix)
    faded = np.concatenate([out, back]).round().astype(np.uint8)
    return np.concatenate([before[:-length], faded, after[length:]])


def render_title(lines: list[str], frames: int, size: tuple[int, int] = (320, 192)) -> Frames:
    """Render a still title card: large white letters on a dark frame, uint8 RGB [frames, height, width, 3]."""
    width, height = size
    card = np.full((height, width, 3), (18, 22, 40), np.uint8)
    for row, line in enumerate(lines):
        scale = 0.82 * width / max(cv2.getTextSize(line, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)[0][0], 1)
        baseline = int(height * (row + 0.8) / (len(lines) + 0.3))
        origin = (int(width * 0.09), baseline)
        cv2.putText(card, line, origin, cv2.FONT_HERSHEY_DUPLEX, scale, (240, 240, 235), 2, cv2.LINE_AA)
    return np.repeat(card[None], frames, axis=0)


def _check_overlap(before: Frames, after: Frames, length: int) -> None:
    if not 0 < length < min(len(before), len(after)):
        raise ValueError(
            f"A transition of {length} frames needs longer shots than {len(before)} and {len(after)} frames."
        )


def _film(scene: Scene, camera: Camera, frames: int, fps: float, size: tuple[int, int]) -> Iterator[Frames]:
    width, height = size
    unit = min(width, height) * OVERSAMPLING
    world = _draw_canvas(scene.seed, round(unit * CANVAS_SIDES))
    movers = _make_movers(scene)
    start = _choose_start(scene)
    for index in range(frames):
        t = index / fps
        canvas = _draw_movers(world, movers, t, unit)
        centre = (start + np.array([camera.pan, -camera.tilt]) * t) * unit
        to_canvas = _make_view(centre, np.exp(-camera.zoom * t) * OVERSAMPLING, -np.deg2rad(camera.roll * t), size)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shown = cv2.warpAffine(canvas, to_canvas, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
        yield shown.astype(np.uint8, copy=False)


def _choose_start(scene: Scene) -> NDArray:
    if scene.start is not None:
        return np.array(scene.start)
    return np.random.default_rng([scene.seed, 1]).uniform(0.4, 0.6, 2) * CANVAS_SIDES


def _make_view(centre: NDArray, scale: float, angle: float, size: tuple[int, int]) -> NDArray:
    """Return the 2x3 affine matrix from frame pixels to canvas pixels."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(size) - 1) / 2
    return np.column_stack([turn, centre - turn @ middle])


@lru_cache(maxsize=4)
def _draw_canvas(seed: int, side: int) -> NDArray[np.uint8]:
    """Draw the still part of the world: a gradient, cloud noise in three octaves, and many flat and striped shapes."""
    rng = np.random.default_rng([seed, 0])
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    a, b, c = rng.uniform(40, 215, (3, 3)).astype(np.float32)
    image = a + (b - a) * ramp[:, None, None] + (c - a) * ramp[None, :, None] * 0.7
    for cells, gain in ((6, 45.0), (16, 25.0), (48, 12.0)):
        noise = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        image += gain * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(110):
        _draw_still(image, rng)
    return image


def _draw_still(image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    side = image.shape[0]
    centre = rng.uniform(0, side, 2)
    reach = side / CANVAS_SIDES * rng.uniform(0.06, 0.32)
    colour = rng.uniform(0, 255, 3).tolist()
    kind = rng.integers(4)
    if kind == 0:
        cv2.circle(image, _round_point(centre), int(reach * 0.6), colour, -1, cv2.LINE_AA)
    elif kind == 1:
        corners = cv2.boxPoints((tuple(centre), (reach, reach * rng.uniform(0.4, 1.6)), rng.uniform(0, 90)))
        cv2.fillConvexPoly(image, corners.astype(np.int32), colour, cv2.LINE_AA)
    elif kind == 2:
        cv2.circle(image, _round_point(centre), int(reach * 0.6), colour, max(2, int(reach * 0.2)), cv2.LINE_AA)
    else:
        end = centre + rng.normal(0, 1.5 * reach, 2)
        cv2.line(image, _round_point(centre), _round_point(end), colour, max(2, int(reach * 0.18)), cv2.LINE_AA)


def _round_point(xy: NDArray) -> tuple[int, int]:
    return int(xy[0]), int(xy[1])


@dataclass(frozen=True)
class _Mover:
    start: NDArray
    velocity: NDArray
    radius: float
    colour: tuple[float, ...]
    corners: int


def _make_movers(scene: Scene) -> list[_Mover]:
    rng = np.random.default_rng([scene.seed, 2])
    return [
        _Mover(
            start=CANVAS_SIDES / 2 + rng.uniform(-0.5, 0.5, 2),
            velocity=rng.uniform(-0.25, 0.25, 2),
            radius=rng.uniform(0.06, 0.14),
            colour=tuple(rng.uniform(0, 255, 3).tolist()),
            corners=int(rng.choice([0, 3, 4, 5])),
        )
        for _ in range(scene.movers)
    ]


def _draw_movers(world: NDArray[np.uint8], movers: list[_Mover], t: float, unit: float) -> NDArray[np.uint8]:
    if not movers:
        return world
    canvas = world.copy()
    for mover in movers:
        centre = (mover.start + mover.velocity * t) * unit
        if mover.corners == 0:
            cv2.circle(canvas, _round_point(centre), int(mover.radius * unit), mover.colour, -1, cv2.LINE_AA)
            continue
        angles = 2 * np.pi * np.arange(mover.corners) / mover.corners + t
        corners = centre + mover.radius * unit * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillConvexPoly(canvas, corners.astype(np.int32), mover.colour, cv2.LINE_AA)
    return canvas
