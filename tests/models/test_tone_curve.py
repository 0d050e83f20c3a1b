import numpy as np
import pytest

from models.tone_curve import Gamut, Transfer, compute_gamut_matrix, compute_pq_light, convert_to_bt709

COLOURS = np.array([[200, 35, 40], [65, 150, 65], [45, 80, 190], [235, 130, 35], [15, 15, 15], [255, 255, 255]])

BT2087 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""BT.709's light in BT.2020's primaries, as ITU-R BT.2087 prints it."""


def code_pq(light: np.ndarray) -> np.ndarray:
    """PQ's values, 0 to 1, of light in cd/m2 (SMPTE ST 2084)."""
    raised = np.power(light / 10_000, 0.1593017578125)
    return np.power((0.8359375 + 18.8515625 * raised) / (1 + 18.6875 * raised), 78.84375)


def code_hlg(light: np.ndarray) -> np.ndarray:
    """HLG's values, 0 to 1, of light in cd/m2 in BT.2020's primaries on a screen of 1000 cd/m2."""
    luminance = light @ [0.2627, 0.6780, 0.0593]
    scene = light / 1000 * np.power(np.maximum(luminance, 1e-9) / 1000, 1 / 1.2 - 1)[..., None]
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def make_codes(values: np.ndarray) -> np.ndarray:
    """Values 0 to 1 [n, 3] as a picture of one line, of 16 bits."""
    return np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16)[None]


@pytest.mark.parametrize(("transfer", "code"), [("pq", code_pq), ("hlg", code_hlg)])
def test_colours_up_to_the_white_of_203_are_unchanged(transfer: Transfer, code):
    light = 203 * (COLOURS / 255) ** 2.4 @ BT2087.T
    seen = convert_to_bt709(make_codes(code(light)), transfer, "bt2020")[0]
    assert np.abs(seen.astype(int) - COLOURS).max() <= 1


@pytest.mark.parametrize("gamut", ["bt2020", "p3"])
def test_white_is_white_in_every_gamut(gamut: Gamut):
    assert compute_gamut_matrix(gamut) @ np.ones(3) == pytest.approx(np.ones(3))
    assert convert_to_bt709(make_codes(np.ones((1, 3))), "sdr", gamut).tolist() == [[[255] * 3]]


def test_the_matrix_is_the_published_one():
    assert np.linalg.inv(compute_gamut_matrix("bt2020")) == pytest.approx(BT2087, abs=1e-4)


def test_pq_codes_the_light_that_the_standard_says():
    assert compute_pq_light(np.array([0.0, 0.5081, 0.5807, 0.7518, 1.0])) == pytest.approx(
        [0, 100, 203, 1000, 10_000], rel=3e-3
    )


def test_brighter_colours_keep_their_hue_and_near_white_by_the_curve():
    """Red light of 2, 5 and 49 times white: 1 in red, and ln(m) / ln(10000 / 203) in the others."""
    times = np.array([1.0, 2.0, 5.0, 10_000 / 203])
    light = times[:, None] * 203 * np.array([1.0, 0, 0]) @ BT2087.T
    seen = convert_to_bt709(make_codes(code_pq(light)), "pq", "bt2020")[0]
    wanted = 255 * (np.log(times) / np.log(10_000 / 203)) ** (1 / 2.4)
    assert (seen[:, 0] >= 254).all()
    assert np.abs(seen[1:, 1] - wanted[1:]).max() <= 2
    assert (np.diff(seen[:, 2].astype(int)) > 0).all()


def test_highlights_above_white_are_white():
    light = np.array([[203.0] * 3, [1000.0] * 3, [10_000.0] * 3])
    assert (convert_to_bt709(make_codes(code_pq(light)), "pq", "bt2020") >= 254).all()
