"""Films with known transitions: hard cuts, dissolves, fades and wipes between moving shots, and traps inside the shots.

Two thirds of the hard cuts join similar shots: of the same colours and brightness, or of one scene mirrored. A trap
is what a detector may take for a cut: a flash of one to four frames, or a whip pan at up to five short sides a second.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.footage import Camera, Motion, Scene, dissolve, fade_through, render_shot

Frames = NDArray[np.uint8]
Kind = Literal["cut", "dissolve", "fade through black", "fade through white", "wipe", "flash", "whip pan"]

FPS, SIZE = 25, (320, 180)

LENGTHS: dict[Kind, tuple[int, int]] = {
    "cut": (0, 0),
    "dissolve": (5, 50),
    "fade through black": (4, 25),
    "fade through white": (4, 25),
    "wipe": (8, 30),
}
"""The shortest and the longest of each transition in frames; of a fade, each way."""

MIXTURE: dict[Kind, int] = {
    "cut": 8,
    "dissolve": 6,
    "fade through black": 2,
    "fade through white": 2,
    "wipe": 2,
}
"""How many of each kind a film has."""

TRAPS: tuple[Kind, ...] = ("flash", "whip pan")

MOTIONS: tuple[Motion, ...] = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll")

MARGIN = 15
"""Undisturbed frames on either side of whatever happens, at least."""


@dataclass(frozen=True)
class Event:
    """What happens in the frames [start, end): a transition or a trap. A cut lies before `start`, and is empty."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True)
class Film:
    """Frames uint8 RGB [frames, height, width, 3], and what happens in them, in order of time."""

    frames: Frames
    events: list[Event]


def render_film(seed: int) -> Film:
    """A film with the transitions of MIXTURE in an order of its own; every other shot has a trap in it."""
    rng = np.random.default_rng([seed, 77])
    kinds = rng.permutation([kind for kind, count in MIXTURE.items() for _ in range(count)]).tolist()
    lengths = [int(rng.integers(LENGTHS[kind][0], LENGTHS[kind][1] + 1)) for kind in kinds]
    film = Film(np.empty((0, SIZE[1], SIZE[0], 3), np.uint8), [])
    for number, (before, after) in enumerate(pairwise([0, *lengths, 0])):
        trap = TRAPS[number // 2 % 2] if number % 2 else None
        shot = _shot(rng, seed * 1000 + number, before + MARGIN, after + MARGIN, trap)
        film = _join(film, shot, kinds[number - 1], before, rng) if number else shot
    return film


def _shot(rng: np.random.Generator, seed: int, before: int, after: int, trap: Kind | None) -> Film:
    """A shot with `before` frames ahead of its trap and `after` frames behind it."""
    length = before + int(rng.integers(10, 40)) + after
    if trap == "whip pan":
        return _whip_pan(rng, seed, before, length)
    camera = Camera.doing(MOTIONS[rng.integers(len(MOTIONS))], rng.uniform(0.05, 0.4))
    frames = render_shot(Scene(seed, movers=int(rng.integers(0, 5))), camera, length, FPS, SIZE)
    return _flash(rng, frames, before) if trap == "flash" else Film(frames, [])


def _flash(rng: np.random.Generator, frames: Frames, start: int) -> Film:
    length = int(rng.integers(1, 5))
    light = np.linspace(rng.uniform(0.6, 1.0), 0.2, length)[:, None, None, None]
    lit = frames[start : start + length] * (1 - light) + 255 * light
    flashed = np.concatenate([frames[:start], lit.round().astype(np.uint8), frames[start + length :]])
    return Film(flashed, [Event("flash", start, start + length)])


def _whip_pan(rng: np.random.Generator, seed: int, start: int, length: int) -> Film:
    """A slow pan that whips over one to two short sides on its way, with motion blur."""
    whip, step, blur = int(rng.integers(8, 16)), 0.01, 4
    slow, distance = rng.uniform(0.05, 0.3) / FPS, rng.uniform(1.0, 2.0)
    profile = np.sin(np.linspace(0, np.pi, whip + 2))[1:-1] ** 2
    speed = np.full(length + whip, slow)
    speed[start : start + whip] += distance * profile / profile.sum()
    places = np.cumsum(speed)[:, None] - speed[:, None] * np.linspace(0, 0.5, blur)
    index = np.rint((places - places.min()) / step).astype(int)
    fine = render_shot(Scene(seed, movers=0), Camera(pan=step), int(index.max()) + 1, 1.0, SIZE)
    frames = np.stack([fine[i].mean(axis=0).round().astype(np.uint8) for i in index])
    return Film(frames, [Event("whip pan", start, start + whip)])


def _join(film: Film, shot: Film, kind: Kind, length: int, rng: np.random.Generator) -> Film:
    before, after = film.frames, shot.frames
    overlap = 0 if kind.startswith("fade") else length
    start, end = len(before) - length, len(before) - length + max(length, 2 * length * (overlap == 0))
    if kind == "cut":
        undisturbed = before[film.events[-1].end if film.events else 0 :]
        after = _similar(undisturbed, shot, int(rng.integers(3)))
        frames = np.concatenate([before, after])
    elif kind == "dissolve":
        frames = dissolve(before, after, length)
    elif kind == "wipe":
        frames = _wipe(before, after, length, int(rng.integers(4)))
    else:
        frames = fade_through(before, after, length, 255 if kind.endswith("white") else 0)
    shift = len(before) - overlap
    later = [Event(event.kind, event.start + shift, event.end + shift) for event in shot.events]
    return Film(frames, [*film.events, Event(kind, start, end), *later])


def _wipe(before: Frames, after: Frames, length: int, side: int) -> Frames:
    """The second shot moves its edge over the first one from one of the four sides, in `length` mixed frames."""
    height, width = before.shape[1:3]
    ramp = np.arange(width) / width if side < 2 else np.arange(height)[:, None] / height
    ramp = np.broadcast_to(1 - ramp if side % 2 else ramp, (height, width))
    mask = ramp[None] < (np.arange(1, length + 1) / (length + 1))[:, None, None]
    mixed = np.where(mask[..., None], after[:length], before[-length:])
    return np.concatenate([before[:-length], mixed, after[length:]])


def _similar(last: Frames, shot: Film, how: int) -> Frames:
    """The second shot of a cut: as it is (0), coloured like the last shot (1), or that one's picture mirrored (2)."""
    if how == 2 and not shot.events and len(last) > len(shot.frames):
        return np.ascontiguousarray(last[-len(shot.frames) - 1 : -1, :, ::-1])
    return _coloured_like(shot.frames, last[-1]) if how else shot.frames


def _coloured_like(frames: Frames, like: Frames) -> Frames:
    """The frames with each channel's mean and spread as in the picture `like`."""
    own, wanted = ((x.mean((0, 1)), x.std((0, 1))) for x in (frames[0], like))
    return np.clip((frames - own[0]) * (wanted[1] / own[1]) + wanted[0], 0, 255).round().astype(np.uint8)
