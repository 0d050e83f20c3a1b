"""A small autoencoder: its shapes, how it begins, that it learns, and latents brought to unit deviation."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from models.svd.autoencoder import (
    decode_clips,
    encode_distribution,
    encode_frames,
    new_autoencoder,
    normalise_latents,
    train_autoencoder,
)
from tasks.footage import Camera, Scene, render_shot


@pytest.fixture
def vae() -> AutoencoderKLTemporalDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_autoencoder((32, 32)).eval()


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    """Four clips [1, 4, 3, 32, 32] in -1..1 of cameras that pan."""
    shots = [render_shot(Scene(seed), Camera.doing("pan_left", 0.5), 4, size=(32, 32)) for seed in range(4)]
    return [torch.from_numpy(shot.copy()).permute(0, 3, 1, 2)[None] / 127.5 - 1 for shot in shots]


@pytest.mark.parametrize(("widths", "side"), [((32,), 32), ((32, 32), 16), ((32, 32, 32), 8)])
def test_each_width_past_the_first_halves_the_sides(widths, side):
    vae, frames = new_autoencoder(widths), torch.zeros(4, 3, 32, 32)
    latents = encode_frames(vae, frames)
    assert latents.shape == (4, 4, side, side)
    assert not latents.requires_grad
    assert decode_clips(vae, latents, 4).shape == frames.shape


def test_encoding_gives_the_middle_of_the_distribution_every_time(vae, clips):
    first, second = (encode_frames(vae, clips[0][0]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, encode_distribution(vae, clips[0][0]).mean)


def test_a_frame_is_encoded_on_its_own(vae, clips):
    together = encode_frames(vae, clips[0][0])
    assert torch.allclose(together[2:3], encode_frames(vae, clips[0][0, 2:3]), atol=1e-5)


def test_training_begins_with_a_narrow_distribution_and_time_left_alone(vae, clips):
    assert encode_distribution(vae, clips[0][0]).std.max() < 0.1
    frames = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vae.decoder.time_conv_out(frames), frames)


def endless_corners(clips: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from (clip[..., :16, :16] for clip in clips)


@pytest.mark.training
def test_it_learns_to_show_what_it_saw(vae, clips):
    told: list[dict[str, float]] = []

    def tell(step: int, facts: dict[str, float]) -> None:
        told.append({"step": step} | facts)

    trained = train_autoencoder(vae, endless_corners(clips), 60, learning_rate=4e-3, ema_decay=0.5, progress=tell)
    assert [fact["step"] for fact in told] == list(range(60))
    assert np.mean([fact["loss"] for fact in told[-4:]]) < 0.6 * np.mean([fact["loss"] for fact in told[:4]])
    assert np.mean([fact["psnr_db"] for fact in told[-4:]]) > np.mean([fact["psnr_db"] for fact in told[:4]]) + 3
    assert not trained.training
    corner = clips[0][0, ..., :16, :16]
    shown = decode_clips(trained, encode_frames(trained, corner), 4).detach()
    blank = corner.mean((0, 2, 3))[None, :, None, None]
    assert (shown - corner).square().mean() < (blank - corner).square().mean(), "better than one colour"
    assert shown.abs().max() < 2, "about -1..1"


def test_normalised_latents_have_unit_deviation_in_each_channel(vae, clips):
    before = torch.cat([encode_frames(vae, clip[0]) for clip in clips])
    assert not torch.allclose(before.std((0, 2, 3)), torch.ones(4), atol=0.05)
    normalise_latents(vae, clips)
    after = torch.cat([encode_frames(vae, clip[0]) for clip in clips])
    assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(after.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_normalising_changes_the_latents_and_not_what_they_stand_for(vae, clips):
    frames, decode_in = clips[0][0], vae.decoder.conv_in
    before, spread = encode_frames(vae, frames), encode_distribution(vae, frames).std.detach()
    seen = decode_in(before).detach()
    deviation = torch.cat([encode_frames(vae, clip[0]) for clip in clips]).std((0, 2, 3))[None, :, None, None]
    normalise_latents(vae, clips)
    after = encode_frames(vae, frames)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(decode_in(after)[inner], seen[inner], atol=1e-4), "zero padding differs at the border only"
    assert torch.allclose(encode_distribution(vae, frames).std, spread / deviation, rtol=1e-3)
