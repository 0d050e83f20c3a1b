import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BlipForConditionalGeneration, CLIPModel

from models.errors import BadModel
from models.weights.hub_cache import (
    find_model,
    list_missing_models,
    load_part,
    locate_model,
    read_weights,
    resolve_name,
)
from tests.hub_cache import COMMIT, cached
from tests.small_models import save_clip, save_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_a_snapshot_is_found_by_its_commit(hub_cache: Path, clip: Path):
    snapshot = cached(hub_cache, clip, "org/clip")
    found = find_model(f"org/clip@{COMMIT}")
    assert found.path == snapshot
    assert found.revision == f"org/clip@{COMMIT}"


def test_a_branch_is_known_by_the_commit_it_stands_for(hub_cache: Path, clip: Path):
    cached(hub_cache, clip, "org/clip")
    assert find_model("org/clip@main").revision == f"org/clip@{COMMIT}"


def test_what_is_not_in_the_cache_is_named_with_the_command_that_brings_it(hub_cache: Path, clip: Path):
    cached(hub_cache, clip, "org/clip")
    for name in ("org/other@main", "org/clip@v2"):
        model, revision = name.split("@")
        with pytest.raises(
            BadModel, match=f"{name}: not in .*`hf download {model} --revision {revision}` downloads it"
        ):
            find_model(name)


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_a_snapshot_that_was_brought_in_part_is_missing(hub_cache: Path, clip: Path, gone: str):
    (cached(hub_cache, clip, "org/clip") / gone).unlink()
    with pytest.raises(BadModel, match=f"{gone}.*hf download org/clip --revision main"):
        find_model("org/clip@main")


def test_pickled_weights_do_not_count(hub_cache: Path, clip: Path):
    snapshot = cached(hub_cache, clip, "org/clip")
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(BadModel, match=r"no model\.safetensors, and other weight formats are not read"):
        find_model("org/clip@main")


def test_every_shard_is_needed(hub_cache: Path, clip: Path):
    snapshot = cached(hub_cache, clip, "org/clip")
    (snapshot / "model.safetensors").rename(snapshot / "model-1.safetensors")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(BadModel, match=r"no model-2\.safetensors"):
        find_model("org/clip@main")


@pytest.mark.parametrize("index", ["[", "[]", '{"weight_map": 1}', "[" * 300 + "]" * 300])
def test_a_damaged_index_of_shards_is_a_sentence(hub_cache: Path, clip: Path, index: str):
    (cached(hub_cache, clip, "org/clip") / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BadModel, match=r"model\.safetensors\.index\.json names no weights .* Copy the model's folder"):
        find_model("org/clip@main")


def test_a_local_folder_is_known_by_its_content_wherever_it_lies(clip: Path, tmp_path: Path):
    copy = Path(shutil.copytree(clip, tmp_path / "elsewhere" / clip.name))
    first = find_model(str(clip)).revision
    assert find_model(str(copy)).revision == first
    (copy / "README.md").write_text("Read by nobody.")
    assert find_model(str(copy)).revision == first
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert find_model(str(copy)).revision != first


def test_a_file_of_weights_is_known_by_its_content(tmp_path: Path):
    path = tmp_path / "head.safetensors"
    revisions = []
    for value in (1, 2):
        save_file({"weight": torch.full((1, 4), float(value))}, path)
        os.utime(path, (value, value))
        revisions.append(find_model(str(path)).revision)
    assert revisions[0] != revisions[1]
    assert all(revision.startswith("head.safetensors:") for revision in revisions)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path):
    (tmp_path / "craft.pth").write_bytes(b"pickled")
    with pytest.raises(BadModel, match=r"craft\.pth: not weights, .*docs/weights\.md"):
        find_model(str(tmp_path / "craft.pth"))
    (tmp_path / "craft.safetensors").write_bytes(b"pickled")
    with pytest.raises(BadModel, match="not a readable safetensors file"):
        read_weights(tmp_path / "craft.safetensors")


def test_names_of_the_hub_stay_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_name("org/clip@main") == "org/clip@main"
    assert resolve_name("craft.safetensors") == "craft.safetensors"
    assert resolve_name("models/clip") == str(tmp_path / "models/clip")
    assert resolve_name("./odd@name") == str(tmp_path / "odd@name")
    with pytest.raises(ValueError, match="must name a model"):
        resolve_name(" ")


def test_a_bare_name_lies_in_the_folder_of_weights():
    assert locate_model("craft.safetensors", Path("/weights")) == "/weights/craft.safetensors"
    assert locate_model("/elsewhere/craft.safetensors", Path("/weights")) == "/elsewhere/craft.safetensors"
    assert locate_model("gpt2@main", Path("/weights")) == "gpt2@main"


def test_everything_missing_is_told_at_once(hub_cache: Path, clip: Path):
    lines = list_missing_models([("a", "org/clip@main"), ("b", str(clip)), ("c", "/nowhere/craft.safetensors")])
    assert [line.split(":")[0] for line in lines] == ["a", "c"]


def test_a_network_is_loaded_in_float32_and_ready_to_run(clip: Path):
    network = load_part(CLIPModel, clip)
    assert not network.training
    assert {(p.dtype, p.requires_grad) for p in network.parameters()} == {(torch.float32, False)}


def test_weights_that_leave_a_part_at_random_are_refused(clip: Path, tmp_path: Path):
    copy = Path(shutil.copytree(clip, tmp_path / "clip"))
    tensors = read_weights(copy / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"lack visual_projection\.weight of CLIPModel"):
        load_part(CLIPModel, copy)
    del tensors["text_projection.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"lack text_projection\.weight and 1 more of CLIPModel"):
        load_part(CLIPModel, copy)


def test_a_model_of_another_kind_is_refused(clip: Path, tmp_path: Path):
    with pytest.raises(BadModel, match="BlipForConditionalGeneration"):
        load_part(BlipForConditionalGeneration, clip)
    with pytest.raises(BadModel, match="cannot load it"):
        load_part(CLIPModel, tmp_path)


def test_code_that_comes_with_a_model_does_not_run(clip: Path, tmp_path: Path):
    copy = Path(shutil.copytree(clip, tmp_path / "clip"))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    from transformers import AutoModel

    with pytest.raises(BadModel):
        load_part(AutoModel, copy)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_is_loaded_as_it_was_saved(tmp_path: Path):
    save_tokenizer(tmp_path)
    tokenizer = load_part(AutoTokenizer, tmp_path, padding_side="left")
    assert tokenizer("a dog")["input_ids"] == [4, 5]
    assert tokenizer.padding_side == "left"
