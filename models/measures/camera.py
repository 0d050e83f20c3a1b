"""The camera's motion in a clip: a similarity (shift, zoom, roll) fitted to optical flow, and the motion of everything
else.

Units: lengths in short sides of the frame, so speeds are short sides per second ("sides/s"); zoom is the natural
logarithm of magnification per second; roll is in degrees per second, clockwise positive. Directions are the camera's:
when it pans right the picture slides to the left, when it tilts up the picture slides down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import BadInput
from models.measures.alignment import Alignment, make_positions, measure_match
from models.measures.flow import Flow, Gray, choose_flow_size, farneback, stays_inside

MotionClass = Literal[
    "static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "complex", "unknown"
]
"""What a camera does; both senses of roll are one class. Of an `unknown` one it could not be measured: it is no class
of motion, and above all not static."""

MOTIONS: tuple[MotionClass, ...] = get_args(MotionClass)

STATIC_FLOOR = 0.02
"""sides/s: a camera that moves the average pixel less than this is static (a short side takes 50 s)."""

JITTER_FLOOR = 0.06
"""sides/s: a static camera may shake by up to this, as long as the shaking does not add up."""

DOMINANT_SHARE = 0.6
"""Share of the squared displacement: if no component reaches it, the motion is complex (39 degrees off an axis)."""

STEADY_SHARE = 0.5
"""Share of the motion that must add up over the clip: a pan to the right and back is complex."""

MIN_STEP_S = 0.1
"""Frames closer together than this are skipped, so that noise is not multiplied by the frame rate."""

LOST_MATCH = 0.4
"""Two pictures that correlate less than this after the camera's motion is taken back were lost: that was not it. A
camera that was found leaves 0.7 and more, pictures that share nothing at most 0.2."""

KNOWN_SHARE = 0.5
"""Share of the time in which the camera must not be lost; below it the camera's motion is unknown."""

TEXTURE_FLOOR = 0.75
"""Gray levels per pixel: a neighbourhood with such slopes counts half in the fit, with weaker ones less."""

FIT_STEPS = 10
"""Reweighting steps of the robust fit."""


@dataclass(frozen=True)
class CameraMotion:
    """The motion measured in a clip.

    pan, tilt, zoom, roll: the camera's signed speeds, medians over time, in the module's units. strength: how far the
    camera moves the average pixel, whatever the direction (sides/s). object_motion: mean magnitude of the flow that the
    camera does not explain (sides/s). magnitude: mean magnitude of the flow over time and space (sides/s).
    """

    motion: MotionClass
    strength: float
    pan: float
    tilt: float
    zoom: float
    roll: float
    object_motion: float
    magnitude: float


@dataclass(frozen=True)
class _Step:
    """One pair of frames: its length in seconds and the displacements over it, in sides (zoom: ln, roll: degrees)."""

    seconds: float
    pan: float
    tilt: float
    zoom: float
    roll: float
    rest: float
    magnitude: float
    match: float

    def stretched(self, seconds: float) -> "_Step":
        """Return the step as it would be at the same speeds over another time."""
        times = seconds / self.seconds
        return replace(
            self,
            seconds=seconds,
            pan=self.pan * times,
            tilt=self.tilt * times,
            zoom=self.zoom * times,
            roll=self.roll * times,
            rest=self.rest * times,
            magnitude=self.magnitude * times,
        )


def speed_along(motion: str, speed: float) -> float:
    """Return a camera's signed speed of the kind of `motion` ("pan_left", "roll", ...) as its speed in that motion:
    negative when it did the opposite; of a motion without a sense, which no camera does backwards, the absolute value.
    """
    _, _, sense = motion.partition("_")
    if not sense:
        return abs(speed)
    return -speed if sense in ("left", "down", "out") else speed


FlowOfFrames = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Flow]
"""The flow between two uint8 RGB frames, [height, width, 2] in pixels of the size in which flow is measured."""


FrameSoonAfter = Callable[[int], tuple[NDArray[np.uint8], float] | None]
"""A frame that follows soon after the one of this index, and its time; None where there is none."""


def measure_motion(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    times_s: Sequence[float],
    finer_flow: FlowOfFrames | None = None,
    find_soon: FrameSoonAfter | None = None,
) -> CameraMotion:
    """Measure a clip: uint8 RGB [frames, height, width, 3], shown at the rising times `times_s`.

    Frames are taken one by one, in order, so that a sequence may read each when it is needed. Where the camera is so
    fast that it is lost between two frames, the speed is that up to the frame that `find_soon` finds, if any.
    The flow is Farneback's unless `finer_flow` is given. Raises BadInput when there are fewer than two frames, or not
    one time for each.
    """
    if len(frames) != len(times_s) or len(frames) < 2:
        raise BadInput(f"Motion needs two or more frames and a time for each, not {len(frames)} and {len(times_s)}.")
    chosen = _choose_frames(times_s)
    frame, steps = frames[chosen[0]], []
    radius = mean_radius(*convert_to_gray(frame).shape)
    for i, j in pairwise(chosen):
        next_frame, seconds = frames[j], times_s[j] - times_s[i]
        step = _measure_pair(frame, next_frame, seconds, finer_flow)
        if step.match < LOST_MATCH and find_soon and (soon := find_soon(i)):
            other = _measure_pair(frame, soon[0], soon[1] - times_s[i], finer_flow)
            step = max(step, other.stretched(seconds), key=lambda one: one.match)
        steps.append(step)
        frame = next_frame
    return _summarise_steps(steps, radius)


def _measure_pair(
    frame: NDArray[np.uint8], other: NDArray[np.uint8], seconds: float, finer_flow: FlowOfFrames | None
) -> _Step:
    gray, other_gray = convert_to_gray(frame), convert_to_gray(other)
    flow = finer_flow(frame, other) if finer_flow else farneback(gray, other_gray)
    return _measure_step(gray, other_gray, flow, seconds)


def convert_to_gray(frame: NDArray[np.uint8]) -> Gray:
    """Convert an RGB frame to a gray picture of the size in which flow is measured."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    size = choose_flow_size(*gray.shape)
    shrinks = size[1] < gray.shape[0]
    resized = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)


def fit_similarity(flow: Flow, weights: NDArray[np.floating]) -> tuple[complex, complex]:
    """Fit (turn, shift) so that pixels z go to turn * z + shift: least squares, reweighted until outliers do not count.

    `weights` [height, width] are at least 0; a picture that has none anywhere did not move: (1, 0).
    """
    points = make_positions(*flow.shape[:2])[::2, ::2].ravel()
    moves = (flow[::2, ::2, 0] + 1j * flow[::2, ::2, 1]).ravel()
    given = weights[::2, ::2].ravel()
    turn, shift = 1 + 0j, 0j
    trust = given
    for _ in range(FIT_STEPS):
        if trust.sum() <= 1e-6:
            return 1 + 0j, 0j
        turn, shift = _least_squares(points, points + moves, trust)
        error = np.abs(points + moves - turn * points - shift)
        scale = max(1.5 * _weighted_median(error, given), 0.5)
        trust = given / (1 + (error / scale) ** 2) ** 2
    return turn, shift


def classify(
    pan: float, tilt: float, zoom: float, roll: float, strength: float, radius: float, steadiness: float = 1.0
) -> MotionClass:
    """Return the class of a motion from its speeds, the mean displacement `strength` and the frame's mean radius.

    `steadiness`, 0 to 1, is the share of the motion that adds up over the clip. A component's displacement is that
    of the average pixel: |pan|, |tilt|, radius * |zoom|, radius * |roll|.
    """
    parts: dict[MotionClass, float] = {
        "pan_right" if pan > 0 else "pan_left": abs(pan),
        "tilt_up" if tilt > 0 else "tilt_down": abs(tilt),
        "zoom_in" if zoom > 0 else "zoom_out": radius * abs(zoom),
        "roll": radius * abs(float(np.deg2rad(roll))),
    }
    if np.linalg.norm(list(parts.values())) < STATIC_FLOOR and strength < JITTER_FLOOR:
        return "static"
    name = max(parts, key=lambda part: parts[part])
    plain = parts[name] ** 2 >= DOMINANT_SHARE * strength**2 and steadiness >= STEADY_SHARE
    return name if plain else "complex"


def mean_radius(height: int, width: int) -> float:
    """Return the root mean square distance of a pixel from the middle, in short sides."""
    return float(np.sqrt((height**2 + width**2) / 12) / min(height, width))


def _choose_frames(times_s: Sequence[float]) -> list[int]:
    """Choose frames to measure: the first, then each at least MIN_STEP_S later; a very short clip's first and last."""
    chosen = [0]
    for index, time in enumerate(times_s):
        if time - times_s[chosen[-1]] >= MIN_STEP_S - 1e-6:
            chosen.append(index)
    return chosen if len(chosen) > 1 else [0, len(times_s) - 1]


def _measure_step(before: Gray, after: Gray, flow: Flow, seconds: float) -> _Step:
    seen = stays_inside(flow)
    turn, shift = fit_similarity(flow, measure_texture(before) * seen)
    side = min(before.shape)
    points = make_positions(*before.shape)
    rest = np.abs(flow[..., 0] + 1j * flow[..., 1] - ((turn - 1) * points + shift))
    return _Step(
        seconds=seconds,
        pan=-shift.real / side,
        tilt=shift.imag / side,
        zoom=float(np.log(abs(turn))),
        roll=float(np.rad2deg(np.angle(turn))),
        rest=float(rest[seen].mean() / side) if seen.any() else 0.0,
        magnitude=float(np.hypot(flow[..., 0], flow[..., 1]).mean() / side),
        match=measure_match(before, after, Alignment(turn, shift)),
    )


def measure_texture(gray: Gray) -> NDArray[np.float32]:
    """Measure how well motion can be seen at each pixel, 0..1: slopes in two directions, against TEXTURE_FLOOR."""
    smooth = cv2.GaussianBlur(gray, (0, 0), 1.5).astype(np.float32)
    # OpenCV gives four times the mean square of the slopes in the direction where they are weakest.
    squared = np.maximum(cv2.cornerMinEigenVal(smooth, blockSize=7, ksize=3), 0) / 4
    return (squared / (squared + TEXTURE_FLOOR**2)).astype(np.float32)


def _summarise_steps(steps: list[_Step], radius: float) -> CameraMotion:
    """Return the motion over the steps in which the camera was not lost; over all, as unknown, where these are few."""
    known = [step for step in steps if step.match >= LOST_MATCH]
    if sum(step.seconds for step in known) < KNOWN_SHARE * sum(step.seconds for step in steps):
        return replace(_summarise_known(steps, radius), motion="unknown")
    return _summarise_known(known, radius)


def _summarise_known(steps: list[_Step], radius: float) -> CameraMotion:
    seconds = np.array([step.seconds for step in steps])
    speeds = np.array([[s.pan, s.tilt, s.zoom, s.roll] for s in steps]) / seconds[:, None]
    moves = speeds * np.array([1.0, 1.0, radius, radius * np.pi / 180])
    pan, tilt, zoom, roll = (_weighted_median(column, seconds) for column in speeds.T)
    strength = _weighted_median(np.linalg.norm(moves, axis=1), seconds)
    return CameraMotion(
        motion=classify(pan, tilt, zoom, roll, strength, radius, _measure_steadiness(moves, seconds)),
        strength=strength,
        pan=pan,
        tilt=tilt,
        zoom=zoom,
        roll=roll,
        object_motion=float(sum(step.rest for step in steps) / seconds.sum()),
        magnitude=float(sum(step.magnitude for step in steps) / seconds.sum()),
    )


def _measure_steadiness(moves: NDArray, seconds: NDArray) -> float:
    """Return how long the mean of the steps' directions [steps, 4] is: 1 when all agree, and 1 without motion."""
    lengths = np.linalg.norm(moves, axis=1)
    # Steps count by their direction only, so that a single wrong measurement cannot outweigh the others.
    directions = moves / np.maximum(lengths, 1e-9)[:, None]
    return float(np.linalg.norm(np.average(directions, axis=0, weights=seconds))) if lengths.any() else 1.0


def _least_squares(points: NDArray, targets: NDArray, weights: NDArray) -> tuple[complex, complex]:
    """Solve the weighted linear regression targets = turn * points + shift over complex numbers."""
    total = weights.sum()
    mean_point, mean_target = (weights * points).sum() / total, (weights * targets).sum() / total
    centred = points - mean_point
    spread = (weights * np.abs(centred) ** 2).sum()
    turn = complex((weights * np.conj(centred) * (targets - mean_target)).sum() / max(spread, 1e-9))
    return turn, complex(mean_target - turn * mean_point)


def _weighted_median(values: NDArray, weights: NDArray) -> float:
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])
