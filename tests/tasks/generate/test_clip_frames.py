"""Frames that wait: parked without loss, mapped and not read, and decoded again where they are gone or damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.errors import BadMedia
from tasks.generate.clip_frames import load_latents, locate_parked, open_parked, park, sweep_parked


@settings(max_examples=20)
@given(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)), st.integers(0, 9))
def test_frames_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], seed: int
):
    frames = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = locate_parked(tmp_path_factory.mktemp("run"), "key")
    park(path, frames)
    back = open_parked(path)
    assert isinstance(back, np.memmap), "mapped, so that memory holds what is looked at alone"
    assert np.array_equal(back, frames)
    assert not back.flags.writeable


def test_there_are_none_where_none_were_parked(tmp_path: Path):
    assert open_parked(locate_parked(tmp_path, "key")) is None


@pytest.mark.parametrize("damage", ["cut", "junk", "objects", "floats", "flat"])
def test_damaged_and_foreign_files_are_no_frames(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    path = locate_parked(tmp_path, "key")
    park(path, np.zeros((2, 8, 8, 3), np.uint8))
    whole = path.read_bytes()
    if damage in ("cut", "junk"):
        path.write_bytes(whole[:-1] if damage == "cut" else b"junk")
    else:
        others = {"objects": np.array([{}], object), "floats": np.zeros((2, 8, 8, 3)), "flat": np.zeros((8, 8), "u1")}
        np.save(path, others[damage], allow_pickle=True)
    assert open_parked(path) is None
    assert "they are decoded again" in caplog.text


def test_what_is_left_is_swept_away(tmp_path: Path):
    park(locate_parked(tmp_path, "key"), np.zeros((2, 8, 8, 3), np.uint8))
    sweep_parked(tmp_path)
    sweep_parked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_latents_that_cannot_be_read_are_named(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(BadMedia, match=r"x\.safetensors: these latents cannot be read"):
        load_latents(tmp_path / "x.safetensors", "")


@pytest.mark.parametrize("damage", ["junk", "nothing", "other values"])
def test_damaged_latents_are_removed_so_that_the_same_command_samples_them_again(tmp_path: Path, damage: str):
    path = tmp_path / "x.safetensors"
    if damage == "other values":
        save_file({"latents": torch.zeros(2, 4, 4, 4)}, path)
    else:
        path.write_bytes(b"junk" if damage == "junk" else b"")
    with pytest.raises(BadMedia, match=r"x\.safetensors: .* removed; the same command samples them again\.$"):
        load_latents(path, "0" * 64)
    assert not path.exists()


def test_latents_that_the_disk_does_not_give_are_left_where_they_are(tmp_path: Path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(BadMedia, match=r"x\.safetensors: these latents cannot be read \(.*\)\. Make the file readable"):
        load_latents(tmp_path / "x.safetensors", "")
    assert (tmp_path / "x.safetensors").exists()
