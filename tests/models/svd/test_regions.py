"""A zoom or a roll is told by regions: each hears the word for what a true one shows there."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.errors import BadInput
from models.measures.camera import measure_motion
from models.noise import draw_item_noise, stack_noise
from models.svd.model import Conditions, VideoModel, denoise, load_facts, load_model
from models.svd.regions import PARTS, SLIDING, choose_word, compute_shares, list_words, make_region_contexts
from models.svd.sampling import decode_latents, sample_latents
from models.weights.names import TINY
from tasks.footage import Camera, Scene, render_shot
from tasks.tiny.held_out import render_truth


@pytest.fixture
def knowing(model: VideoModel) -> VideoModel:
    """The small random model, with a word for every part."""
    generator = torch.Generator().manual_seed(3)
    return replace(model, words={name: torch.randn(32, generator=generator) for name in (*PARTS, "static")})


def inputs(model: VideoModel, clips: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures, augmentation = torch.randn(2, clips, 3, 32, 32, generator=generator)
    return pictures.clamp(-1, 1), torch.randn(clips, *model.latent_shape(4, 32, 32), generator=generator), augmentation


@pytest.mark.slow
@pytest.mark.parametrize("motion", SLIDING)
@pytest.mark.parametrize(("row", "column"), [(2, 0), (2, 4), (0, 2), (4, 2)])
def test_each_region_is_told_what_a_true_shot_shows_there(motion, row, column):
    """A fifth of a rendered shot's side, at the middle of each edge, measured as a shot of its own."""
    shot = render_shot(Scene(7, movers=0), Camera.doing(motion, 0.5), 8, 14.0, (640, 640))
    window = shot[:, row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
    seen = measure_motion(window, [i / 14.0 for i in range(8)])
    pan_or_tilt = {
        "pan_left": -seen.pan, "pan_right": seen.pan, "tilt_down": -seen.tilt, "tilt_up": seen.tilt
    }  # fmt: skip
    asked = PARTS[int(compute_shares(motion, 5, 5)[:, row, column].argmax())]
    assert asked == max(pan_or_tilt, key=lambda name: pan_or_tilt[name])


@given(st.sampled_from(list(SLIDING)), st.integers(1, 40), st.integers(1, 40))
def test_shares_add_up_to_one_at_every_place_and_are_fair(motion, height, width):
    own = compute_shares(motion, height, width)
    assert own.shape == (4, height, width)
    assert torch.allclose(own.sum(0), torch.ones(height, width))
    assert own.mean((1, 2)) == pytest.approx(compute_shares(motion, height, width).flip(1, 2).mean((1, 2)))
    assert own[:2].sum() == pytest.approx(float(own[2:].sum()), rel=1e-4) or height != width


def test_in_a_wide_picture_regions_meet_at_right_angles_in_the_middle():
    """The sides are told most of it, since a zoom moves them the most."""
    left, right = (
        compute_shares("zoom_in", 4, 8)[PARTS.index("pan_right")],
        compute_shares("zoom_in", 4, 8)[PARTS.index("pan_left")],
    )
    assert left[:, 0].tolist() == [1.0] * 4
    assert torch.equal(left.flip(1), right)
    assert float(left.sum() + right.sum()) == 24


def test_the_word_of_a_motion_says_how_it_is_told():
    assert choose_word("zoom_in", ("zoom_in",)) == "regions:zoom_in"
    assert choose_word("zoom_in", ()) == "zoom_in"
    assert choose_word(None, ("zoom_in",)) is None
    assert (list_words(None), list_words("static"), list_words("regions:roll")) == ((), ("static",), PARTS)
    with pytest.raises(BadInput, match="regions:pan_left: regions make the camera motions zoom_in, zoom_out, roll"):
        list_words("regions:pan_left")


def test_every_place_is_denoised_as_its_own_word_asks(knowing):
    """At one step what is told elsewhere does not matter: each region is that of a clip that hears one word."""
    pictures, noise, _ = inputs(knowing)
    asked, regions = make_region_contexts(torch.ones(1, 32), knowing.words, ["regions:zoom_out"], (8, 8))
    conditions = Conditions(asked, pictures[:, :1, :8, :8].expand(-1, 4, -1, -1), torch.tensor([[6.0, 85.0, 0.02]]))
    sigma = torch.tensor([2.0])
    with torch.no_grad():
        together = denoise(knowing.unet, noise, sigma, replace(conditions, regions=regions))
        for part, own in zip(PARTS, compute_shares("zoom_out", 8, 8), strict=True):
            context, _ = make_region_contexts(torch.ones(1, 32), knowing.words, [part], (8, 8))
            alone = denoise(knowing.unet, noise, sigma, replace(conditions, context=context))
            assert torch.allclose(together[..., own == 1], alone[..., own == 1], atol=1e-5)
            assert not torch.allclose(together[..., own == 0], alone[..., own == 0], atol=1e-3)


@pytest.mark.slow
def test_clips_of_different_motions_by_regions_share_a_batch(knowing):
    pictures, noise, augmentation = inputs(knowing, clips=2)
    words = ["regions:zoom_in", "regions:roll"]
    both = sample_latents(knowing, pictures, noise, augmentation, words, steps=2)
    for n, word in enumerate(words):
        one = slice(n, n + 1)
        alone = sample_latents(knowing, pictures[one], noise[one], augmentation[one], [word], steps=2)
        assert (both[n] - alone[0]).abs().max() < 1e-4


@pytest.mark.slow
def test_guidance_is_the_same_whether_its_branches_share_a_batch_or_not(knowing):
    given, asked = inputs(knowing), {"steps": 2, "guidance": (1.0, 3.0)}
    apart, together = (
        sample_latents(knowing, *given, ["regions:roll"], guidance_together=both, **asked) for both in (False, True)
    )
    assert (apart - together).abs().max() < 1e-4


@pytest.mark.parametrize("other", [None, "static"])
def test_clips_with_and_without_regions_cannot_share_a_batch(knowing, other):
    with pytest.raises(BadInput, match="with and without regions of motion cannot share a batch"):
        sample_latents(knowing, *inputs(knowing, clips=2), ["regions:roll", other], steps=1)


def test_a_model_that_lacks_a_part_is_said_to(model):
    with pytest.raises(BadInput, match="no word for the camera motion pan_right; it knows: pan_left, static"):
        sample_latents(model, *inputs(model), ["regions:roll"], steps=1)


@pytest.mark.slow
def test_the_embedded_model_zooms_and_rolls_by_regions():
    tiny = load_model("tiny")
    assert set(load_facts(TINY).by_regions) == set(SLIDING)
    pictures = torch.stack(
        [torch.from_numpy(render_truth(201, "static", 0.0, tiny)[0]).permute(2, 0, 1) / 127.5 - 1] * 2
    )
    noise = stack_noise([draw_item_noise(0, "1", 0, tiny.latent_shape(8, 64, 64), (64, 64))] * 2)
    words = [choose_word(motion, tiny.facts.by_regions) for motion in ("zoom_out", "roll")]
    made = sample_latents(tiny, pictures, noise.latents, noise.augmentation, words, steps=6, motion_buckets=[85, 85])
    zoomed, rolled = (measure_motion(decode_latents(tiny, each), [i / 7.0 for i in range(8)]) for each in made)
    assert zoomed.zoom < -0.2, "it becomes smaller"
    assert rolled.motion == "roll"
    assert rolled.roll > 10, "clockwise"
