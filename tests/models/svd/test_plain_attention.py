"""Attention by plain products says what the library's attention says, and so do its gradients."""

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from models.svd.plain_attention import PlainAttention, attend_plainly
from tests.small_svd import make_small_unet

torch.set_num_threads(1)


def make_pair() -> tuple[UNetSpatioTemporalConditionModel, UNetSpatioTemporalConditionModel]:
    torch.manual_seed(0)
    usual, plain = make_small_unet(), make_small_unet()
    plain.load_state_dict(usual.state_dict())
    attend_plainly(plain)
    return usual, plain


def output(unet: UNetSpatioTemporalConditionModel, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(2, 4, 8, 8, 8, generator=generator)
    context = torch.randn(2, tokens, 64, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
    return unet(seen, torch.tensor([0.5, 0.1]), context, ids, return_dict=False)[0]


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_network_says_the_same_and_learns_the_same(tokens: int):
    usual, plain = make_pair()
    said = [output(unet, tokens) for unet in (usual, plain)]
    assert (said[0] - said[1]).abs().max() < 1e-4
    for each in said:
        each.square().mean().backward()
    gradients = {name: p.grad for name, p in usual.named_parameters()}
    for name, parameter in plain.named_parameters():
        known = gradients[name]
        # With one token the plain one leaves out queries, keys and what they are made of: they have no share in it.
        if parameter.grad is None:
            assert tokens == 1
            assert "attn2" in name or "norm2" in name
            assert known is None or known.abs().max() < 1e-6
        else:
            assert known is not None
            assert (parameter.grad - known).abs().max() < 1e-4 * max(1.0, known.abs().max().item())


def test_every_attention_is_changed():
    _, plain = make_pair()
    found = [module for module in plain.modules() if isinstance(module, Attention)]
    assert found
    assert all(isinstance(module.processor, PlainAttention) for module in found)
