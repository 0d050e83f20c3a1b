"""Peak signal-to-noise ratio: values known from its definition."""

import math

import numpy as np
import pytest

from models.measures.psnr import mean_squared_error, psnr


@pytest.mark.parametrize(
    ("error", "peak", "decibel"),
    [(1.0, 255, 48.1308), (255.0**2, 255, 0.0), (4.0, 2, 0.0), (0.04, 2, 20.0), (0.0, 2, math.inf)],
)
def test_an_error_is_a_ratio_in_decibel(error: float, peak: float, decibel: float):
    assert psnr(error, peak) == pytest.approx(decibel, abs=1e-4)


@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_no_ratio_is_above_the_most(error: float):
    assert psnr(error, most=100.0) == 100.0


def test_an_error_that_is_no_number_is_not_said_to_be_small():
    assert math.isnan(psnr(math.nan))


def test_pictures_are_compared_without_their_values_wrapping_around():
    black = np.zeros((8, 8, 3), np.uint8)
    assert mean_squared_error(black, black + np.uint8(255)) == 255.0**2
    assert mean_squared_error(black + np.uint8(101), black + np.uint8(100)) == 1.0
