"""Of the files that a network's folder has, those that the libraries load are its weights."""

import json
from pathlib import Path

import pytest

from models.weights.files import find_weights, read_files, weight_bytes

PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x" * len(name))


def found(folder: Path) -> tuple[list[str], str | None]:
    weights = find_weights(folder)
    assert weights is not None
    return [path.name for path in weights.files], weights.variant


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_plain_weights_go_before_the_half_precision_that_lies_beside_them(tmp_path: Path, stem: str):
    put(tmp_path, "config.json", f"{stem}.fp16.safetensors", f"{stem}.bin", f"{stem}.non_ema.safetensors")
    assert found(tmp_path) == ([f"{stem}.fp16.safetensors"], "fp16")
    put(tmp_path, f"{stem}.safetensors")
    assert found(tmp_path) == ([f"{stem}.safetensors"], None)
    assert weight_bytes(tmp_path) == len(f"{stem}.safetensors")


def test_a_folder_without_safetensors_of_a_network_has_no_weights(tmp_path: Path):
    put(tmp_path, "tokenizer.json", "pytorch_model.bin", "svd_xt.safetensors")
    assert find_weights(tmp_path) is None
    assert weight_bytes(tmp_path) == 0


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_an_index_names_the_weights_whether_they_are_there_or_not(tmp_path: Path, variant: str):
    shards = [f"model{variant}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = tmp_path / f"model.safetensors.index{variant}.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}))
    put(tmp_path, shards[0])
    assert found(tmp_path) == (shards, "fp16" if variant else None)
    assert weight_bytes(tmp_path) == len(shards[0])
    index.write_text("[")
    assert found(tmp_path)[0] == []


def test_what_is_read_of_a_part_leaves_out_other_weights_and_their_indexes(tmp_path: Path):
    put(tmp_path, "config.json", "README.md", PLAIN, HALF, "model.onnx", "pytorch_model.bin.index.json")
    put(tmp_path, "diffusion_pytorch_model.safetensors.index.fp16.json", "merges.txt")
    read = read_files(tmp_path, frozenset({".json", ".safetensors", ".txt"}))
    assert [path.name for path in read] == ["config.json", PLAIN, "merges.txt"]
