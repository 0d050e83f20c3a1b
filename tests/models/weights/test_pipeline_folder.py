"""A folder is recognised by the class it names, and loaded whole, from safetensors, without code of its own."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, LTXPipeline
from safetensors.torch import load_file, save_file

from models.errors import BadInput, BadModel
from models.families import animatediff, ltx, svd
from models.families.known import FAMILIES, find_family
from models.families.text_to_picture import load
from models.weights.pipeline_folder import load_pipeline
from tests.small_families import drawing_pipeline, ltx_parts, save

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(picture_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(picture_model, tmp_path / "model"))


def edit_index(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_folder_is_of_the_family_whose_class_it_names(tmp_path: Path) -> None:
    for family in FAMILIES:
        for name in family.PIPELINES:
            (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
            assert find_family(tmp_path)[0] is family


def test_an_unknown_class_is_refused_by_its_name_and_the_known_ones(folder: Path) -> None:
    edit_index(folder, _class_name="MochiPipeline")
    with pytest.raises(BadModel, match="class is MochiPipeline; the known ones are AnimateDiffPipeline, CogVideoX"):
        find_family(folder)


def test_a_folder_without_an_index_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no model there"):
        find_family(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "model_index.json").write_text(text)
        with pytest.raises(BadModel, match="not"):
            find_family(tmp_path)


def test_a_folder_of_another_family_is_refused_by_its_class(folder: Path) -> None:
    with pytest.raises(BadModel, match="its class is StableDiffusionPipeline, not AnimateDiffPipeline"):
        animatediff.load(folder)
    with pytest.raises(BadModel, match="not LTXPipeline or LTXImageToVideoPipeline"):
        ltx.load(folder)


def test_networks_are_frozen_and_ready(folder: Path) -> None:
    pipeline = load(folder)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_weights_that_lack_a_part_are_refused(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    weights = load_file(path)
    weights.pop("conv_in.bias")
    save_file(weights, path)
    with pytest.raises(BadModel, match=r"unet: 1 of the weights .* conv_in\.bias"):
        load(folder)


@pytest.mark.parametrize("make", [drawing_pipeline, lambda: LTXPipeline(**ltx_parts())])
def test_half_precision_is_loaded_where_there_is_nothing_else(make: Callable[[], Any], tmp_path: Path) -> None:
    whole = save(make, tmp_path / "whole")
    half = DiffusionPipeline.from_pretrained(whole, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    files = [path.name for path in (tmp_path / "half").rglob("*.safetensors")]
    assert files
    assert all(".fp16." in name for name in files)
    loaded = load_pipeline({type(half).__name__: type(half)}, tmp_path / "half")
    for name, network in half.components.items():
        if isinstance(network, torch.nn.Module):
            own = loaded.components[name].state_dict()
            assert {weight.dtype for weight in own.values()} == {torch.float32}, name
            assert all(torch.equal(own[key], weight.float()) for key, weight in network.state_dict().items()), name


def test_pickled_weights_are_not_read(folder: Path) -> None:
    path = folder / "vae" / WEIGHTS
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(BadModel, match="vae"):
        load(folder)


def test_a_folders_own_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own:\n    pass\n"
    for place in (folder / "unet" / "own.py", folder / "own.py", folder / "pipeline.py"):
        place.write_text(code)
    for entry in (["own", "Own"], ["diffusers", "Own"], ["subprocess", "Popen"], [None, "Own"]):
        edit_index(folder, unet=entry)
        with pytest.raises(BadModel, match="its part unet is"):
            load(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b"])
def test_a_part_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    edit_index(folder, **{name: ["diffusers", "UNet2DConditionModel"]})
    with pytest.raises(BadModel, match="is not a valid name of a part"):
        load(folder)


def test_a_missing_part_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(BadModel, match="StableDiffusionPipeline cannot load it"):
        load(folder)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="the package that reads it is installed")
def test_a_tokenizer_that_only_an_absent_package_reads_is_refused_by_that_packages_name(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "spiece.model")
    with pytest.raises(BadModel, match=r"tokenizer: .*only a spiece\.model, and sentencepiece"):
        load(folder)


def test_rules_of_a_folder_without_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"config\.json: the file is missing"):
        svd.read_rules(tmp_path)
