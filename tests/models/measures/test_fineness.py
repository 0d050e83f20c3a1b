import cv2
import numpy as np
import pytest

from models.measures.fineness import fineness
from tasks.footage import Camera, Scene, render_shot


def picture(seed: int, height: int = 360) -> np.ndarray:
    frame = render_shot(Scene(seed, movers=0), Camera(), 1, size=(height * 16 // 9, height))[0]
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8)


def resized(gray: np.ndarray, times: float, way: int = cv2.INTER_CUBIC) -> np.ndarray:
    size = round(gray.shape[1] * times), round(gray.shape[0] * times)
    return cv2.resize(gray, size, interpolation=way).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", [cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_LANCZOS4])
def test_an_enlarged_picture_has_less_true_detail_than_its_original_and_a_reduced_one_less_than_its_own(
    seed: int, way: int
):
    original = picture(seed)

    def detail(gray: np.ndarray) -> float:
        return (fineness(gray) or 0) * float(np.sqrt(len(gray)))

    assert detail(resized(original, 2, way)) < 0.8 * detail(original)
    assert detail(resized(original, 0.5, cv2.INTER_AREA)) < 0.95 * detail(original)


def test_noise_is_as_fine_as_pixels_can_be_and_a_blurred_picture_is_not():
    noise = np.random.default_rng(1).integers(0, 256, (256, 256)).astype(np.uint8)
    assert fineness(noise) == 1.0
    assert (fineness(cv2.GaussianBlur(picture(1), (0, 0), 4).astype(np.uint8)) or 0) < 0.25


def test_a_flat_or_a_tiny_picture_says_nothing():
    assert fineness(np.full((90, 160), 77, np.uint8)) is None
    assert fineness(np.zeros((8, 8), np.uint8)) is None
