"""A process holds one model, sees when its files change, and lends it to one sampler at a time."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from diffusers import LTXPipeline

from models.errors import BadInput, BadModel
from models.families.placement import list_networks
from models.generation import model_cache
from models.generation.model_cache import (
    find_svd_folder,
    get_model,
    lent_drawer,
    lent_pipeline,
    model_with_lora,
    unload_drawers,
)
from models.svd.autoencoder import new_autoencoder
from models.svd.image_encoder import new_feature_extractor, new_image_encoder
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, save_lora
from models.svd.model import ModelFacts, VideoModel, load_model, save_model
from models.weights import names
from models.weights.names import compute_weights_digest, find_model_folder
from tasks.tiny.encoders import make_scheduler
from tests.hub_cache import COMMIT, cached
from tests.small_families import drawing_pipeline, ltx_parts, save
from tests.small_svd import make_small_unet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    parts = {"vae": new_autoencoder((32, 32)), "unet": make_small_unet(), "image_encoder": new_image_encoder()}
    facts = ModelFacts.model_validate({"frames": 4, "width": 32, "height": 32})
    rest = {"feature_extractor": new_feature_extractor(), "scheduler": make_scheduler(), "words": {}, "revision": ""}
    save_model(VideoModel(**parts, facts=facts, **rest), folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.mark.slow
def test_a_model_is_loaded_once_while_its_files_stay(folder: Path):
    assert get_model(str(folder)) is get_model(str(folder))


@pytest.mark.slow
def test_a_model_whose_files_changed_is_loaded_again(folder: Path):
    before = get_model(str(folder))
    (folder / "reelmill.json").write_text('{"frames": 6, "width": 32, "height": 32}')
    after = get_model(str(folder))
    assert (before.facts.frames, after.facts.frames) == (4, 6)


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=f"{tmp_path}: no model there"):
        get_model(str(tmp_path))


def test_tiny_is_the_embedded_model(folder: Path, monkeypatch):
    monkeypatch.setattr(names, "TINY", folder)
    assert find_svd_folder("tiny") == folder
    assert find_svd_folder(str(folder)) == folder


@pytest.mark.slow
def test_a_lora_is_on_the_model_for_the_block_only(folder: Path, tmp_path: Path):
    unet = load_model(str(folder)).unet
    add_lora(unet, rank=2, alpha=2.0)
    save_lora(tmp_path / "l.safetensors", read_lora_weights(unet), LoraFacts(2, 2.0, {}))
    names = set(get_model(str(folder)).unet.state_dict())
    for _ in range(2):
        with model_with_lora(str(folder), tmp_path / "l.safetensors") as model:
            assert any("lora_A" in name for name in model.unet.state_dict())
        assert set(get_model(str(folder)).unet.state_dict()) == names


def test_a_fault_in_the_block_still_takes_the_lora_off_and_frees_the_model(folder: Path):
    with pytest.raises(RuntimeError, match="fault"), model_with_lora(str(folder), None):
        raise RuntimeError("fault")
    with model_with_lora(str(folder), None) as model:
        assert isinstance(model.unet.conv_in, torch.nn.Conv2d)


def test_two_samplers_take_turns(folder: Path):
    inside, most = 0, 0

    def sample() -> None:
        nonlocal inside, most
        for _ in range(20):
            with model_with_lora(str(folder), None):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=sample) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_model_of_another_family_is_not_taken_for_stable_video_diffusions(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(BadModel, match="a model of Wan; `reelmill generate` samples it, but it cannot be trained"):
        find_svd_folder(str(tmp_path))
    assert find_model_folder(str(tmp_path)) == tmp_path
    (tmp_path / "model_index.json").write_text('{"_class_name": "MochiPipeline"}')
    with pytest.raises(BadModel, match="its pipeline class is MochiPipeline; the known ones are"):
        find_svd_folder(str(tmp_path))


def test_a_pipeline_is_lent_with_its_family_loaded_once_and_again_when_its_files_changed(tmp_path: Path):
    folder = save(lambda: LTXPipeline(**ltx_parts()), tmp_path / "model")
    with lent_pipeline(str(folder)) as first, pytest.raises(AttributeError):
        assert (first.family.NAME, first.revision) == ("LTX-Video", compute_weights_digest(folder))
        first.pipeline.no_such_part()
    with lent_pipeline(str(folder)) as again:
        assert again.pipeline is first.pipeline
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    with lent_pipeline(str(folder)) as changed:
        assert changed.revision != first.revision


@pytest.mark.slow
def test_a_model_of_the_hub_is_loaded_by_its_name_and_has_its_commit_as_revision(
    folder: Path, hub_cache: Path, tmp_path: Path
):
    name, pinned = "org/model@main", f"org/model@{COMMIT}"
    cached(hub_cache, folder, "org/model")
    assert get_model(name).revision == pinned
    assert get_model(name) is get_model(name)
    shutil.rmtree(hub_cache)
    cached(hub_cache, save(lambda: LTXPipeline(**ltx_parts()), tmp_path / "ltx"), "org/model")
    with lent_pipeline(name) as lent:
        assert (lent.family.NAME, lent.revision) == ("LTX-Video", pinned)
    with pytest.raises(BadModel, match="org/model@main: a model of LTX-Video; `reelmill generate` samples it"):
        find_svd_folder(name)


def test_a_drawer_that_is_not_the_one_that_was_planned_is_refused(tmp_path: Path):
    folder = save(drawing_pipeline, tmp_path / "drawer")
    with lent_drawer(str(folder), compute_weights_digest(folder)) as pipeline:
        assert type(pipeline).__name__ == "StableDiffusionPipeline"
    with pytest.raises(BadModel, match="files changed"), lent_drawer(str(folder), "other"):
        pass


def test_drawers_leave_the_card_whole_and_wait_for_one_that_is_at_work(tmp_path: Path, monkeypatch):
    moved: dict[int, torch.device] = {}
    monkeypatch.setattr(model_cache, "move", lambda parts, device: moved.update({id(part): device for part in parts}))
    folder = save(drawing_pipeline, tmp_path / "drawer")
    with lent_drawer(str(folder), compute_weights_digest(folder)) as pipeline:
        leaving = threading.Thread(target=unload_drawers)
        leaving.start()
        leaving.join(0.2)
        assert (leaving.is_alive(), moved) == (True, {})
    leaving.join()
    assert {moved.get(id(part)) for part in list_networks(pipeline).values()} == {torch.device("cpu")}
