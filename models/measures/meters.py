"""Meters of a clip against the picture it was made from: a value for each frame, and a summary of the clip.

sharpness: gradient energy (variance of the Laplacian) of the area that a frame and the first frame both show, as a
ratio; 1 is as sharp as the first frame, 0 is flat, above 1 is harsher. colour: how far the mean and the deviation of
the channels have moved from the picture's, in gray levels over the area that both show; 0 is none. identity: structural
similarity (after Wang et al. 2004) to the picture once the camera's motion is undone; 1 is the same, 0 is unrelated.
flicker: change of the mean light between frames against the change just before, in gray levels; 0 is steady or an even
fade. change: mean absolute difference to the frame before, in gray levels, whatever moved; the first frame has the
value of the second.

Frames are compared where both show the same place. Once the camera has moved so far that too little of the first frame
is left, a later frame takes its place, and the losses up to that frame still count.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import BadInput
from models.measures.alignment import Alignment, Gray, align, is_inside, make_positions, move_back, refine
from models.pictures import Frames

Curve = NDArray[np.float32]

RELAY_OVERLAP = 0.45
"""Share of the frame that must still show the reference; below it, the frame before becomes the reference."""

FROZEN_BELOW = 0.5
"""Gray levels: a frame that differs by less from the one before repeats it (codec noise included)."""

ENERGY_FLOOR = 4.0
"""Squared gray levels, added to both sides of a sharpness ratio: a flat picture does not divide by zero."""

TEXTURE_FLOOR = 4.0
"""Squared gray levels, added to both sides of a similarity, for the same reason."""


@dataclass(frozen=True)
class Limits:
    """The limits of a good clip. Set on rendered clips with planted faults: see benchmarks/gate.md."""

    sharpness_min: float = 0.2
    """A fifth of the energy: a blur of about one pixel over the whole picture, seen at once beside a sharp frame."""

    sharpness_max: float = 4.0
    """Four times the energy is grain or ringing that the picture does not have."""

    colour_max: float = 24.0
    """Gray levels of mean or deviation, of 255: a colour cast that is visible beside the picture."""

    identity_min: float = 0.15
    """Unrelated pictures give 0.0 to 0.2, with a median of 0.08; below this, a frame no longer shows its picture."""

    flicker_max: float = 8.0
    """Gray levels from one frame to the next, and back."""


LIMITS = Limits()


@dataclass(frozen=True)
class Meters:
    """The curves of a clip, float32 [frames] each; see the module's docstring for their units."""

    sharpness: Curve
    colour: Curve
    identity: Curve
    flicker: Curve
    change: Curve

    @property
    def frozen_share(self) -> float:
        """Return the share of the frames after the first, 0..1, that repeat the one before."""
        return float((self.change[1:] < FROZEN_BELOW).mean())

    def curves(self) -> dict[str, list[float]]:
        """Return the curves by name."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def summary(self) -> dict[str, float]:
        """Return one number for each meter: the worst tenth's mean (of sharpness, the blurred side), and
        `frozen_share`."""
        return {
            "sharpness": _average_worst(self.sharpness, lowest=True),
            "colour": _average_worst(self.colour, lowest=False),
            "identity": _average_worst(self.identity, lowest=True),
            "flicker": float(self.flicker[2:].mean()) if len(self.flicker) > 2 else 0.0,
            "frozen_share": self.frozen_share,
        }


@dataclass(frozen=True)
class GoodUntil:
    """The number of good frames at the start of a clip, and the meter that ends them; None when all are good."""

    frames: int
    reason: str | None


def measure_meters(frames: Frames, picture: Frames) -> Meters:
    """Measure the meters of uint8 RGB frames [frames, height, width, 3] made from `picture` [height, width, 3].

    Raises BadInput for fewer than two frames, or a picture of another size.
    """
    if len(frames) < 2 or frames.shape[1:] != picture.shape:
        raise BadInput(f"Meters need two frames or more of the picture's size, not {frames.shape} and {picture.shape}.")
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False) for frame in frames]
    steps = [align(before, after) for before, after in pairwise(grays)]
    sharpness, colour, identity = _measure_losses(frames, grays, steps, picture)
    return Meters(
        sharpness=sharpness,
        colour=colour,
        identity=identity,
        flicker=measure_flicker(grays, steps),
        change=measure_change(frames),
    )


def count_good_frames(meters: Meters, limits: Limits = LIMITS) -> GoodUntil:
    """Count the good frames: up to the first of two neighbouring frames (or the last one) past the same limit."""
    broken = {
        "blurred": meters.sharpness < limits.sharpness_min,
        "harsh": meters.sharpness > limits.sharpness_max,
        "colour": meters.colour > limits.colour_max,
        "identity": meters.identity < limits.identity_min,
        "flicker": meters.flicker > limits.flicker_max,
    }
    first = {name: frame for name, past in broken.items() if (frame := _find_first_lasting(past)) is not None}
    if not first:
        return GoodUntil(len(meters.change), None)
    reason = min(first, key=lambda name: first[name])
    return GoodUntil(first[reason], reason)


def measure_flicker(grays: list[Gray], steps: list[Alignment]) -> Curve:
    """Return second differences of the mean light that neighbouring frames share; the first two frames have none."""
    light = [_measure_light_change(a, b, step) for a, b, step in zip(grays, grays[1:], steps, strict=False)]
    return np.array([0.0, 0.0, *np.abs(np.diff(light))], np.float32)[: len(grays)]


def measure_change(frames: Frames) -> Curve:
    """Return the mean absolute difference of each frame to the one before, in gray levels."""
    change = [np.abs(b.astype(np.int16) - a.astype(np.int16)).mean() for a, b in pairwise(frames)]
    return np.array([change[0], *change], np.float32)


def similarity(first: NDArray, second: NDArray, seen: NDArray[np.bool_]) -> float:
    """Return the structural similarity, -1..1, of two gray pictures over the pixels `seen`; 0 when there are none.

    Contrast and structure of SSIM are summed before they are divided, so that areas count by their texture: two flat
    areas look the same in any two pictures.
    """
    if not seen.any():
        return 0.0
    a, b = first.astype(np.float32), second.astype(np.float32)
    mean_a, mean_b = _blur(a), _blur(b)
    together = (_blur(a * b) - mean_a * mean_b)[seen].sum()
    apart = (_blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2)[seen].sum()
    floor = TEXTURE_FLOOR * seen.sum()
    return float((2 * together + floor) / (apart + floor))


@dataclass(frozen=True)
class _Reference:
    """What later frames are compared with: a frame, and the losses up to it."""

    frame: Frames
    gray: Gray
    sharpness: float = 1.0
    colour: float = 0.0
    identity: float = 1.0


def _measure_losses(
    frames: Frames, grays: list[Gray], steps: list[Alignment], picture: Frames
) -> tuple[Curve, Curve, Curve]:
    """Measure sharpness against the first frame, and colour and identity against the picture."""
    seen = np.ones(grays[0].shape, bool)
    own = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    start = _Reference(picture, own, 1.0 / _compare_sharpness(own, grays[0], seen, seen))
    rows = [_compare_frame(start, frames[0], grays[0], Alignment())]
    reference, moved = start, Alignment()
    for index, step in enumerate(steps, start=1):
        moved = _refit_motion(reference.gray, grays[index], step.after(moved))
        if is_inside(moved.apply(make_positions(*own.shape))).mean() < RELAY_OVERLAP:
            reference, moved = _Reference(frames[index - 1], grays[index - 1], *rows[-1]), step
        rows.append(_compare_frame(reference, frames[index], grays[index], moved))
    sharpness, colour, identity = np.array(rows, np.float32).T
    return sharpness, colour, identity


def _compare_frame(reference: _Reference, frame: Frames, gray: Gray, moved: Alignment) -> tuple[float, float, float]:
    """Measure sharpness, colour and identity of a frame to which the reference moved by `moved`."""
    points = make_positions(*gray.shape)
    ahead = is_inside(moved.apply(points))
    back = Alignment(1 / moved.turn, -moved.shift / moved.turn)
    behind = is_inside(back.apply(points))
    returned, seen = move_back(gray, moved)
    # A zoom enlarges the picture, so fewer edges fit into the frame; this is not blur.
    zoom = abs(moved.turn)
    return (
        reference.sharpness * _compare_sharpness(reference.gray, gray, ahead, behind) * zoom,
        reference.colour + _measure_colour_distance(reference.frame[ahead], frame[behind]),
        reference.identity * max(0.0, similarity(reference.gray, returned, seen)),
    )


def _refit_motion(reference: Gray, gray: Gray, moved: Alignment) -> Alignment:
    """Fit a motion summed over steps again, so that small errors do not add up, unless the new fit is far away."""
    fitted, _ = refine(reference, gray, moved)
    near = abs(fitted.shift - moved.shift) < 0.1 * min(gray.shape) and abs(fitted.turn - moved.turn) < 0.1
    return fitted if near else moved


def _compare_sharpness(first: Gray, second: Gray, ahead: NDArray[np.bool_], behind: NDArray[np.bool_]) -> float:
    """Return the energy of the second picture's Laplacian over the first's, each within the area that both show."""
    if not ahead.any() or not behind.any():
        return 1.0
    energies = [cv2.Laplacian(gray, cv2.CV_32F)[seen].var() + ENERGY_FLOOR for gray, seen in
                ((first, ahead), (second, behind))]  # fmt: skip
    return float(energies[1] / energies[0])


def _measure_colour_distance(first: Frames, second: Frames) -> float:
    """Return the largest distance of a channel's mean or deviation between pixels [n, 3], in gray levels."""
    if not len(first) or not len(second):
        return 0.0
    means = np.abs(first.mean(0) - second.mean(0))
    return float(max(means.max(), np.abs(first.std(0) - second.std(0)).max()))


def _measure_light_change(before: Gray, after: Gray, step: Alignment) -> float:
    returned, seen = move_back(after, step)
    return float((returned.astype(np.float32) - before)[seen].mean()) if seen.any() else 0.0


def _find_first_lasting(past: NDArray[np.bool_]) -> int | None:
    """Find the first frame past a limit whose next frame is past it too; the last frame needs no next one."""
    lasting = past & np.append(past[1:], True)
    return int(lasting.argmax()) if lasting.any() else None


def _average_worst(curve: Curve, lowest: bool) -> float:
    """Return the mean of the worst tenth of a curve, and of at least one value."""
    ordered = np.sort(curve) if lowest else np.sort(curve)[::-1]
    return float(ordered[: max(1, len(ordered) // 10)].mean())


def _blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.GaussianBlur(values, (0, 0), 1.5).astype(np.float32, copy=False)
