"""Windows over time cover every frame, and blending them changes nothing where they agree."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.errors import BadInput
from models.svd.windows import denoise_in_windows, split_windows, triangle


@given(st.integers(1, 80), st.integers(1, 25), st.integers(0, 24))
def test_windows_cover_every_frame_in_order_and_are_of_the_models_length(frames, native, overlap):
    overlap = min(overlap, native - 1)
    windows = split_windows(frames, native, overlap)
    assert {frame for window in windows for frame in window} == set(range(frames))
    assert all(len(window) == min(native, frames) for window in windows)
    assert all(len(set(one) & set(other)) >= overlap for one, other in pairwise(windows))
    assert [window.start for window in windows] == sorted({window.start for window in windows})


def test_the_windows_of_a_long_clip_are_these():
    assert split_windows(14, 8, 4) == [range(8), range(4, 12), range(6, 14)]
    assert split_windows(16, 8, 0) == [range(8), range(8, 16)]
    assert split_windows(5, 8, 4) == [range(5)]


def test_windows_that_would_not_move_on_are_refused():
    with pytest.raises(BadInput, match="give 0 to 7"):
        split_windows(20, 8, 8)


def test_weights_are_a_triangle():
    assert triangle(4).tolist() == [1, 2, 2, 1]
    assert triangle(5).tolist() == [1, 2, 3, 2, 1]


def test_a_denoiser_of_single_frames_is_the_same_over_windows():
    noisy = torch.randn(2, 19, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def denoise(latents: Tensor, sigma: Tensor) -> Tensor:
        return latents / (1 + sigma)

    blended = denoise_in_windows(denoise, 8, 4)(noisy, torch.tensor(2.0))
    assert torch.allclose(blended, noisy / 3, atol=1e-6)


def test_where_windows_disagree_the_one_nearer_its_middle_counts_more():
    numbers = iter((0.0, 1.0))
    blended = denoise_in_windows(lambda noisy, _: torch.full_like(noisy, next(numbers)), 8, 4)
    frames = blended(torch.zeros(1, 12, 1, 1, 1), torch.tensor(1.0)).flatten()
    assert frames.tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_a_window_is_denoised_in_its_own_frames():
    seen: list[int] = []

    def denoise(noisy: Tensor, _: Tensor) -> Tensor:
        seen.append(noisy.shape[1])
        return noisy

    denoise_in_windows(denoise, 8, 2)(torch.zeros(1, 30, 1, 1, 1), torch.tensor(1.0))
    assert seen == [8] * 5
