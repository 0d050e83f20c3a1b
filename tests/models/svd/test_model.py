"""A model's folder: what is saved is what is loaded, and what is broken is refused; how a clip is conditioned."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import BadInput, BadModel
from models.svd.model import (
    PARTS,
    Conditions,
    ModelFacts,
    VideoModel,
    denoise,
    digest_encoders,
    embed_pictures,
    load_facts,
    load_model,
    load_words,
    make_context,
    motion_bucket,
    save_model,
)
from models.weights.names import TINY, compute_weights_digest
from models.weights.network import load_part
from tasks.footage import Camera, Scene, render_shot
from tests.declared import declared

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
}


@pytest.fixture
def folder(model: VideoModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_model_is_loaded_bit_for_bit(model, folder):
    loaded = load_model(str(folder))
    assert all(same_weights(getattr(model, part), getattr(loaded, part)) for part in PARTS)
    assert loaded.words.keys() == model.words.keys()
    assert all(torch.equal(loaded.words[name], model.words[name]) for name in model.words)
    assert loaded.facts == model.facts
    assert loaded.scheduler.config["sigma_max"] == 80.0
    assert not any(getattr(loaded, part).training for part in PARTS)


def test_a_model_in_half_precision_takes_half_the_space_and_loads_as_float32(model, folder, tmp_path):
    before = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
    save_model(model, tmp_path / "half", half=True)
    assert all(torch.equal(weight, before[name]) for name, weight in model.unet.state_dict().items()), (
        "saving does not round the model in memory"
    )
    sizes = [(place / "unet" / FILES["unet"]).stat().st_size for place in (tmp_path / "half", folder)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.1)
    loaded = load_model(str(tmp_path / "half"))
    assert all(p.dtype == torch.float32 for part in PARTS for p in getattr(loaded, part).parameters())
    assert all(torch.equal(weight, before[name].half().float()) for name, weight in loaded.unet.state_dict().items())


def in_half_precision_alone(model: VideoModel, folder: Path, keep_plain: bool = False) -> None:
    """The networks of a model's folder as they are published in half precision, beside the plain ones or instead."""
    for part in PARTS:
        network = copy.deepcopy(getattr(model, part))
        nn.Module.to(network, torch.float16)
        network.save_pretrained(folder / part, variant="fp16")
        if not keep_plain:
            (folder / part / FILES[part]).unlink()


@pytest.mark.slow
def test_half_precision_is_loaded_where_there_is_nothing_else(model, folder):
    in_half_precision_alone(model, folder)
    assert not list(folder.glob("*/*model.safetensors"))
    loaded = load_model(str(folder))
    for part in PARTS:
        before, after = getattr(model, part).state_dict(), getattr(loaded, part).state_dict()
        assert all(torch.equal(after[name], before[name].half().float()) for name in before), part
    assert load_model(str(folder), torch.float16).unet.dtype == torch.float16


@pytest.mark.slow
def test_plain_weights_are_loaded_where_half_precision_lies_beside_them(model, folder):
    in_half_precision_alone(model, folder, keep_plain=True)
    loaded = load_model(str(folder))
    assert all(same_weights(getattr(model, part), getattr(loaded, part)) for part in PARTS)


def test_half_precision_that_lacks_a_weight_is_refused(model, folder):
    in_half_precision_alone(model, folder)
    forget_a_weight(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(BadModel, match="unet: 1 of the weights are missing"):
        load_model(str(folder))


@pytest.mark.slow
def test_the_digest_is_of_the_weights_and_not_of_the_place(folder, tmp_path):
    save_model(load_model(str(folder)), tmp_path / "elsewhere" / "copy")
    assert compute_weights_digest(tmp_path / "elsewhere" / "copy") == compute_weights_digest(folder)
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "elsewhere").rglob("*.json"))
    assert load_model(str(folder)).revision == compute_weights_digest(folder)


def test_the_digest_changes_with_a_weight_and_not_with_what_is_said_about_it(folder):
    before = compute_weights_digest(folder)
    (folder / "reelmill.json").write_text("{}")
    (folder / "eval.json").write_text("{}")
    (folder / "README.md").write_text("A model.")
    assert compute_weights_digest(folder) == before
    path = folder / "vae" / FILES["vae"]
    weights = load_file(path)
    weights[min(weights)].view(-1)[0] += 1e-3
    save_file(weights, path)
    assert compute_weights_digest(folder) != before


def test_the_encoders_digest_is_that_of_what_latents_depend_on(model):
    before = digest_encoders(model)
    with torch.no_grad():
        next(model.unet.parameters()).add_(1)
    assert digest_encoders(model) == before
    with torch.no_grad():
        next(model.vae.parameters()).add_(1e-3)
    assert digest_encoders(model) != before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickle(path: Path) -> None:
    torch.save(load_file(path), path.with_name({"model": "pytorch_model"}.get(path.stem, path.stem) + ".bin"))
    path.unlink()


def forget_a_weight(path: Path) -> None:
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path, metadata={"format": "pt"})


def shrink_a_weight(path: Path) -> None:
    weights = load_file(path)
    save_file(weights | {min(weights): torch.zeros(7)}, path, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("harm", [cut, pickle, forget_a_weight, shrink_a_weight, Path.unlink])
def test_weights_that_are_not_whole_are_refused(folder: Path, part: str, harm: Callable[[Path], None]):
    harm(folder / part / FILES[part])
    with pytest.raises(BadModel) as refused:
        load_model(str(folder))
    message = str(refused.value)
    assert message.startswith(f"{folder}/{part}: ")
    assert message.endswith(". Copy the folder again.")
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("file", [f"{part}/config.json" for part in PARTS])
def test_a_part_without_its_configuration_is_refused(folder, file):
    (folder / file).unlink()
    with pytest.raises(BadModel, match=r"config.json is missing"):
        load_model(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("scheduler/scheduler_config.json", "[", "not JSON"),
        ("scheduler/scheduler_config.json", '{"a": ' + "[" * 500 + "]" * 500 + "}", "levels deep"),
        ("reelmill.json", '{"frames": "many"}', "valid integer"),
        ("motion_words.safetensors", "x" * 40, "motion words cannot be read"),
    ],
)
def test_other_broken_files_are_refused_in_one_line(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(BadModel, match=message) as refused:
        load_model(str(folder))
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no model there"):
        load_model(str(tmp_path))


def test_a_part_of_another_kind_is_refused(folder):
    with pytest.raises(BadModel, match="weights"):
        load_part(AutoencoderKLTemporalDecoder, folder / "unet")


def test_a_model_without_facts_of_its_own_has_those_of_stable_video_diffusion(folder):
    (folder / "reelmill.json").unlink()
    (folder / "motion_words.safetensors").unlink()
    facts = load_facts(folder)
    assert (facts.frames, facts.fps, facts.motion_bucket, facts.noise_aug) == (4, 7.0, 127, 0.02)
    assert facts.guidance == (1.0, 3.0)
    assert load_words(folder) == {}


def test_the_embedded_model_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 12e6
    model = load_model("tiny")
    assert model.latent_scale == 4
    assert model.latent_shape(8, 64, 64) == (8, 4, 16, 16)
    assert model.facts.lineage["dataset"] == "footage"
    assert {"static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out"} <= set(model.words)
    assert not any(json.loads(path.read_text()).get("_name_or_path") for path in TINY.rglob("config.json"))


def test_the_model_card_tells_the_true_number_of_weights():
    card, model = (TINY / "README.md").read_text(encoding="utf-8"), load_model("tiny")
    for part in PARTS:
        count = sum(weight.numel() for weight in getattr(model, part).parameters())
        assert f"{count:,}" in card, part


@pytest.mark.parametrize(("score", "bucket"), [(0.0, 0), (0.5, 85), (0.75, 128), (1.5, 255), (9.0, 255)])
def test_motion_buckets_grow_with_the_flow_and_stay_in_range(score, bucket):
    assert motion_bucket(score) == bucket


def test_the_unconditional_branch_knows_no_picture_and_no_word():
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
    dropped = Conditions(torch.ones(2, 2, 32), torch.ones(2, 4, 8, 8), ids).dropped()
    assert dropped.context.shape == (2, 1, 32)
    assert not dropped.context.any()
    assert not dropped.picture.any()
    assert torch.equal(dropped.ids, ids)


def test_a_word_is_a_second_token_of_the_context(model):
    embeddings = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make_context(embeddings, model.words, [None, None]), embeddings[:, None])
    context = make_context(embeddings, model.words, ["static", "pan_left"])
    assert torch.equal(context[:, 0], embeddings)
    assert torch.equal(context[:, 1], torch.stack([model.words["static"], model.words["pan_left"]]))


def test_without_noise_the_denoised_latents_are_the_latents(model):
    latents = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditions = Conditions(torch.zeros(1, 1, 32), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3))
    with torch.no_grad():
        denoised = denoise(model.unet, latents, torch.tensor([1e-5]), conditions)
    assert torch.allclose(denoised, latents, atol=1e-3)


def test_a_large_picture_and_its_small_copy_look_alike_to_the_image_encoder():
    model, tensors = load_model("tiny"), []
    for seed, side in ((1, 64), (1, 512), (2, 64)):
        frame = render_shot(Scene(seed, movers=0), Camera(), 1, size=(side, side))[0]
        tensors.append(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
    small, large, other = (torch.nn.functional.normalize(embed_pictures(model, t))[0] for t in tensors)
    assert small.shape == (64,)
    assert (small @ large).item() > 0.95
    assert (small @ large).item() > (small @ other).item()


def test_saving_over_a_saved_model_replaces_it(model, folder):
    with torch.no_grad():
        next(model.unet.parameters()).add_(1)
    save_model(model, folder)
    assert same_weights(load_model(str(folder)).unet, model.unet)
    shutil.rmtree(folder)


def test_both_branches_are_one_batch_the_unconditional_one_last():
    ids, own = torch.tensor([[6.0, 127.0, 0.02]]), torch.full((1, 1, 1, 8, 8), 0.5)
    asked = Conditions(torch.ones(1, 2, 32), torch.ones(1, 4, 8, 8), ids, ((torch.ones(1, 2, 32), own),))
    both = asked.with_dropped()
    for half, level in ((slice(0, 1), 1), (slice(1, 2), 0)):
        assert (both.context[half] == level).all()
        assert (both.picture[half] == level).all()
        assert (both.regions[0][0][half] == level).all()
    assert torch.equal(both.ids, torch.cat([ids, ids]))
    assert torch.equal(both.regions[0][1], torch.cat([own, own]))


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ModelFacts) == {
        "": "frozen=True, extra='forbid'",
        "frames": "25",
        "width": "1024",
        "height": "576",
        "fps": "7.0",
        "motion_bucket": "127",
        "noise_aug": "0.02",
        "guidance": "(1.0, 3.0)",
        "by_regions": "()",
        "lineage": "{}",
    }
