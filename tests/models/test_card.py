"""A model's card is read from its configuration: what sizes it takes, and how heavy it is."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.card import read_card, rounded_size
from models.errors import BadInput, BadModel
from models.svd import TINY


def test_the_embedded_models_card():
    card = read_card("tiny")
    assert (card.latent_scale, card.multiple, card.decoder_width) == (4, 8, 64)
    assert (card.facts.frames, card.facts.width, card.facts.height) == (8, 64, 64)
    assert card.unet_bytes == (TINY / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert card.weight_bytes > card.unet_bytes


def test_a_folder_without_a_model_and_a_broken_part_are_named(tmp_path: Path):
    with pytest.raises(BadInput, match="no model there"):
        read_card(str(tmp_path))
    shutil.copytree(TINY, tmp_path / "model")
    for content in ("{", json.dumps({}), json.dumps([1])):
        (tmp_path / "model" / "vae" / "config.json").write_text(content)
        with pytest.raises(BadModel, match=r"vae/config\.json: not the configuration"):
            read_card(str(tmp_path / "model"))


def test_sizes_go_to_the_nearest_multiple_and_never_to_nothing():
    assert rounded_size(1024, 576, 64) == (1024, 576)
    assert rounded_size(1000, 600, 64) == (1024, 576)
    assert rounded_size(8, 100, 64) == (64, 128)


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([8, 16, 32, 64]))
def test_a_rounded_size_divides_and_is_near(width: int, height: int, multiple: int):
    for side, rounded in zip((width, height), rounded_size(width, height, multiple), strict=True):
        assert rounded % multiple == 0
        assert rounded >= multiple
        assert abs(rounded - side) <= max(multiple / 2, multiple - side)
