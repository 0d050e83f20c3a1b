"""True detail: how fine a picture is in its own pixels, whatever their number.

fineness: 0 to 1, the frequency, as a share of the finest that the pixels can show, up to which luma has detail: there
the energy of its gradient, about even in a natural picture, falls below EDGE of that of coarse detail. It is about 0.5
in a good picture, half of that in one that was enlarged to twice its size, and less in a defocused one.
"""

import numpy as np
from numpy.typing import NDArray

from models.measures.alignment import Gray

EDGE = 0.2

COARSE = (0.1, 0.3)
"""The frequencies of coarse detail."""

RINGS = 10
"""The number of rings of frequencies that are compared."""

LINES = 48
"""So many rows and as many columns, evenly spaced, are looked at."""

FLAT = 4.0
"""Squared gray levels: lines with less variance than this say nothing."""


def fineness(picture: Gray) -> float | None:
    """Measure the fineness of a gray uint8 picture, from rows and columns spread over it; None where these are flat."""
    if min(picture.shape) < 2 * RINGS:
        return None
    down, across = (np.linspace(0, side - 1, min(LINES, side)).astype(int) for side in picture.shape)
    lines = picture[down].astype(np.float32), picture[:, across].T.astype(np.float32)
    if max(some.var(axis=1).mean() for some in lines) < FLAT:
        return None
    rings = measure_rings(lines[0]) + measure_rings(lines[1])
    first, end = (int(edge * RINGS) for edge in COARSE)
    # A picture without even coarse detail is measured by its coarsest.
    coarse = max(float(rings[first:end].mean()), EDGE * float(rings[0]), 1e-9)
    heights = np.log(np.maximum(rings / coarse, 1e-9) / EDGE)
    below = np.flatnonzero(heights[first:] < 0) + first
    if not len(below):
        return 1.0
    last, above, under = below[0], max(float(heights[below[0] - 1]), 0.0), float(heights[below[0]])
    return float(last - 0.5 + above / (above - under)) / RINGS


def measure_rings(lines: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the mean energy of the slope [RINGS] of lines [lines, pixels] in equal ranges of frequencies."""
    length = lines.shape[1]
    waves = np.fft.rfft((lines - lines.mean(axis=1, keepdims=True)) * np.hanning(length).astype(np.float32))
    frequency = np.fft.rfftfreq(length) * 2
    energy = (np.abs(waves) ** 2).mean(axis=0) * frequency**2 / length
    ring = np.minimum((frequency * RINGS).astype(int), RINGS - 1)
    return np.bincount(ring, energy, minlength=RINGS) / np.bincount(ring, minlength=RINGS)
