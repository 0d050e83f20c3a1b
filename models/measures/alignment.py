"""How a whole picture moved: the similarity (shift, zoom, roll) that brings one gray picture onto another.

Unit: pixels of the pictures given, seen from their middle, as complex numbers x + iy (y down, so a positive angle turns
clockwise). A coarse search over shifts, magnifications and turns (masked normalised cross-correlation, Padfield 2012)
is refined by robust Gauss-Newton steps on the gray levels (Lucas and Kanade 1981, Baker and Matthews 2004).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Real = NDArray[np.float32]

COARSE_SIDE = 32
"""Short side of the pictures in the coarse search."""

REFINED_SIDES = (32, 64)
"""Short sides at which the alignment is refined, one after the other."""

REFINING_STEPS = 8
"""Gauss-Newton steps at each of these sizes."""

FAINT = 4.0
"""Gray levels: texture with less deviation than this counts less, and noise counts little."""

SMALL_STEP = 0.01
"""A step that moves no pixel by more than this is the last one."""

ZOOMS = (-0.46, -0.23, 0.0, 0.23, 0.46)
"""Natural logarithms of the magnifications tried; refining finds those between them."""

ROLLS = (-28.0, -14.0, 0.0, 14.0, 28.0)
"""Turns tried, in degrees, clockwise positive."""

MIN_OVERLAP = 0.3
"""A shift counts only if the two pictures still share this part of their area."""

GOOD_MATCH = 0.95
"""Pictures that correlate this well once aligned need no wider search."""

EVIDENCE = 0.75
"""A larger motion is believed when it leaves at most this share of what a smaller one leaves unexplained, and"""

FAR_MATCH = 0.65
"""when the pictures then correlate this well: the best of many shifts of unrelated pictures reaches 0.55."""

FLAT = 0.2
"""Deviation of a picture of even contrast below which it shows noise rather than texture."""

MIN_MATCH = 0.25
"""Pictures that correlate less than this after a small motion did not move as a whole."""


@dataclass(frozen=True)
class Alignment:
    """The motion between two pictures: a point z of the first is at turn * z + shift in the second."""

    turn: complex = 1 + 0j
    shift: complex = 0j

    def apply(self, points: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
        """Return where `points` are in the second picture."""
        return self.turn * points + self.shift

    def after(self, first: "Alignment") -> "Alignment":
        """Return the alignment that moves by `first` and then by this one."""
        return Alignment(self.turn * first.turn, self.turn * first.shift + self.shift)

    def scaled(self, factor: float) -> "Alignment":
        """Return the same motion for pictures that are `factor` times as large."""
        return Alignment(self.turn, self.shift * factor)

    def matrix(self, width: int, height: int) -> NDArray[np.float64]:
        """Return OpenCV's 2x3 matrix for it, over pixel coordinates from the top left."""
        turn = np.array([[self.turn.real, -self.turn.imag], [self.turn.imag, self.turn.real]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = np.array([self.shift.real, self.shift.imag])
        return np.column_stack([turn, middle + shift - turn @ middle])


def align(before: Gray, after: Gray) -> Alignment:
    """Find the similarity that moved most of `before` to where it is in `after`, gray pictures of one size.

    Shifts up to half of the short side, magnifications up to 1.6 and turns up to 30 degrees are found. Small motion is
    tried first, then any plain shift, then magnifications and turns; the larger motion must explain clearly more. When
    nothing explains the picture, it did not move as a whole.
    """
    best, match = refine(before, after, Alignment())
    for zooms, rolls in (((0.0,), (0.0,)), (ZOOMS, ROLLS)):
        if match >= GOOD_MATCH:
            break
        other, other_match = refine(before, after, find_coarse_alignment(before, after, zooms, rolls))
        if other_match >= FAR_MATCH and 1 - other_match < EVIDENCE * (1 - match):
            best, match = other, other_match
    return best if match >= MIN_MATCH else Alignment()


def find_coarse_alignment(before: Gray, after: Gray, zooms: tuple[float, ...], rolls: tuple[float, ...]) -> Alignment:
    """Find the best shift, magnification and turn, to a pixel of the pictures shrunk to COARSE_SIDE."""
    first, second, scale = _shrink_pair(before, after, COARSE_SIDE)
    turns = [complex(np.exp(zoom + 1j * np.deg2rad(roll))) for zoom in zooms for roll in rolls]
    moved, masks = zip(*(_turn_picture(first, turn) for turn in turns), strict=True)
    scores = _correlate_masked(np.stack(moved), np.stack(masks), second)
    best, row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    shift = complex(_sign_index(int(column), scores.shape[2]), _sign_index(int(row), scores.shape[1]))
    return Alignment(turns[int(best)], shift / scale)


def refine(before: Gray, after: Gray, start: Alignment) -> tuple[Alignment, float]:
    """Improve `start` by robust Gauss-Newton steps; return it and how well the pictures then correlate (-1..1)."""
    alignment = start
    match = -1.0
    for side in REFINED_SIDES:
        first, second, scale = _shrink_pair(before, after, side)
        alignment = alignment.scaled(scale)
        points = make_positions(*first.shape)
        reach = max(first.shape) / 2
        for _ in range(REFINING_STEPS):
            step = _find_step(first, second, alignment, points)
            alignment = alignment.after(step)
            if abs(step.turn - 1) * reach + abs(step.shift) < SMALL_STEP:
                break
        match = correlation(first, *move_back(second, alignment))
        alignment = alignment.scaled(1 / scale)
    return alignment, match


def measure_match(before: Gray, after: Gray, alignment: Alignment) -> float:
    """Return how well an alignment explains the second picture, -1..1: their correlation once it is moved back; 1 where
    neither has texture to tell."""
    first, second, scale = _shrink_pair(before, after, REFINED_SIDES[-1])
    if max(float(first.std()), float(second.std())) < FLAT:
        return 1.0
    return correlation(first, *move_back(second, alignment.scaled(scale)))


def move_back(second: NDArray, alignment: Alignment) -> tuple[NDArray, NDArray[np.bool_]]:
    """Move the second picture back onto the first; return it and the pixels [height, width] that it covers."""
    height, width = second.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = alignment.matrix(width, height)
    picture = cv2.warpAffine(second, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return picture, is_inside(alignment.apply(make_positions(height, width)))


def correlation(first: NDArray, second: NDArray, seen: NDArray[np.bool_]) -> float:
    """Return the correlation, -1..1, of two pictures over the pixels `seen`; -1 when there are too few."""
    if seen.mean() < MIN_OVERLAP:
        return -1.0
    a, b = first[seen].astype(np.float32), second[seen].astype(np.float32)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / max(np.sqrt((a * a).mean() * (b * b).mean()), 1e-3))


def make_positions(height: int, width: int) -> NDArray[np.complex64]:
    """Return complex pixel positions [height, width], relative to the middle of the picture."""
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    return (x[None, :] + 1j * y[:, None]).astype(np.complex64)


def is_inside(points: NDArray[np.complexfloating]) -> NDArray[np.bool_]:
    """Say which of the positions [height, width] are inside a picture of that size."""
    height, width = points.shape
    return (np.abs(points.real) <= (width - 1) / 2) & (np.abs(points.imag) <= (height - 1) / 2)


def _find_step(first: Real, second: Real, alignment: Alignment, points: NDArray[np.complexfloating]) -> Alignment:
    """Take one Gauss-Newton step: the small motion that makes the second picture, moved back, fit the first better."""
    back, seen = move_back(second, alignment)
    slope_x, slope_y = cv2.Sobel(back, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(back, cv2.CV_32F, 0, 1, scale=1 / 8)
    x, y = points.real, points.imag
    columns = (slope_x * x + slope_y * y, slope_y * x - slope_x * y, slope_x, slope_y, np.ones_like(back))
    system = np.stack([column[seen] for column in columns], axis=1)
    error = (first - back)[seen]
    if len(error) < 16:
        return Alignment()
    scale = max(1.5 * float(np.median(np.abs(error))), 0.1)
    trust = 1 / (1 + (error / scale) ** 2) ** 2
    normal = system.T @ (system * trust[:, None]) + np.diag(np.full(5, 1e-6, np.float32) * len(error))
    grow, turn, dx, dy, _ = np.linalg.solve(normal, system.T @ (trust * error)).tolist()
    return Alignment(complex(1 + grow, turn), complex(dx, dy))


def _shrink_pair(before: Gray, after: Gray, side: int) -> tuple[Real, Real, float]:
    """Return both pictures with the short side at most `side` and even contrast, and the factor between the sizes."""
    height, width = before.shape
    scale = min(1.0, side / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    first, second = (
        _even_contrast(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)) for picture in (before, after)
    )
    return first, second, scale


def _even_contrast(picture: NDArray[Any]) -> Real:
    """Subtract a picture's local mean and divide by its deviation, so that texture counts equally in any light."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    reach = min(picture.shape) / 8
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), reach)
    deviation = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), reach))
    return (detail / (deviation + FAINT)).astype(np.float32)


def _turn_picture(picture: Real, turn: complex) -> tuple[Real, Real]:
    """Magnify and turn a picture about its middle; return it, and 1 where it covers the frame, 0 elsewhere."""
    if turn == 1:
        return picture, np.ones_like(picture)
    moved, seen = move_back(picture, Alignment(1 / turn))
    return moved, seen.astype(np.float32)


def _correlate_masked(moved: Real, masks: Real, fixed: Real) -> NDArray[np.floating]:
    """Correlate masked pictures with `fixed`, normalised, at every wrapped shift: [n, rows, columns]."""
    height, width = fixed.shape
    fixed = fixed - fixed.mean()
    moved = (moved - moved.mean(axis=(1, 2), keepdims=True)) * masks
    spectra = [np.fft.rfft2(p, s=(2 * height, 2 * width)) for p in (np.ones_like(fixed), fixed, fixed**2)]
    turned = [np.conj(np.fft.rfft2(p, s=(2 * height, 2 * width))) for p in (masks, moved, moved**2)]

    def sums(a: int, b: int) -> NDArray[np.floating]:
        return np.fft.irfft2(turned[a] * spectra[b], s=(2 * height, 2 * width))

    count = np.maximum(sums(0, 0), 1.0)
    sum_moved, sum_fixed = sums(1, 0), sums(0, 1)
    covariance = sums(1, 1) - sum_moved * sum_fixed / count
    spread_moved = np.maximum(sums(2, 0) - sum_moved**2 / count, 1e-3 * count)
    spread_fixed = np.maximum(sums(0, 2) - sum_fixed**2 / count, 1e-3 * count)
    overlap = count / (height * width)
    score = covariance / np.sqrt(spread_moved * spread_fixed) * overlap**0.25
    return np.where(overlap >= MIN_OVERLAP, score, -1.0)


def _sign_index(index: int, length: int) -> int:
    """Convert a wrapped index to a shift between -length/2 and length/2."""
    return index - length if index > length // 2 else index
