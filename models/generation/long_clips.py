"""Clips longer than a model makes at once, in one of two ways: windows over time, or a chain of hops.

Windows share the picture and are blended at every step (models/svd/windows.py): one motion throughout, and every window
is pulled towards the picture. A chain makes one clip after another, each from the last latent of the one before: the
camera can move on, and faults add up. The chain keeps the picture as its anchor: every hop gets the picture's
embedding, and the mean and deviation of each latent channel are set to those of the first hop.

The meters choose how many hops a chain makes: it ends where the clip stops being good.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.measures.meters import LIMITS, Limits, count_good_frames, measure_meters
from models.memory.plan import Offload
from models.memory.planner import decode_in_fixed_strips
from models.svd.model import VideoModel

Way = Literal["windows", "chain"]

Hop = Callable[[Tensor, Tensor | None], Tensor]
"""Makes latents [1, frames, channels, h, w] of as many frames as the given noise has. The other tensor is the latent to
continue from, [1, channels, h, w], or None for the picture itself."""

GoodFrames = Callable[[Tensor], int]
"""Counts the good frames of latents [1, frames, channels, h, w]."""


def sample_chain(hop: Hop, noise: Tensor, native: int, good_frames: GoodFrames) -> Tensor:
    """Sample latents [1, frames, channels, h, w] of at most as many frames as `noise` has, in hops of `native`.

    A hop's first frame is the last one of the hop before, and is left out. The chain is cut where its frames stop being
    good, but never shorter than one hop.
    """
    made = first = hop(noise[:, :native], None)
    while (good := good_frames(made)) == made.shape[1] < noise.shape[1]:
        own = noise[:, made.shape[1] - 1 :][:, :native]
        made = torch.cat([made, match_statistics(hop(own, made[:, -1]), first)[:, 1:]], dim=1)
    return made[:, : max(good, native)]


def make_judge(
    model: VideoModel,
    picture: NDArray[np.uint8],
    parking: Path | None,
    offload: Offload = "none",
    limits: Limits = LIMITS,
) -> GoodFrames:
    """Make the judge for `chained`, which counts the good frames of a clip of `picture` [height, width, 3].

    It works on the model's device, and decodes in the same way whatever memory is free, so that a clip's length never
    depends on that.
    """

    def good_frames(latents: Tensor) -> int:
        frames = decode_in_fixed_strips(model, latents[0], parking, offload)
        return count_good_frames(measure_meters(frames, picture), limits).frames

    return good_frames


def match_statistics(latents: Tensor, to: Tensor) -> Tensor:
    """Give each channel of latents [batch, frames, channels, h, w] the mean and deviation that it has in `to`."""
    over = (1, 3, 4)
    mean, deviation = latents.mean(over, keepdim=True), latents.std(over, keepdim=True)
    return (latents - mean) / deviation.clamp(min=1e-6) * to.std(over, keepdim=True) + to.mean(over, keepdim=True)
