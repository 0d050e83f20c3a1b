"""A model of diffusers is found by its name, on this machine alone, and told from others by its content."""

import json
import os
import shutil
from pathlib import Path

import pytest

from models.errors import BadInput, BadModel
from models.weights import hub_cache
from models.weights.names import (
    TINY,
    compute_weights_digest,
    find_model_folder,
    find_revision,
    format_name,
    is_of_hub,
    pin_name,
    shorten_revision,
)
from tests.hub_cache import COMMIT, cached

SVD = "org/svd"
PINNED = f"{SVD}@{COMMIT}"
UNET = "unet/diffusion_pytorch_model.safetensors"
BRINGING = "`hf download org/svd --revision main` downloads"


@pytest.fixture
def snapshot(hub_cache: Path) -> Path:
    """The embedded model as a model of the hub."""
    return cached(hub_cache, TINY, SVD)


def files_read() -> int:
    """How many files were read for their digest in this process."""
    return hub_cache._compute_file_digest.cache_info().misses


def half(folder: Path, file: str) -> None:
    """Weights as a variant in half precision, by their name."""
    path = folder / file
    path.rename(path.with_suffix(".fp16.safetensors"))


def test_a_model_of_the_hub_is_its_snapshot_and_its_commit_and_no_file_of_it_is_read(snapshot: Path):
    before = files_read()
    for name in (PINNED, f"{SVD}@main"):
        assert find_model_folder(name) == snapshot
        assert find_revision(name) == PINNED
        assert pin_name(name) == PINNED
    assert files_read() == before


def test_a_model_that_is_not_in_the_cache_is_named_with_the_command_that_brings_it(hub_cache: Path):
    for find in (find_model_folder, find_revision, pin_name):
        with pytest.raises(BadModel, match=f"org/svd@main: not in Hugging Face's local cache; {BRINGING} it"):
            find(f"{SVD}@main")


@pytest.mark.parametrize(
    ("gone", "said"), [("model_index.json", "model_index.json"), ("vae", "vae"), (UNET, r"unet/\*\.safetensors")]
)
def test_a_model_that_was_brought_in_part_lacks_what_is_named(snapshot: Path, gone: str, said: str):
    path = snapshot / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadModel, match=f"org/svd@main: {said} is missing from the local cache; {BRINGING} it"):
        find_model_folder(f"{SVD}@main")


def test_a_shard_that_is_missing_is_named(snapshot: Path):
    shards = {"weight_map": {"a": "first.safetensors"}}
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(BadModel, match=r"unet/first\.safetensors is missing from the local cache"):
        find_model_folder(PINNED)


def test_half_precision_alone_is_another_content_of_the_same_commit(snapshot: Path):
    half(snapshot, UNET)
    assert find_revision(f"{SVD}@main") == f"{PINNED}+fp16"
    assert pin_name(f"{SVD}@main") == PINNED


def test_a_hub_id_without_a_revision_is_told_how_to_be_pinned(hub_cache: Path):
    with pytest.raises(BadInput, match=r"org/svd: no such folder; .* its revision, org/svd@COMMIT or org/svd@main"):
        find_model_folder(SVD)
    with pytest.raises(BadInput, match=r"models: no model there .*'tiny'"):
        find_model_folder("models")


def test_a_folder_goes_before_a_model_of_the_hub(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "org" / "svd@main")
    assert find_model_folder(f"{SVD}@main") == Path(f"{SVD}@main")
    assert find_revision(f"{SVD}@main") == compute_weights_digest(TINY)
    assert pin_name(f"{SVD}@main") == f"{SVD}@main"


def test_the_embedded_models_digest_is_the_one_that_clips_and_calibrations_name():
    assert find_revision("tiny") == "77c8b4e15b575e355fbe64c4ba850ddd05521b6e1409afb9003ca6afd7fc463b"


def test_the_digest_is_of_what_is_loaded(tmp_path: Path):
    folder = Path(shutil.copytree(TINY, tmp_path / "svd"))
    before = compute_weights_digest(folder)
    shutil.copy(folder / UNET, folder / "svd_xt.safetensors")
    shutil.copy(folder / UNET, (folder / UNET).with_suffix(".fp16.safetensors"))
    (folder / "licence.txt").write_text("Read by nobody.")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    assert compute_weights_digest(folder) == before, (
        "unused variants, single-file checkpoints and other parts do not count"
    )
    (folder / UNET).unlink()
    assert compute_weights_digest(folder) != before, "the variant is loaded now"


def test_a_folders_files_are_read_once_while_they_are_the_same(tmp_path: Path):
    folder = Path(shutil.copytree(TINY, tmp_path / "svd"))
    first, before = find_revision(str(folder)), files_read()
    assert find_revision(str(folder)) == first
    assert files_read() == before
    os.utime(folder / UNET, (1, 1))
    assert find_revision(str(folder)) == first
    assert files_read() == before + 1


def test_a_model_is_told_by_its_own_name_or_its_id():
    assert format_name("/mnt/models/svd", "abc") == "svd"
    assert format_name(PINNED, f"{PINNED}+fp16") == format_name(PINNED, PINNED) == PINNED
    assert format_name("tiny", "abc") == "tiny"
    assert not is_of_hub("svd@2", "abc"), "a folder's own name may look like one of the hub"
    assert (shorten_revision("ab" * 32), shorten_revision(PINNED)) == ("abababababab", PINNED)
