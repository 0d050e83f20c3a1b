"""Encoded shots in memory: each is there for each way that it is learned from, and backwards is backwards."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.tiny.shots import load_items, make_batch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two shots of three frames, every number of which says which shot and frame it is of."""
    frames = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]).half()
    ends = torch.tensor([[0.0, 2.0], [10.0, 12.0]]).half()
    parts = {
        "latents": frames[:, :, None, None, None].expand(2, 3, 4, 2, 2).contiguous(),
        "pictures": ends[:, :, None, None, None].expand(2, 2, 4, 2, 2).contiguous(),
        "sigmas": ends / 100,
        "embeddings": ends[:, :, None].expand(2, 2, 5).contiguous(),
    }
    save_file(parts, tmp_path / "a.safetensors")
    return tmp_path


ROWS = [
    {"latents": "a.safetensors", "row": 0, "forwards": "pan_right", "backwards": "pan_left", "flow": 0.5},
    {"latents": "a.safetensors", "row": 1, "forwards": None, "backwards": "roll", "flow": 0.2},
]


def test_there_is_an_item_for_each_way_that_has_a_name(file: Path):
    items = load_items(file, ROWS)
    assert [(item.row, item.reverse, item.motion, item.bucket) for item in items] == [
        (0, False, "pan_right", 85), (0, True, "pan_left", 85), (1, True, "roll", 34)
    ]  # fmt: skip


def test_a_batch_has_the_frames_in_the_order_they_are_shown_and_the_picture_that_begins_them(file: Path):
    there, back, roll = load_items(file, ROWS)
    batch = make_batch([there, back, roll])
    assert batch.latents.shape == (3, 3, 4, 2, 2)
    assert batch.latents.dtype == batch.pictures.dtype == torch.float32
    assert batch.latents[:, :, 0, 0, 0].tolist() == [[0, 1, 2], [2, 1, 0], [12, 11, 10]]
    assert batch.pictures[:, 0, 0, 0].tolist() == [0, 2, 12]
    assert batch.embeddings[:, 0].tolist() == [0, 2, 12]
    assert batch.ids[:, :2].tolist() == [[6, 85], [6, 85], [6, 34]]
    assert batch.ids[:, 2].tolist() == pytest.approx([0, 0.02, 0.12], abs=1e-4)
    assert batch.motions == ["pan_right", "pan_left", "roll"]
