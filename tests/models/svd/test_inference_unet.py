"""Sampling's own forward passes say what diffusers' say, and leave no trace."""

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.activations import GEGLU
from torch import Tensor

from models.svd import inference_unet as module
from models.svd.inference_unet import work_in_place
from models.svd.lora import add_lora, remove_lora
from models.weights.names import TINY


@pytest.fixture
def unet() -> UNetSpatioTemporalConditionModel:
    """The embedded model's UNet as diffusers loads it."""
    return UNetSpatioTemporalConditionModel.from_pretrained(TINY / "unet", dtype=torch.float32).eval()


@torch.no_grad()
def output(unet: UNetSpatioTemporalConditionModel, clips: int = 1, tokens: int = 1, frames: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(clips, frames, 8, 16, 12, generator=generator)
    context = torch.randn(clips, tokens, unet.config["cross_attention_dim"], generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02], [24.0, 10.0, 0.1]])[:clips]
    return unet(seen, torch.tensor([0.5, 0.1])[:clips], context, ids, return_dict=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("clips", "tokens", "frames"), [(1, 1, 8), (2, 1, 8), (1, 2, 8), (2, 2, 5), (1, 1, 1)])
def test_the_network_says_what_diffusers_own_says(unet, clips: int, tokens: int, frames: int):
    usual = output(unet, clips, tokens, frames)
    with work_in_place(unet):
        ours = output(unet, clips, tokens, frames)
    assert (ours - usual).abs().max() < 2e-5


@pytest.mark.slow
def test_a_deeper_network_with_levels_of_residuals_alone_says_the_same():
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(1, 2), layers_per_block=2, transformer_layers_per_block=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32, addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, num_frames=4,
    ).eval()  # fmt: skip
    usual = output(unet, clips=2)
    with work_in_place(unet):
        ours = output(unet, clips=2)
    assert (ours - usual).abs().max() < 2e-5


def test_afterwards_the_network_is_bit_for_bit_what_it_was_even_after_an_error(unet):
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    usual = output(unet)
    with pytest.raises(MemoryError), work_in_place(unet):
        output(unet)
        raise MemoryError
    assert not any("forward" in vars(part) for part in unet.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in unet.state_dict().items())
    assert torch.equal(output(unet), usual)


def test_feed_forward_layers_take_as_many_tokens_as_the_piece_allows(unet, monkeypatch):
    widest = []
    for part in unet.modules():
        if isinstance(part, GEGLU):
            part.register_forward_hook(lambda _, __, made: widest.append(2 * made.nbytes))
    usual = output(unet)
    assert max(widest) > 2**18
    widest.clear()
    monkeypatch.setattr(module, "PIECE_BYTES", 2**18)
    with work_in_place(unet):
        ours = output(unet)
    assert max(widest) == 2**18
    assert (ours - usual).abs().max() < 2e-5


def test_a_lora_put_on_or_taken_off_between_runs_counts(unet):
    with work_in_place(unet):
        bare = output(unet)
    torch.manual_seed(1)
    add_lora(unet, rank=2)
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    usual = output(unet)
    with work_in_place(unet):
        assert (output(unet) - usual).abs().max() < 2e-5
    assert (usual - bare).abs().max() > 1e-3
    remove_lora(unet)
    with work_in_place(unet):
        assert torch.equal(output(unet), bare)
