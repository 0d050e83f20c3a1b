from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.errors import BadModel
from models.measures.craft import find_craft_boxes, load_craft
from tests.small_models import save_craft

cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_craft(tmp_path_factory.mktemp("craft") / "craft.safetensors", prefix="module.")


def with_line(height: int, width: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A dark picture with a bright line, which the weights take for text."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top:bottom, left:right] = 255
    return picture


@pytest.mark.slow
def test_a_box_is_four_corners_around_the_text_in_the_pictures_own_pixels(weights: Path):
    (boxes,) = find_craft_boxes(weights, with_line(96, 160, 40, 32, 120, 48)[None])
    assert boxes.shape == (1, 4, 2)
    # CRAFT widens what it finds by some pixels, because scores fall off towards the edge of a letter.
    assert np.abs(boxes[0] - [[40, 32], [120, 32], [120, 48], [40, 48]]).max() <= 8


@pytest.mark.slow
def test_each_picture_has_its_own_boxes(weights: Path):
    pictures = np.stack([with_line(64, 96, 8, 8, 40, 24), np.zeros((64, 96, 3), np.uint8)])
    pictures = np.concatenate([pictures, with_line(64, 96, 8, 8, 40, 24)[None]])
    pictures[2, 40:56, 48:88] = 255
    assert [len(boxes) for boxes in find_craft_boxes(weights, pictures)] == [1, 0, 2]


def test_a_large_picture_is_looked_at_shrunk_and_the_boxes_are_in_its_own_pixels(weights: Path):
    picture = with_line(192, 320, 80, 64, 240, 96)[None]
    (boxes,) = find_craft_boxes(weights, picture, canvas_side=160)
    assert np.abs(boxes[0] - [[80, 64], [240, 64], [240, 96], [80, 96]]).max() <= 16


def test_a_higher_threshold_asks_for_more(weights: Path):
    assert len(find_craft_boxes(weights, with_line(64, 96, 8, 8, 40, 24)[None], text_threshold=3.0)[0]) == 0


def test_the_network_stays_in_memory(weights: Path):
    assert load_craft(weights) is load_craft(weights)
    assert not load_craft(weights).training


@pytest.mark.slow
def test_weights_of_something_else_are_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadModel, match=r"other\.safetensors: not the weights of CRAFT"):
        load_craft(tmp_path / "other.safetensors")
