import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from easyocr.config import detection_models
from safetensors.torch import load_file
from torchvision.models.optical_flow import Raft_Large_Weights

from models.errors import BadModel
from models.weights.conversions import PUBLISHED, make_download_command
from models.weights.hub_cache import find_model


def test_the_addresses_are_those_of_the_libraries_that_publish_the_weights():
    assert PUBLISHED["raft_large.safetensors"] == Raft_Large_Weights.C_T_SKHT_V2.url
    assert PUBLISHED["craft.safetensors"] == detection_models["craft"]["url"]


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_the_command_brings_the_weights_and_makes_them_a_safetensors_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
):
    weights, published = {"layers.0.weight": torch.rand(3, 2).T, "layers.0.bias": torch.rand(2)}, tmp_path / "head.pth"
    torch.save(weights, published)
    if zipped:
        with zipfile.ZipFile(tmp_path / "head.zip", "w") as archive:
            archive.write(published, "head.pth")
        published = tmp_path / "head.zip"
    monkeypatch.setitem(PUBLISHED, "aesthetic.safetensors", published.as_uri())  # pyright: ignore[reportArgumentType]
    target = tmp_path / "Ana's weights" / "aesthetic.safetensors"
    with pytest.raises(BadModel) as missing:
        find_model(str(target))
    command = str(missing.value).split("`")[1]
    assert command == make_download_command(target)
    subprocess.run(["sh", "-c", command], env=os.environ | {"TORCH_HOME": str(tmp_path / "hub")}, check=True)
    made = load_file(target)
    assert {name: torch.equal(made[name], tensor) for name, tensor in weights.items()} == dict.fromkeys(weights, True)
    assert find_model(str(target)).path == target


def test_weights_of_another_name_have_no_command(tmp_path: Path):
    assert make_download_command(tmp_path / "mine.safetensors") is None
    with pytest.raises(BadModel, match=r"docs/weights\.md says how to make it"):
        find_model(str(tmp_path / "mine.safetensors"))
