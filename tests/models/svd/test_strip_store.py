"""Parked activations come back as they were, and know the statistics of what was written."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.svd.strip_store import Parked

CPU = torch.device("cpu")


def parked(values: Tensor, folder: Path | None = None, strip: int = 2) -> Parked:
    """`values` [frames, channels, height, width], written strip by strip."""
    frames, channels, height, width = values.shape
    place = Parked((frames, channels, height, width), values.dtype, CPU, folder)
    for frame in range(frames):
        for start in range(0, height, strip):
            rows = (start, min(height, start + strip))
            place.write(frame, rows, values[frame : frame + 1, :, rows[0] : rows[1]])
    return place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("in_file", [False, True])
def test_what_is_parked_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, in_file: bool):
    values = torch.randn(3, 4, 5, 6).to(dtype)
    place = parked(values, tmp_path if in_file else None)
    assert torch.equal(place.read(1, (2, 5)), values[1:2, :, 2:5])
    assert torch.equal(place.read_clip((1, 3))[0], values[:, :, 1:3].transpose(0, 1))
    place.close()


def test_the_file_is_never_seen_in_its_folder(tmp_path: Path):
    place = parked(torch.randn(2, 4, 4, 4), tmp_path)
    assert list(tmp_path.iterdir()) == []
    place.close()


@settings(max_examples=25)
@given(strip=st.integers(1, 7), whole_clip=st.booleans(), seed=st.integers(0, 99))
def test_normalisation_equals_torchs_whatever_the_strips(strip: int, whole_clip: bool, seed: int):
    torch.manual_seed(seed)
    values = torch.randn(3, 8, 7, 5) * 3 + 10
    norm = nn.GroupNorm(4, 8, eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        wanted = norm(values.transpose(0, 1)[None])[0].transpose(0, 1) if whole_clip else norm(values)
    scale, shift = parked(values, strip=strip).normalisation(norm, whole_clip)
    assert torch.allclose(values * scale[:, :, None, None] + shift[:, :, None, None], wanted, atol=1e-4)


def test_a_second_writing_forgets_the_first_ones_sums():
    norm = nn.GroupNorm(1, 2, affine=True)
    place = parked(torch.full((1, 2, 2, 2), 100.0))
    place.start()
    place.write(0, (0, 2), torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2))
    scale, shift = place.normalisation(norm, whole_clip=True)
    assert torch.allclose(scale, torch.ones(1, 2), atol=1e-4)
    assert torch.allclose(shift, torch.zeros(1, 2), atol=1e-4)
