"""A clip decoded in strips is the clip decoded whole, at every budget and length."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from models.errors import BadModel
from models.svd.exact_decode import Room, decode_exactly
from models.svd.model import load_model
from models.svd.strip_store import Parked


@cache
def random_autoencoder() -> AutoencoderKLTemporalDecoder:
    """SVD's decoder, narrow, with attention in its middle and weights that make every branch count."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * 3),
        block_out_channels=cast(Any, (32, 64, 64)),
        layers_per_block=2,
    )
    for value in vae.parameters():
        value.data += 0.02 * torch.randn_like(value)
    return vae.eval()


@torch.no_grad()
def whole(vae: AutoencoderKLTemporalDecoder, latents: Tensor) -> Tensor:
    """diffusers' own decoding of all frames together."""
    return cast(Any, vae.decode(cast(Any, latents), num_frames=len(latents))).sample


@pytest.mark.slow
@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("budget", [1, 200_000, 3_000_000, 10**9])
def test_strips_give_what_the_whole_gives(tmp_path: Path, budget: int, in_file: bool):
    vae, latents = random_autoencoder(), torch.randn(5, 4, 6, 10)
    made = decode_exactly(vae, latents, Room(budget, tmp_path if in_file else None))
    truth = whole(vae, latents)
    assert made.shape == truth.shape
    assert (made - truth).abs().max() < 1e-5 * max(1.0, truth.std().item())


def test_cutting_the_clip_into_chunks_of_frames_does_not():
    """The fault that this replaces: the same weights and latents, decoded two frames at a time."""
    vae, latents = random_autoencoder(), torch.randn(6, 4, 6, 10)
    chunks = torch.cat([whole(vae, part) for part in latents.split(2)])
    assert (chunks - whole(vae, latents)).abs().mean() > 0.01 * whole(vae, latents).std()


@pytest.mark.parametrize("frames", [1, 2])
def test_clips_as_short_as_a_picture_are_decoded_too(frames: int):
    vae, latents = random_autoencoder(), torch.randn(frames, 4, 5, 3)
    assert torch.allclose(decode_exactly(vae, latents, Room(100_000)), whole(vae, latents), atol=1e-5)


@pytest.mark.slow
def test_the_embedded_model_is_decoded_exactly():
    model = load_model("tiny")
    latents = torch.randn(8, *model.latent_shape(8, 64, 64)[1:])
    made = decode_exactly(model.vae, latents, Room(500_000))
    assert torch.allclose(made, whole(model.vae, latents), atol=1e-5)


@pytest.mark.slow
def test_no_strip_on_the_device_outgrows_the_budget(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    read, read_clip = Parked.read, Parked.read_clip

    def watched(strip: Tensor) -> Tensor:
        sizes.append(strip.numel() * strip.element_size())
        return strip

    monkeypatch.setattr(Parked, "read", lambda self, *where: watched(read(self, *where)))
    monkeypatch.setattr(Parked, "read_clip", lambda self, *where: watched(read_clip(self, *where)))
    budget = 400_000
    decode_exactly(random_autoencoder(), torch.randn(12, 4, 16, 16), Room(budget))
    # Attention holds one frame's keys and values whole; the result is read back frame by frame.
    frame = 64 * 16 * 16 * 4
    assert max(sizes) <= max(budget, frame)


def test_a_decoder_with_a_layer_that_is_not_known_is_refused():
    vae = deepcopy(random_autoencoder())
    cast(Any, vae.decoder.up_blocks[-1]).resnets[-1] = torch.nn.Identity()
    with pytest.raises(BadModel, match=r"The decoder has a Identity, which cannot be run in strips\."):
        decode_exactly(vae, torch.randn(2, 4, 4, 4), Room(10**9))
