"""A model's card is read from its configuration: what sizes it takes, and how heavy it is."""

import json
import shutil
from pathlib import Path

import pytest
from diffusers import LTXPipeline

from models.errors import BadInput, BadModel
from models.generation.card import read_card
from models.weights.names import TINY
from tests.small_families import ltx_parts, save


def test_the_embedded_models_card():
    card = read_card("tiny")
    assert (card.rules.latent_scale, card.rules.size_unit, card.decoder_width) == (4, 8, 64)
    assert (card.rules.frames, card.rules.width, card.rules.height) == (8, 64, 64)
    assert card.denoiser_bytes == (TINY / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert card.weight_bytes > card.denoiser_bytes


def test_a_folder_without_a_model_and_a_broken_part_are_named(tmp_path: Path):
    with pytest.raises(BadInput, match="no model there"):
        read_card(str(tmp_path))
    shutil.copytree(TINY, tmp_path / "model")
    for content in ("{", json.dumps({}), json.dumps([1])):
        (tmp_path / "model" / "vae" / "config.json").write_text(content)
        with pytest.raises(BadModel, match=r"vae/config\.json: not|not that of Stable Video Diffusion"):
            read_card(str(tmp_path / "model"))


def test_a_card_of_another_family_has_its_rules_and_none_of_its_own_conditions(tmp_path: Path):
    save(lambda: LTXPipeline(**ltx_parts()), tmp_path / "model")
    card = read_card(str(tmp_path / "model"))
    assert (card.family, card.rules.frames_rule) == ("LTX-Video", "8k+1 frames, at least 9, at most 257")
    assert ("text" in card.inputs, "motion bucket" in card.inputs) == (True, False)
    assert (card.facts, card.motion_bucket, card.noise_aug, card.guidance) == (None, None, None, (3.0, 3.0))
    assert 0 < card.denoiser_bytes < card.weight_bytes
    before = card.revision
    path = tmp_path / "model" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert read_card(str(tmp_path / "model")).revision != before, "another vocabulary is another model"
