"""The embedded model's encoders: what they learn from, that they learn, and the folder they end in."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from models.pictures import from_pixels
from models.svd.autoencoder import decode_clips, encode_frames, new_autoencoder
from models.svd.model import load_model
from models.weights.names import TINY
from tasks.manifest import read_rows
from tasks.tiny import encoders
from tasks.tiny.encoders import (
    STEP,
    EncodersConfig,
    draw_clips,
    draw_frame_pairs,
    film_clips,
    make_scheduler,
    make_unet,
    measure_reconstruction,
    train_decoder,
    train_encoders,
    train_on_frames,
)
from tasks.tiny.render import FRAMES, SIDE, RenderConfig, film_scene
from tests.declared import declared

torch.set_num_threads(1)

RENDER = RenderConfig(shots=2)
CONFIG = EncodersConfig(scenes=2, frame_steps=11, frame_batch=1, clip_steps=1, clip_batch=1, match_steps=2)


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "WIDTHS", (32, 32))
    monkeypatch.setattr(encoders, "HELD_SCENES", 1)


def test_clips_are_the_shots_of_the_scenes_in_order():
    clips = film_clips(range(3, 5), RENDER)
    assert (clips.shape, clips.dtype) == ((4, FRAMES, 3, SIDE, SIDE), torch.uint8)
    shots = [shot.frames for number in (3, 4) for shot in film_scene(number, RENDER)]
    assert all(torch.equal(clip, torch.from_numpy(s).permute(0, 3, 1, 2)) for clip, s in zip(clips, shots, strict=True))


def test_a_batch_is_of_consecutive_frames_and_the_same_for_the_same_seed():
    clips = (torch.arange(3)[:, None] * 40 + torch.arange(FRAMES)).to(torch.uint8)
    clips = clips[:, :, None, None, None].expand(3, FRAMES, 3, 2, 2)
    first, again, other = (list(islice(draw_clips(clips, 5, 3, seed), 4)) for seed in (1, 1, 2))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))
    for batch in first:
        assert batch.shape == (5, 3, 3, 2, 2)
        assert (((batch + 1) * 127.5).round()[:, :, 0, 0, 0].diff(dim=1) == 1).all()


def test_a_pair_of_frames_is_of_the_same_shots():
    clips = torch.arange(6, dtype=torch.uint8)[:, None, None, None, None] * 40
    clips = clips.expand(6, FRAMES, 3, SIDE, SIDE)
    first, second = next(draw_frame_pairs(clips, 4, seed=0))
    assert first.shape == (4, 3, 224, 224)
    assert torch.equal(first, second)
    shown = first[:, 0, 0, 0].unique()
    assert len(shown) == 4
    levels = torch.tensor([0, 40, 80, 120, 160, 200])
    assert torch.isclose(shown[:, None], levels / 127.5 * 2 - 2).any(dim=1).all(), "normalised to -2..2"


def test_reconstruction_is_measured_against_the_clips():
    flat = torch.full((1, 2, 3, 16, 16), 128, dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = new_autoencoder((32, 32, 32)).eval()
    untrained = measure_reconstruction(vae, flat)
    with torch.no_grad():
        shown = decode_clips(vae, encode_frames(vae, from_pixels(flat[0])), 2).clamp(-1, 1)
    off = (shown - from_pixels(flat[0])).square().mean().item()
    assert untrained == pytest.approx(10 * math.log10(2**2 / off), abs=1e-3), "black and white are 2 apart"
    assert measure_reconstruction(vae, flat.expand(3, -1, -1, -1, -1)) == pytest.approx(untrained, abs=1e-3)


@pytest.mark.training
def test_latents_are_normal_and_clips_teach_the_decoder_alone():
    clips = film_clips(range(1), RENDER)
    vae = train_on_frames(clips, CONFIG)
    latents = encode_frames(vae, from_pixels(clips.flatten(0, 1)))
    assert latents.std((0, 2, 3)).sub(1).abs().max() < 0.2
    assert latents.mean((0, 2, 3)).abs().max() < 0.2
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    after = dict(train_decoder(vae, clips, CONFIG).named_parameters())
    changed = {name.split(".")[0] for name, p in before.items() if not torch.equal(p, after[name])}
    assert changed == {"decoder"}


def test_the_embedded_model_has_the_noise_levels_that_are_made_here():
    own = {name: value for name, value in make_scheduler().config.items() if not name.startswith("_")}
    told = json.loads((TINY / "scheduler/scheduler_config.json").read_text())
    assert json.loads(json.dumps(own)) == {name: value for name, value in told.items() if name[0] != "_"}


def test_the_unet_is_as_large_as_it_may_be_and_takes_the_autoencoders_latents(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    unet = make_unet()
    assert unet.config["in_channels"] == 2 * encoders.LATENT_CHANNELS
    assert unet.config["sample_size"] * 2 ** (len(encoders.WIDTHS) - 1) == SIDE
    weights = sum(p.numel() for p in [*unet.parameters(), *new_autoencoder(encoders.WIDTHS, 8).parameters()])
    assert 2 * weights < 11e6, "bytes in float16; the image encoder's are half a megabyte"


@pytest.mark.training
def test_the_encoders_end_in_a_model_folder_that_loads_and_is_found_again(tmp_path: Path):
    made = train_encoders.fn(tmp_path, CONFIG, RENDER)
    (row,) = read_rows(made)
    assert len(row["autoencoder_loss"]) == 3
    assert row["autoencoder_loss"][1] < row["autoencoder_loss"][0]
    assert row["autoencoder_psnr_db"] > 0
    assert 0 <= row["image_encoder_matched"] <= 1
    model = load_model(str((tmp_path / row["model"]).parent))
    assert (model.facts.frames, model.facts.width, model.facts.height, model.facts.fps) == (FRAMES, SIDE, SIDE, 7.0)
    assert model.words == {}
    assert model.facts.by_regions == ()
    assert sum(p.numel() for p in model.unet.parameters()) < 3.5e6
    assert train_encoders.fn(tmp_path, CONFIG, RENDER).cached
    assert not train_encoders.fn(tmp_path, CONFIG, RENDER.model_copy(update={"seed": 1})).cached


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EncodersConfig) == {
        "": "frozen=True, extra='forbid'",
        "scenes": "250, ge=2",
        "frame_steps": "4000, ge=1",
        "frame_batch": "4, ge=1",
        "clip_steps": "1000, ge=1",
        "clip_batch": "2, ge=1",
        "match_steps": "200, ge=1",
        "seed": "0, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert train_encoders.name == "encoders"
    assert STEP.files == ("model",)
