"""Windows over time: a denoiser of few frames applied to many, overlapping, and blended at every denoising step.

Each window is denoised as a clip of its own, with its own temporal positions. A frame's value is the weighted mean over
the windows that show it; the weights are triangles, so that a window counts most at its middle and fades to its ends
(MultiDiffusion, arXiv 2302.08113, along time).
"""

import torch
from torch import Tensor

from models.errors import BadInput
from models.svd.edm import Denoiser


def split_windows(frames: int, native: int, overlap: int) -> list[range]:
    """Return the windows of `native` frames that cover `frames`; neighbours share `overlap` frames or, at the end,
    more.

    One window where all frames fit into it. Raises BadInput unless 0 <= overlap < native.
    """
    if not 0 <= overlap < native:
        raise BadInput(
            f"Windows of {native} frames cannot share {overlap} with their neighbours; give 0 to {native - 1}."
        )
    if frames <= native:
        return [range(frames)]
    starts = [*range(0, frames - native, native - overlap), frames - native]
    return [range(start, start + native) for start in starts]


def triangle(length: int) -> Tensor:
    """Return weights [length] that rise evenly from the ends to the middle, all above 0."""
    place = torch.arange(length, dtype=torch.float32)
    return torch.minimum(place, length - 1 - place) + 1


def denoise_in_windows(denoise: Denoiser, native: int, overlap: int) -> Denoiser:
    """Return a denoiser of latents [batch, frames, ...] of any length, from one of `native` frames."""

    def blended(noisy: Tensor, sigma: Tensor) -> Tensor:
        total, weight = torch.zeros_like(noisy), torch.zeros(noisy.shape[1])
        for window in split_windows(noisy.shape[1], native, overlap):
            own = triangle(len(window)).to(noisy)
            here = slice(window.start, window.stop)
            total[:, here] += _shape_over_frames(own, noisy) * denoise(noisy[:, here], sigma)
            weight[here] += own.cpu()
        return total / _shape_over_frames(weight.to(noisy), noisy)

    return blended


def _shape_over_frames(values: Tensor, like: Tensor) -> Tensor:
    """Shape values [frames] to multiply latents [batch, frames, ...]."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))
