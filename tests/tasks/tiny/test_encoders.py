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
from tasks.manifest import ManifestRef, read_rows
from tasks.tiny import encoders
from tasks.tiny.encoders import (
    FRAMES,
    SIDE,
    STEP,
    EncodersConfig,
    draw_frame_pairs,
    draw_squares,
    load_clips,
    make_scheduler,
    make_unet,
    measure_reconstruction,
    train_encoders,
)
from tasks.tiny.render import RenderConfig, film_scene, render_files, write_dataset
from tests.declared import declared

torch.set_num_threads(1)

RENDER = RenderConfig(scenes=6, scenes_per_file=4, side=64)
CONFIG = EncodersConfig(clips=12, frame_steps=11, clip_steps=2, crop=16, match_steps=2)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ManifestRef]:
    root = tmp_path_factory.mktemp("footage")
    return root, write_dataset.fn(root, render_files.fn(root, RENDER, [0, 4]))


def test_clips_are_the_shots_of_the_dataset_in_order(footage):
    clips = load_clips(footage[0], 12)
    assert (clips.shape, clips.dtype) == ((12, FRAMES, 3, SIDE, SIDE), torch.uint8)
    for scene in range(6):
        true = torch.from_numpy(film_scene(scene, RENDER)[2]).permute(0, 3, 1, 2).float()
        for shown, index in ((true, 2 * scene), (true.flip(0), 2 * scene + 1)):
            away = (clips - shown).abs().mean((1, 2, 3, 4))
            assert away.argmin() == index
            assert away[index] < 8


def test_fewer_clips_are_spread_over_the_dataset(footage):
    every = load_clips(footage[0], 12)
    assert torch.equal(load_clips(footage[0], 4), every[::3])


def test_a_square_is_a_part_of_a_clip_and_the_same_in_each_of_its_frames():
    # Each pixel says where it is: 32 columns of red, 32 rows of green, and the clip with its frame in blue.
    across = torch.arange(SIDE)
    clips = torch.zeros(3, FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
    clips[:, :, 0] = across[None, None, None, :]
    clips[:, :, 1] = across[None, None, :, None]
    clips[:, :, 2] = (torch.arange(3)[:, None] * 10 + torch.arange(FRAMES))[:, :, None, None]
    for batch in islice(draw_squares(clips, CONFIG, batch=5, length=3), 20):
        assert batch.shape == (5, 3, 3, 16, 16)
        places = ((batch + 1) * 127.5).round().int()
        assert (places[:, :, 0].diff(dim=-1) == 1).all()
        assert (places[:, :, 1].diff(dim=-2) == 1).all()
        assert (places[:, :, 2, 0, 0].diff(dim=1) == 1).all()
        assert (places[:, :, :2] == places[:1, :1, :2]).all()


def test_batches_are_the_same_for_the_same_seed():
    clips = torch.randint(
        256, (8, FRAMES, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    first, again, other = (
        next(draw_squares(clips, CONFIG.model_copy(update={"seed": seed}), 2, FRAMES)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


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


def test_the_embedded_model_is_of_the_shape_and_the_noise_levels_that_are_made_here():
    for made, file in ((make_unet(), "unet/config.json"), (make_scheduler(), "scheduler/scheduler_config.json")):
        own = {name: value for name, value in made.config.items() if not name.startswith("_")}
        told = {name: value for name, value in json.loads((TINY / file).read_text()).items() if name[0] != "_"}
        assert json.loads(json.dumps(own)) == told


@pytest.mark.training
def test_the_encoders_end_in_a_model_folder_that_loads_and_is_found_again(footage, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(encoders, "new_autoencoder", lambda: new_autoencoder((32, 32, 32)))
    root, clips = footage
    made = train_encoders.fn(tmp_path, CONFIG, root, clips)
    (row,) = read_rows(made)
    assert len(row["autoencoder_loss"]) == 3
    assert row["autoencoder_loss"][1] < row["autoencoder_loss"][0]
    assert row["autoencoder_psnr_db"] > 0
    assert 0 <= row["image_encoder_matched"] <= 1
    model = load_model(str((tmp_path / row["model"]).parent))
    assert (model.facts.frames, model.facts.width, model.facts.height, model.facts.fps) == (FRAMES, SIDE, SIDE, 7.0)
    assert model.words == {}
    assert model.facts.by_regions == ("zoom_in", "zoom_out", "roll")
    assert sum(p.numel() for p in model.unet.parameters()) < 3e6
    assert train_encoders.fn(tmp_path, CONFIG, root, clips).cached


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EncodersConfig) == {
        "": "frozen=True, extra='forbid'",
        "clips": "1000, ge=8",
        "frame_steps": "1800, ge=1",
        "clip_steps": "400, ge=1",
        "crop": "32, ge=16",
        "match_steps": "200, ge=1",
        "seed": "0, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert train_encoders.name == "encoders"
    assert STEP.files == ("model",)
