"""Peak signal-to-noise ratio: how near two pictures, or two clips, are to one another, in dB; higher is nearer."""

import math

import numpy as np
from numpy.typing import NDArray


def psnr(squared_error: float, peak: float = 255.0, most: float = math.inf) -> float:
    """Return the ratio in dB of a mean squared error of values that span `peak`: 255 for uint8, 2 for -1..1.

    It is at most `most`, which is also that of no error at all.
    """
    return min(10 * math.log10(peak**2 / squared_error), most) if squared_error else most


def mean_squared_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean squared difference of uint8 values of one shape, in squared gray levels."""
    return float(np.square(one.astype(np.float64) - other).mean())
