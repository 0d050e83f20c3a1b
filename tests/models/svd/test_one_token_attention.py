"""A context of one token is used as the usual attention uses it, without being attended to."""

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from models.svd.lora import add_lora, remove_lora
from models.svd.model import load_model
from models.svd.one_token_attention import OneTokenAttention, attend_to_one_token
from models.weights.names import TINY


@pytest.fixture(scope="module")
def usual() -> UNetSpatioTemporalConditionModel:
    """The embedded model's UNet as diffusers loads it."""
    return UNetSpatioTemporalConditionModel.from_pretrained(TINY / "unet", dtype=torch.float32).eval()


@torch.no_grad()
def output(unet: UNetSpatioTemporalConditionModel, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(2, 8, 8, 16, 16, generator=generator)
    context = torch.randn(2, tokens, unet.config["cross_attention_dim"], generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
    return unet(seen, torch.tensor([0.5, 0.1]), context, ids, return_dict=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_network_says_what_it_says_with_usual_attention(usual, tokens: int):
    ours = load_model("tiny").unet
    assert (output(ours, tokens) - output(usual, tokens)).abs().max() < 1e-5


@pytest.mark.slow
def test_only_cross_attention_is_changed():
    processors = {
        name: type(module.processor)
        for name, module in load_model("tiny").unet.named_modules()
        if isinstance(module, Attention)
    }
    assert {kind for name, kind in processors.items() if name.endswith("attn2")} == {OneTokenAttention}
    assert {kind for name, kind in processors.items() if name.endswith("attn1")} == {AttnProcessor2_0}


@pytest.mark.slow
def test_a_lora_counts_as_with_usual_attention(usual):
    ours = load_model("tiny").unet
    for unet in (ours, usual):
        torch.manual_seed(1)
        add_lora(unet, rank=2)
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.05)
    apart = (output(ours, 1) - output(usual, 1)).abs().max()
    remove_lora(usual)
    assert apart < 1e-5
    assert (output(ours, 1) - output(usual, 1)).abs().max() > 1e-3


@pytest.mark.slow
def test_one_token_needs_no_queries():
    unet = load_model("tiny").unet
    attend_to_one_token(unet)
    asked: list[str] = []
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_q"):
            module.register_forward_hook(lambda *_, name=name: asked.append(name))
    output(unet, 1)
    assert asked == []
    output(unet, 2)
    assert asked
