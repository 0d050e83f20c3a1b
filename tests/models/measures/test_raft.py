from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.errors import BadModel
from models.measures.camera import measure_motion
from models.measures.flow import choose_flow_size
from models.measures.raft import load_raft, measure_raft_flow
from tests.small_models import save_raft

cv2.setNumThreads(1)

ROUNDS, UP = 12, 8
"""RAFT refines its flow in so many rounds, at one pixel of so many."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_raft(tmp_path_factory.mktemp("raft") / "raft.safetensors", step=(0.1, -0.05))


def frames(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(180, 320), (360, 640), (320, 180)])
def test_the_flow_is_given_in_pixels_of_the_size_in_which_flow_is_measured(weights: Path, size: tuple[int, int]):
    flow = measure_raft_flow(weights, *frames(*size), short_side=144)
    assert flow.shape[:2] == choose_flow_size(*size)[::-1]
    expected = np.array([0.1, -0.05]) * ROUNDS * UP * 128 / 144
    assert flow.mean(axis=(0, 1)) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_the_speed_does_not_depend_on_the_size_that_raft_looks_at_but_by_what_it_finds(weights: Path):
    pictures = frames(180, 320)
    for side in (144, 288):
        found = measure_motion(pictures, [0.0, 0.5], lambda a, b, side=side: measure_raft_flow(weights, a, b, side))
        moved = np.array([0.1, -0.05]) * ROUNDS * UP / side / 0.5
        assert found.magnitude == pytest.approx(np.hypot(*moved), rel=0.02)
        assert (found.pan, found.tilt) == pytest.approx((-moved[0], moved[1]), rel=0.03)


def test_a_tiny_picture_is_enlarged_to_what_raft_can_see(weights: Path):
    assert measure_raft_flow(weights, *frames(24, 32), short_side=128).shape == (128, 171, 2)


def test_a_picture_is_shrunk_by_the_mean_of_its_pixels(weights: Path):
    striped = np.zeros((512, 512, 3), np.uint8)
    striped[:, ::4] = 255
    seen: list[torch.Tensor] = []
    hook = load_raft(weights).register_forward_pre_hook(lambda _, pictures: seen.extend(pictures))
    measure_raft_flow(weights, striped, striped, short_side=128)
    hook.remove()
    assert [picture.shape for picture in seen] == [(1, 3, 128, 128)] * 2
    assert all(torch.allclose(picture, torch.tensor(64 / 127.5 - 1)) for picture in seen)


def test_the_network_is_chosen_by_its_weights(weights: Path):
    assert sum(p.numel() for p in load_raft(weights).parameters()) < 1_000_000


def test_weights_of_something_else_are_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadModel, match=r"other\.safetensors: not the weights of torchvision's RAFT"):
        load_raft(tmp_path / "other.safetensors")
