"""A function in chunks: its result and its gradients are those of the function at once, and nothing else is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models.svd.in_chunks import Work, apply_in_chunks, measure_moments, recompute_inputs


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(width: int = 4) -> nn.Linear:
    made = nn.Linear(width, width, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(numbers(width, width, seed=5))
        made.bias.copy_(numbers(width, seed=6))
    return made


def gradients(made: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((made * numbers(*made.shape, seed=9)).sum(), of))


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 9), chunk=st.integers(1, 12), axis=st.integers(0, 1))
def test_gradients_are_those_of_the_whole_whatever_the_chunk(length: int, chunk: int, axis: int):
    shape = (length, 3, 4) if axis == 0 else (3, length, 4)
    cut, also = numbers(*shape).requires_grad_(), numbers(length, seed=1).requires_grad_()
    shared, weights = numbers(4, seed=2).requires_grad_(), layer()

    def run(cut: Tensor, also: Tensor, shared: Tensor) -> Tensor:
        return F.silu(weights(cut) * shared) + also.view(-1, 1, 1) if axis == 0 else weights(cut) * also[:, None]

    of = [cut, also, *([shared] if axis == 0 else []), weights.weight, weights.bias]
    want = run(cut, also, shared)
    made = apply_in_chunks(Work(run, (axis, 0, None), axis, chunk), (cut, also, shared), (weights,))
    assert (made - want).abs().max() < 1e-12
    for ours, theirs in zip(gradients(made, of), gradients(want, of), strict=True):
        assert (ours - theirs).abs().max() < 1e-11


def test_weights_have_their_gradient_where_no_input_has_one():
    """The first block of a UNet sees latents, which nobody trains; with reentrant checkpoints its LoRA learns
    nothing."""
    weights, seen = layer(), numbers(5, 4)
    apply_in_chunks(Work(weights, (0,), 0, 2), (seen,), (weights,)).sum().backward()
    assert weights.weight.grad is not None
    assert (weights.weight.grad - seen.sum(0).expand(4, 4)).abs().max() < 1e-12


def test_frozen_weights_have_none_and_cost_no_computation():
    weights, seen = layer().requires_grad_(False), numbers(5, 4)
    calls = []
    weights.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert not apply_in_chunks(Work(weights, (0,), 0, 2), (seen,), (weights,)).requires_grad
    assert calls == [False] * 3


def test_gradients_of_many_chunks_are_summed_in_float32():
    weights = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    ones = torch.ones(1000, 1, dtype=torch.bfloat16)
    apply_in_chunks(Work(weights, (0,), 0, 1), (ones,), (weights,)).sum().backward()
    assert weights.weight.grad is not None
    assert weights.weight.grad.item() == 1000  # in bfloat16 the sum would end at 256


def test_a_chunk_is_computed_again_in_the_precision_it_had():
    weights, seen = nn.Linear(4, 4), torch.randn(6, 4)
    kinds = []
    weights.register_forward_hook(lambda _, __, made: kinds.append(made.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made = apply_in_chunks(Work(weights, (0,), 0, 3), (seen.requires_grad_(),), (weights,))
    made.float().sum().backward()
    assert kinds == [torch.bfloat16] * 4


@pytest.mark.parametrize("ends", [True, False])
def test_what_ends_a_recomputation_is_not_computed_for_it(ends: bool):
    first, last = layer(), layer()
    calls: list[str] = []
    first.register_forward_hook(lambda *_: calls.append("first"))
    last.register_forward_hook(lambda *_: calls.append("last"))

    def forward(seen: Tensor) -> Tensor:
        between = apply_in_chunks(Work(first, (0,), 0, 5), (seen,), (first,))
        return apply_in_chunks(Work(last, (0,), 0, 5), (between,), (last,), seen if ends else None)

    seen = numbers(5, 4).requires_grad_()
    made, want = recompute_inputs(forward, seen), last(first(seen))
    calls.clear()
    ours = gradients(made, [seen, first.weight, last.weight])
    assert calls == ["first", *([] if ends else ["last"]), "last", "first"]
    for mine, theirs in zip(ours, gradients(want, [seen, first.weight, last.weight]), strict=True):
        assert (mine - theirs).abs().max() < 1e-12


def test_moments_are_those_of_all_frames_and_positions():
    clip = numbers(6, 8, 10) + 50
    mean, variance = measure_moments(clip, 3, 4)
    groups = clip.view(2, 3, 4, 2, 10).transpose(1, 2).flatten(2)
    want_variance, want_mean = torch.var_mean(groups, dim=2, correction=0)
    assert (mean - want_mean).abs().max() < 1e-12
    assert (variance - want_variance).abs().max() < 1e-12


def test_moments_of_half_precision_are_in_float32():
    mean, variance = measure_moments(numbers(2, 32, 5).bfloat16(), 2, 32)
    assert mean.dtype == variance.dtype == torch.float32


def test_the_gradient_of_moments_is_that_of_differences():
    clip = numbers(4, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: measure_moments(seen, 2, 2), (clip,))
