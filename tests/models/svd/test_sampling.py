"""Sampling: an item's latents are its own, guidance rises over the frames, and diffusers' own pipeline agrees."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from PIL import Image
from torch import Tensor

from models.errors import BadInput, BadModel
from models.noise import Noise, draw_item_noise, stack_noise
from models.svd.autoencoder import encode_frames
from models.svd.edm import euler, karras_sigmas
from models.svd.inference_unet import work_in_place
from models.svd.model import Conditions, VideoModel, embed_pictures, load_model, make_context, read_setting
from models.svd.sampling import decode_latents, guide, sample_latents
from models.svd.windows import denoise_in_windows
from models.weights.names import TINY
from tasks.footage import Camera, Scene, render_shot

DIFFUSERS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


@pytest.fixture(scope="module")
def tiny() -> VideoModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Three different pictures [3, 3, 32, 32] in -1..1."""
    frames = [render_shot(Scene(seed, movers=1), Camera(), 1, size=(32, 32))[0] for seed in range(3)]
    return torch.stack([to_tensor(frame) for frame in frames])


def to_tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1) / 127.5 - 1


def noises(model: VideoModel, count: int, seed: int = 0) -> list[Noise]:
    return [draw_item_noise(seed, f"item-{n}", 0, model.latent_shape(4, 32, 32), (32, 32)) for n in range(count)]


def sample(model: VideoModel, pictures: Tensor, items: list[Noise], motion: str | None = None, **asked: Any) -> Tensor:
    noise = stack_noise(items)
    motions = [motion] * len(items)
    settings: dict[str, Any] = {"steps": 2} | asked
    return sample_latents(model, pictures, noise.latents, noise.augmentation, motions, **settings)


@pytest.mark.slow
def test_an_items_latents_are_the_same_in_a_batch_and_alone(model, pictures):
    items = noises(model, 3)
    together = sample(model, pictures, items, motion_buckets=[0, 127, 255])
    assert together.shape == (3, 4, 4, 8, 8)
    for n, bucket in enumerate((0, 127, 255)):
        alone = sample(model, pictures[n : n + 1], items[n : n + 1], motion_buckets=[bucket])
        assert (together[n] - alone[0]).abs().max() < 1e-4
    backwards = sample(model, pictures.flip(0), items[::-1], motion_buckets=[255, 127, 0])
    assert (together - backwards.flip(0)).abs().max() < 1e-4


def test_the_same_batch_gives_the_same_bits(model, pictures):
    first, second = (sample(model, pictures, noises(model, 3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_sampling_draws_no_noise_of_its_own(model, pictures):
    torch.manual_seed(0)
    first = sample(model, pictures[:1], noises(model, 1))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first, sample(model, pictures[:1], noises(model, 1)))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [{"fps": 24.0}, {"motion_buckets": [255]}, {"noise_aug": 0.5}, {"motion": "static"}, {"steps": 3}]
)
def test_what_is_asked_changes_the_clip(model, pictures, asked):
    plain = sample(model, pictures[:1], noises(model, 1))
    assert not torch.equal(plain, sample(model, pictures[:1], noises(model, 1), **asked))


def test_another_seed_and_another_picture_give_another_clip(model, pictures):
    plain = sample(model, pictures[:1], noises(model, 1))
    assert not torch.allclose(plain, sample(model, pictures[:1], noises(model, 1, seed=1)), atol=1e-2)
    assert not torch.allclose(plain, sample(model, pictures[1:2], noises(model, 1)), atol=1e-4)


def test_what_is_not_asked_is_as_in_the_models_facts(model, pictures):
    facts = {"fps": 7.0, "motion_buckets": [127], "guidance": (1.0, 2.0), "noise_aug": 0.02}
    told = sample(model, pictures[:1], noises(model, 1), **facts)
    assert torch.equal(told, sample(model, pictures[:1], noises(model, 1)))


def test_guidance_rises_linearly_over_the_frames(model, pictures):
    """One step goes straight to the denoised latents, and these are free + strength * (wanted - free)."""
    free, wanted, rising = (
        sample(model, pictures[:1], noises(model, 1), "static", steps=1, guidance=strength)
        for strength in ((0.0, 0.0), (1.0, 1.0), (1.0, 4.0))
    )
    strength = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, :, None, None, None]
    assert (wanted - free).abs().max() > 1e-2
    assert torch.allclose(rising, free + strength * (wanted - free), atol=1e-3)
    assert torch.allclose(rising[:, 0], wanted[:, 0], atol=1e-4), "the first frame is not guided"


def test_clips_with_and_without_a_word_cannot_share_a_batch(model, pictures):
    noise = stack_noise(noises(model, 2))
    with pytest.raises(BadInput, match="cannot share a batch"):
        sample_latents(model, pictures[:2], noise.latents, noise.augmentation, ["static", None], steps=1)
    with pytest.raises(BadInput, match=r"no word for the camera motion roll; it knows: pan_left, static\."):
        sample(model, pictures[:1], noises(model, 1), "roll")


@pytest.mark.parametrize(
    ("size", "noise", "message"),
    [
        ((36, 32), (1, 4, 4, 9, 8), r"Pictures of 32x36 do not fit the model: use sides that are multiples of 8\."),
        ((32, 32), (1, 4, 4, 16, 16), r"1 pictures of 32x32 need latent noise of \[1, 4, 4, 8, 8\]"),
        ((32, 32), (2, 4, 4, 8, 8), r"not \[2, 4, 4, 8, 8\]"),
        ((32, 32), (1, 4, 3, 8, 8), r"not \[1, 4, 3, 8, 8\]"),
    ],
)
def test_pictures_and_noise_that_do_not_belong_together_are_refused(model, size, noise, message):
    picture = torch.zeros(1, 3, *size)
    with pytest.raises(BadInput, match=message):
        sample_latents(model, picture, torch.zeros(noise), torch.zeros_like(picture), [None], steps=1)


def test_a_larger_picture_and_more_frames_than_the_models_own_are_sampled(model):
    picture = torch.zeros(1, 3, 48, 64)
    noise = torch.randn(1, 6, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    latents = sample_latents(model, picture, noise, torch.zeros_like(picture), [None], steps=1)
    assert latents.shape == noise.shape
    assert latents.isfinite().all()


def test_a_decoder_whose_weights_are_damaged_is_named_as_likely_and_makes_no_black_frames(model):
    damaged = replace(model, vae=deepcopy(model.vae))
    with torch.no_grad():
        next(damaged.vae.decoder.parameters()).fill_(float("nan"))
    said = "The decoded pictures are not finite numbers: the weights of the model or the LoRA are probably damaged"
    with pytest.raises(BadModel, match=said):
        decode_latents(damaged, torch.zeros(3, 4, 8, 8))


def test_latents_become_frames(model):
    frames = decode_latents(model, torch.zeros(3, 4, 8, 8))
    assert (frames.shape, frames.dtype) == ((3, 32, 32, 3), np.uint8)


def test_the_embedded_model_keeps_a_picture_through_its_latents(tiny):
    shot = render_shot(Scene(10_000_001, movers=0), Camera(), 8, size=(64, 64))
    latents = encode_frames(tiny.vae, torch.stack([to_tensor(frame) for frame in shot]))
    shown = decode_latents(tiny, latents * read_setting(tiny.vae, "scaling_factor")).astype(float)
    assert 10 * np.log10(255**2 / np.square(shown - shot).mean()) > 22


@DIFFUSERS_WARNS
def test_diffusers_own_pipeline_loads_the_embedded_model_and_runs():
    pipeline = StableVideoDiffusionPipeline.from_pretrained(TINY, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    frame = render_shot(Scene(10_000_002, movers=0), Camera(), 1, size=(64, 64))[0]
    picture = Image.fromarray(np.ascontiguousarray(frame))
    generator = torch.Generator().manual_seed(0)
    made = pipeline(
        picture, 64, 64, num_frames=8, num_inference_steps=2, max_guidance_scale=1.0, generator=generator,
        output_type="np",
    )  # fmt: skip
    frames = np.asarray(made.frames[0])  # pyright: ignore[reportAttributeAccessIssue]
    assert frames.shape == (8, 64, 64, 3)
    assert np.isfinite(frames).all()
    assert frames.std() > 0.01


@pytest.mark.slow
@DIFFUSERS_WARNS
@pytest.mark.parametrize(("guidance", "sigma_max"), [((1.0, 1.0), 80.0), ((1.0, 3.0), 80.0), ((1.0, 3.0), 1.0)])
def test_diffusers_own_pipeline_makes_the_same_latents(tiny, guidance, sigma_max):
    """For a picture of one colour, which the two ways to shrink a picture for the image encoder leave the same."""
    scheduler = EulerDiscreteScheduler.from_config(tiny.scheduler.config, sigma_max=sigma_max)
    tiny = replace(tiny, scheduler=scheduler)
    pipeline = StableVideoDiffusionPipeline(
        tiny.vae, tiny.image_encoder, tiny.unet, tiny.scheduler, tiny.feature_extractor
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = draw_item_noise(0, "item", 0, tiny.latent_shape(8, 64, 64), (64, 64)).latents[None]
    colour = (200, 60, 20)
    theirs = pipeline(
        Image.new("RGB", (64, 64), colour), 64, 64, num_frames=8, num_inference_steps=4, fps=7, motion_bucket_id=85,
        min_guidance_scale=guidance[0], max_guidance_scale=guidance[1], noise_aug_strength=0.0, latents=noise.clone(),
        output_type="latent",
    ).frames  # fmt: skip  # pyright: ignore[reportAttributeAccessIssue]
    picture = to_tensor(np.full((64, 64, 3), colour, dtype=np.uint8))[None]
    ours = sample_latents(
        tiny, picture, noise, torch.zeros_like(picture), [None], steps=4, guidance=guidance, noise_aug=0.0
    )
    assert isinstance(theirs, Tensor)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.slow
def test_as_many_frames_as_the_model_makes_at_once_are_made_in_one_go_to_the_bit(model):
    model = replace(model, facts=model.facts.model_copy(update={"frames": 5}))
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(1, *model.latent_shape(5, 32, 32), generator=generator)
    made = sample_latents(model, pictures, noise, pictures, [None], steps=2, noise_aug=0.0)
    conditions = Conditions(
        make_context(embed_pictures(model, pictures), model.words, [None]),
        encode_frames(model.vae, pictures),
        torch.tensor([[model.facts.fps - 1, model.facts.motion_bucket, 0.0]]),
    )
    sigmas = karras_sigmas(2, read_setting(model.scheduler, "sigma_min"), read_setting(model.scheduler, "sigma_max"))
    with torch.no_grad(), work_in_place(model.unet):
        whole = euler(guide(model, conditions, model.facts.guidance), noise * (sigmas[0] ** 2 + 1).sqrt(), sigmas)
    assert torch.equal(made, whole)


@pytest.mark.slow
def test_more_frames_than_the_model_makes_at_once_are_made_in_windows(model):
    frames = 2 * model.facts.frames + 1
    height, width = model.facts.height, model.facts.width
    pictures = torch.rand(1, 3, height, width) * 2 - 1
    noise = torch.randn(1, *model.latent_shape(frames, height, width))
    made = sample_latents(model, pictures, noise, torch.randn_like(pictures), ["pan_left"], steps=3)
    conditions = Conditions(
        make_context(embed_pictures(model, pictures), model.words, ["pan_left"]),
        encode_frames(model.vae, pictures),
        torch.tensor([[model.facts.fps - 1, model.facts.motion_bucket, 0.0]]),
    )
    blended = denoise_in_windows(
        guide(model, conditions, model.facts.guidance), model.facts.frames, model.facts.frames // 2
    )
    sigmas = karras_sigmas(3, read_setting(model.scheduler, "sigma_min"), read_setting(model.scheduler, "sigma_max"))
    windows = euler(blended, noise * (sigmas[0] ** 2 + 1).sqrt(), sigmas)
    again = sample_latents(model, pictures, noise, torch.zeros_like(pictures), ["pan_left"], steps=3, noise_aug=0.0)
    assert made.shape == noise.shape
    assert torch.allclose(windows, again, atol=1e-5)


def test_a_clip_goes_on_from_a_latent_as_from_the_picture_that_it_is_of(model, pictures):
    items = noises(model, 3)
    usual = sample(model, pictures, items, noise_aug=0.0)
    latents = encode_frames(model.vae, pictures) * read_setting(model.vae, "scaling_factor")
    assert torch.allclose(sample(model, pictures, items, noise_aug=0.0, going_on=latents), usual, atol=1e-5)
    assert (sample(model, pictures, items, noise_aug=0.0, going_on=latents.flip(0)) - usual).abs().max() > 1e-3
