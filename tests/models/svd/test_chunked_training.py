"""A UNet in chunks: the loss and every gradient are those of diffusers' own layers, and afterwards it is as before."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.errors import BadInput
from models.svd import chunked_training as module
from models.svd.chunked_training import Chunks, train_in_chunks
from models.svd.inference_unet import work_in_place
from models.svd.lora import add_lora
from models.svd.one_token_attention import attend_to_one_token

UNetMaker = Callable[..., UNetSpatioTemporalConditionModel]

FRAME_MIB = 0.1
"""Less than a frame of any block takes: chunks of one frame, and of four positions of the first level."""


def put_lora(unet: UNetSpatioTemporalConditionModel) -> UNetSpatioTemporalConditionModel:
    """A LoRA whose second factors are not zero, or the first ones had no gradient."""
    add_lora(unet, rank=2)
    generator = torch.Generator().manual_seed(3)
    for name, weight in unet.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator).to(weight.dtype) * 0.1
    return unet


def train(
    unet: UNetSpatioTemporalConditionModel, chunks: Chunks | None, clips: int = 1, frames: int = 3, tokens: int = 1
) -> dict[str, Tensor]:
    """The output and, by name, the gradients of all that trains, and of the context."""
    generator = torch.Generator().manual_seed(0)
    kind = unet.dtype
    seen = torch.randn(clips, frames, 8, 6, 8, generator=generator).to(kind)
    context = torch.randn(clips, tokens, 32, generator=generator).to(kind).requires_grad_()
    ids = torch.tensor([[6.0, 127.0, 0.02], [24.0, 10.0, 0.1]])[:clips]
    unet.zero_grad()
    with train_in_chunks(unet, chunks):
        made = unet(seen, torch.tensor([0.5, 0.1])[:clips], context, ids, return_dict=False)[0]
        made.square().mean().backward()
    found = {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}
    assert context.grad is not None
    return found | {"context": context.grad, "output": made.detach()}


def farthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, by the largest gradient: many single ones are zero but for rounding, such as those of a
    bias before a normalisation."""
    assert ours.keys() == theirs.keys()
    largest = max(each.abs().max().item() for each in theirs.values())
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs) / largest


@pytest.fixture(scope="module")
def networks(make_unet: UNetMaker) -> dict[str, UNetSpatioTemporalConditionModel]:
    """One network to train whole and one with a LoRA, in float64, in which rounding hides nothing."""
    whole, lora = (make_unet().double() for _ in range(2))
    attend_to_one_token(whole)
    return {"whole": whole, "lora": put_lora(lora)}


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["whole", "lora"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mib=st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0, 100.0]),
    blocks=st.booleans(),
    clips=st.integers(1, 2),
    frames=st.integers(1, 4),
    tokens=st.integers(1, 2),
)
def test_gradients_are_those_of_the_whole_whatever_the_chunk(networks, trained, mib, blocks, clips, frames, tokens):
    unet = networks[trained]
    want = train(unet, None, clips, frames, tokens)
    assert farthest(train(unet, Chunks(mib, blocks), clips, frames, tokens), want) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_in_float32_they_agree_to_a_hundred_thousandth(make_unet, lora: bool):
    unet = put_lora(make_unet()) if lora else make_unet()
    want = train(unet, None, clips=2)
    for chunks in (Chunks(FRAME_MIB), Chunks(100), Chunks(0.2, blocks=True)):
        assert farthest(train(unet, chunks, clips=2), want) < 1e-5


@pytest.mark.slow
def test_deeper_transformers_and_levels_of_residuals_alone_train_alike():
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(1, 2), layers_per_block=2, transformer_layers_per_block=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32, addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, num_frames=4,
    )  # fmt: skip
    nn.Module.to(unet, torch.float64)
    want = train(unet, None)
    for blocks in (False, True):
        assert farthest(train(unet, Chunks(0.1, blocks)), want) < 1e-10


def test_the_first_blocks_lora_learns(make_unet):
    found = train(put_lora(make_unet()), Chunks(FRAME_MIB))
    first = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.lora_A.default.weight"
    assert found[first].abs().max() > 0
    assert sum("lora_A" in name for name in found) == sum("lora_B" in name for name in found) > 0


@pytest.mark.parametrize("blocks", [False, True])
def test_what_waits_in_host_memory_comes_back_as_it_was(make_unet, monkeypatch, blocks: bool):
    unet = put_lora(make_unet())
    want = train(unet, Chunks(FRAME_MIB, blocks))
    monkeypatch.setattr(module, "PARKED_FROM", 4096)
    parked = []
    empty = torch.empty

    def counted(*shape, **named):
        made = empty(*shape, **named)
        parked.extend([made.nbytes] if "pin_memory" in named else [])
        return made

    monkeypatch.setattr(torch, "empty", counted)
    ours = train(unet, Chunks(FRAME_MIB, blocks, parked=True))
    assert all(torch.equal(ours[name], want[name]) for name in want)
    assert len(parked) > 10


def test_chunks_leave_the_weights_and_afterwards_no_trace_even_after_an_error(make_unet):
    unet = make_unet()
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    with pytest.raises(MemoryError), train_in_chunks(unet, Chunks(1, parked=True)):
        assert unet.state_dict().keys() == weights.keys()
        raise MemoryError
    assert not any("forward" in vars(part) for part in unet.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in unet.state_dict().items())


def test_layers_over_the_picture_see_as_many_frames_as_fit(make_unet):
    unet = make_unet()
    seen: list[int] = []
    block = unet.down_blocks[0].resnets[0].spatial_res_block
    block.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    frame = 32 * 6 * 8 * 4 * module.IN_RESIDUAL / module.MIB
    train(unet, Chunks(2.5 * frame), frames=5)
    assert seen == [2, 2, 1, 2, 2, 1]


def test_without_gradients_it_works_in_chunks_too(make_unet):
    unet = make_unet()
    with torch.no_grad():
        usual, ours = (probe(unet, chunks) for chunks in (None, Chunks(FRAME_MIB, blocks=True)))
    assert (usual - ours).abs().max() < 1e-5


def probe(unet: UNetSpatioTemporalConditionModel, chunks: Chunks | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    seen, context = torch.randn(1, 3, 8, 6, 8, generator=generator), torch.randn(1, 1, 32, generator=generator)
    with train_in_chunks(unet, chunks):
        return unet(seen, torch.tensor([0.5]), context, torch.tensor([[6.0, 127.0, 0.02]]), return_dict=False)[0]


def test_a_clip_that_is_sampled_between_two_steps_leaves_the_chunks(make_unet):
    unet = make_unet()
    with train_in_chunks(unet, Chunks(0.01)):
        inside = [vars(module).get("forward") for module in unet.modules()]
        with work_in_place(unet):
            assert [vars(module).get("forward") for module in unet.modules()] != inside
        assert [vars(module).get("forward") for module in unet.modules()] == inside
    assert not any("forward" in vars(module) for module in unet.modules())


def test_dropout_is_refused_because_it_would_draw_by_chunk(make_unet):
    unet = make_unet()
    unet.down_blocks[0].resnets[0].spatial_res_block.dropout.p = 0.1
    expected = "down_blocks.0.resnets.0.spatial_res_block.dropout: dropout of 0.1 cannot be trained in chunks"
    with pytest.raises(BadInput, match=expected), train_in_chunks(unet, Chunks(1)):
        pass
