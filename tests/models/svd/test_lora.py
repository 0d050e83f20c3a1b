"""A LoRA is nothing while fresh, itself after a round trip, gone when removed, and refused where it does not fit."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import BadInput, BadModel
from models.svd.lora import (
    LoraFacts,
    add_lora,
    apply_lora,
    load_lora,
    lora_applied,
    read_lora_weights,
    remove_lora,
    save_lora,
)
from models.svd.model import VideoModel, load_model
from models.svd.sampling import sample_latents

FACTS = LoraFacts(rank=2, alpha=4.0, lineage={"dataset": "beach", "clips": ["a", "b"]})


@torch.no_grad()
def output(unet: UNetSpatioTemporalConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(1, 4, 8, 8, 8, generator=generator)
    context = torch.randn(1, 1, 32, generator=generator)
    return unet(seen, torch.tensor([0.5]), context, torch.tensor([[6.0, 127.0, 0.02]]), return_dict=False)[0]


def write_lora(path: Path, unet: UNetSpatioTemporalConditionModel, facts: LoraFacts = FACTS) -> dict[str, Tensor]:
    """A LoRA of random weights for UNets of that shape, on disk."""
    add_lora(unet, facts.rank, facts.alpha)
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(w.shape, generator=generator) for name, w in read_lora_weights(unet).items()}
    remove_lora(unet)
    save_lora(path, weights, facts)
    return weights


@pytest.fixture
def lora(model: VideoModel, tmp_path: Path) -> Path:
    write_lora(tmp_path / "lora.safetensors", model.unet)
    return tmp_path / "lora.safetensors"


def adapted(unet: torch.nn.Module) -> list[str]:
    return [name for name, module in unet.named_modules() if isinstance(module, LoraLayer)]


def test_a_fresh_lora_changes_nothing(model):
    before = output(model.unet)
    add_lora(model.unet, rank=4)
    assert torch.equal(output(model.unet), before)


def test_only_temporal_attention_is_adapted_and_all_of_it(model):
    add_lora(model.unet, rank=4)
    names = adapted(model.unet)
    endings = {re.sub(r".*temporal_transformer_blocks\.0\.", "", name) for name in names}
    assert endings == {f"attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")}
    blocks = [name for name, _ in model.unet.named_modules() if name.endswith("temporal_transformer_blocks.0")]
    assert len(names) == 8 * len(blocks)
    assert all("temporal_transformer_blocks" in name for name in names)


def test_only_the_lora_trains(model):
    add_lora(model.unet, rank=4)
    trained = [name for name, p in model.unet.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(adapted(model.unet))
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)


def test_a_removed_lora_leaves_the_model_bit_for_bit(model, lora):
    weights, before = {n: w.clone() for n, w in model.unet.state_dict().items()}, output(model.unet)
    apply_lora(model, lora)
    assert not torch.allclose(output(model.unet), before, atol=1e-2)
    remove_lora(model.unet)
    assert torch.equal(output(model.unet), before)
    assert model.unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(w, weights[n]) for n, w in model.unet.state_dict().items())
    assert adapted(model.unet) == []


def test_a_saved_lora_is_loaded_bit_for_bit_with_its_facts(model, tmp_path):
    path = tmp_path / "lora.safetensors"
    weights = write_lora(path, model.unet)
    loaded, facts = load_lora(path)
    assert facts == FACTS
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["reelmill"])["lineage"]["dataset"] == "beach"


@pytest.mark.slow
def test_an_applied_lora_has_the_files_weights_and_the_papers_effect(model, lora):
    weights, _ = load_lora(lora)
    layer = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q"
    base = model.unet.get_submodule(layer)
    seen = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    before = base(seen)
    apply_lora(model, lora, strength=0.5)
    assert all(torch.equal(w, weights[name]) for name, w in read_lora_weights(model.unet).items())
    down, up = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
    wanted = before + 0.5 * FACTS.alpha / FACTS.rank * seen @ down.T @ up.T
    assert torch.allclose(model.unet.get_submodule(layer)(seen), wanted, atol=1e-4)


def test_no_strength_is_no_effect(model, lora):
    before = output(model.unet)
    with lora_applied(model, lora, strength=0.0):
        assert torch.allclose(output(model.unet), before, atol=1e-6)


def test_a_lora_is_on_for_the_length_of_a_block_even_when_it_fails(model, lora):
    with lora_applied(model, None):
        assert adapted(model.unet) == []
    with pytest.raises(ZeroDivisionError), lora_applied(model, lora):
        assert adapted(model.unet)
        raise ZeroDivisionError
    assert adapted(model.unet) == []


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(64, 64), (32,), (32, 32, 32)])
def test_a_lora_of_another_model_is_refused_and_leaves_no_trace(model, make_unet, tmp_path, widths):
    write_lora(tmp_path / "other.safetensors", make_unet(widths))
    before = output(model.unet)
    with pytest.raises(BadModel, match=r"other\.safetensors: the LoRA was made for a model of another shape"):
        apply_lora(model, tmp_path / "other.safetensors")
    assert adapted(model.unet) == []
    assert torch.equal(output(model.unet), before)


def test_a_lora_that_lacks_weights_is_refused(model, lora):
    weights, facts = load_lora(lora)
    del weights[min(weights)]
    save_lora(lora, weights, facts)
    with pytest.raises(BadModel, match="another shape"):
        apply_lora(model, lora)


def test_files_that_are_no_lora_are_refused(tmp_path, lora):
    with pytest.raises(BadInput, match="no LoRA file there"):
        load_lora(tmp_path / "nothing.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickled.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(lora.read_bytes()[:500])
    for name in ("plain", "pickled", "cut"):
        with pytest.raises(BadModel, match=rf"{name}\.safetensors: not a LoRA made by Reelmill"):
            load_lora(tmp_path / f"{name}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("clips", [1, 2])
def test_a_model_that_had_a_lora_makes_the_bits_it_made_before(tmp_path: Path, clips: int):
    """Torch sums in another order where weights may be trained: a LoRA must leave them as frozen as they were."""
    model = load_model("tiny")
    assert not any(weight.requires_grad for weight in model.unet.parameters())
    write_lora(tmp_path / "lora.safetensors", load_model("tiny").unet)
    shape = model.latent_shape(8, 64, 64)
    inputs = (torch.rand(clips, 3, 64, 64) * 2 - 1, torch.randn(clips, *shape), torch.randn(clips, 3, 64, 64))
    before = sample_latents(model, *inputs, [None] * clips, steps=3)
    with lora_applied(model, tmp_path / "lora.safetensors"):
        assert not any(weight.requires_grad for weight in model.unet.parameters())
    assert torch.equal(sample_latents(model, *inputs, [None] * clips, steps=3), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"rank": "x"}, {"rank": 100_000_000}, {"alpha": "x"}, {"alpha": float("nan")}, {"lineage": None},
        {"lineage": "x"}, {"lineage": {"train": [1]}}, {"lineage": {"train": {"motions": 5}}},
    ],
)  # fmt: skip
def test_a_lora_whose_facts_are_not_of_its_weights_is_refused(model, tmp_path, change):
    path = tmp_path / "lora.safetensors"
    weights = write_lora(path, model.unet)
    save_lora(path, weights, replace(FACTS, **change))
    with pytest.raises(BadModel, match="not a LoRA made by Reelmill"):
        load_lora(path)
