"""A function of tensors, applied chunk by chunk forwards and backwards, with the gradients of applying it at once.

Nothing is kept for the backward pass but the inputs. There each chunk is computed again, this time with its graph, and
left before the next one: the memory is that of one chunk, the price one more forward pass. What is cut must be
independent along its axis: frames for layers over the picture, positions for layers over time. Statistics over both
(`measure_moments`) have a backward pass of their own, frame by frame.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Work:
    """What is applied in chunks: `run` of the inputs' parts.

    axes: by input, the axis that it is cut along, or None where every chunk sees all of it. out_axis: the axis of the
    result that its chunks are joined along. chunk: entries of these axes at a time.
    """

    run: Callable[..., Tensor]
    axes: tuple[int | None, ...]
    out_axis: int
    chunk: int

    def cut(self, inputs: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
        """Yield where each chunk starts, and its length."""
        length = next(x.shape[axis] for x, axis in zip(inputs, self.axes, strict=True) if axis is not None)
        for start in range(0, length, self.chunk):
            yield start, min(self.chunk, length - start)

    def take(self, inputs: Sequence[Tensor], span: tuple[int, int]) -> list[Tensor]:
        """Return the parts of the inputs that a chunk sees."""
        return [x if axis is None else x.narrow(axis, *span) for x, axis in zip(inputs, self.axes, strict=True)]


def apply_in_chunks(
    work: Work, inputs: Sequence[Tensor], modules: Sequence[nn.Module], ends_like: Tensor | None = None
) -> Tensor:
    """Return `work.run(*inputs)`, computed in chunks; `modules` are those whose parameters it uses.

    `ends_like`: where this ends what `recompute_inputs` computes again, a tensor of the result's shape.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return _InChunks.apply(work, ends_like if _again.get() else None, len(inputs), *inputs, *parameters)


_again: ContextVar[bool] = ContextVar("again", default=False)


def recompute_inputs(forward: Callable[..., Tensor], *arguments: Tensor, **named: Tensor) -> Tensor:
    """Return `forward(*arguments, **named)`, and keep its arguments alone for the backward pass.

    There it is computed again, up to what its last part sees: the result itself is known to nobody by then, and that
    part leaves it empty.
    """
    call = partial(forward, **named)
    twice = {"context_fn": lambda: (nullcontext(), _computing_again())}
    return cast(Any, checkpoint)(call, *arguments, use_reentrant=False, preserve_rng_state=False, **twice)


@contextmanager
def _computing_again() -> Iterator[None]:
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)


class _InChunks(Function):
    @staticmethod
    def forward(ctx: Any, work: Work, unseen: Tensor | None, number: int, *tensors: Tensor) -> Tensor:
        inputs = tensors[:number]
        ctx.work, ctx.parameters = work, tensors[number:]
        ctx.autocast = _read_autocast(inputs[0].device.type)
        ctx.save_for_backward(*inputs)
        return _join(work, inputs) if unseen is None else torch.empty_like(unseen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        work, inputs, (gradient,) = ctx.work, ctx.saved_tensors, gradients
        needed = ctx.needs_input_grad[3:]
        sums = [_Sum(x, axis) for x, axis in zip(inputs, work.axes, strict=True)]
        sums += [_Sum(parameter, None) for parameter in ctx.parameters]
        for span in work.cut(inputs):
            with torch.enable_grad(), _restore_autocast(ctx.autocast):
                seen = [x.detach() for x in work.take(inputs, span)]
                for part, need in zip(seen, needed, strict=False):
                    part.requires_grad_(need)
                made = work.run(*seen)
            asked = [x for x, need in zip([*seen, *ctx.parameters], needed, strict=True) if need]
            found = torch.autograd.grad(made, asked, gradient.narrow(work.out_axis, *span), allow_unused=True)
            for total, each in zip((s for s, need in zip(sums, needed, strict=True) if need), found, strict=True):
                total.add(each, span)
        return None, None, None, *(total.total() if need else None for total, need in zip(sums, needed, strict=True))


def _join(work: Work, inputs: Sequence[Tensor]) -> Tensor:
    """Compute the chunks without a graph, each into its place of the whole result."""
    whole: Tensor | None = None
    length = sum(each for _, each in work.cut(inputs))
    for span in work.cut(inputs):
        made = work.run(*work.take(inputs, span))
        if made.shape[work.out_axis] == length:
            return made
        if whole is None:
            shape = list(made.shape)
            shape[work.out_axis] = length
            whole = made.new_empty(shape)
        whole.narrow(work.out_axis, *span).copy_(made)
    assert whole is not None
    return whole


class _Sum:
    """The gradient of one tensor, from those of chunks: each in its own place where the tensor was cut along `axis`;
    else their sum, in float32 at least, because sums of many small parts lose theirs in half precision."""

    def __init__(self, of: Tensor, axis: int | None) -> None:
        self.of, self.axis = of, axis
        self._so_far: Tensor | None = None

    def add(self, gradient: Tensor | None, span: tuple[int, int]) -> None:
        """Add a chunk's gradient; None is zero."""
        if gradient is None:
            return
        if self.axis is None:
            wide = gradient.to(_widen(gradient.dtype))
            self._so_far = wide if self._so_far is None else self._so_far.add_(wide)
        elif gradient.shape == self.of.shape:
            self._so_far = gradient
        else:
            if self._so_far is None:
                self._so_far = torch.zeros_like(self.of)
            self._so_far.narrow(self.axis, *span).copy_(gradient)

    def total(self) -> Tensor | None:
        """Return the whole gradient; None where no chunk had one."""
        return None if self._so_far is None else self._so_far.to(self.of.dtype)


def measure_moments(clip: Tensor, frames: int, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance [clips, groups] of a clip's groups of channels over all of its frames and positions.

    `clip` is [clips * frames, channels, positions]. They are in float32 at least, differentiable, and computed frame by
    frame: the same bits whatever the chunks elsewhere are.
    """
    return _Moments.apply(clip, frames, groups)


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, frames: int, groups: int) -> tuple[Tensor, Tensor]:
        each = [torch.var_mean(_group(frame, groups), dim=1, correction=0) for frame in clip]
        variances, means = (torch.stack(found).double().unflatten(0, (-1, frames)) for found in zip(*each, strict=True))
        mean = means.mean(1)
        variance = (variances + (means - mean[:, None]).square()).mean(1)
        mean, variance = (found.to(_widen(clip.dtype)) for found in (mean, variance))
        ctx.frames = frames
        ctx.save_for_backward(clip, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        clip, mean = ctx.saved_tensors
        groups = mean.shape[1]
        entries = clip[0].numel() // groups * ctx.frames
        by_mean, by_variance = (gradient / entries for gradient in gradients)
        made = torch.empty_like(clip)
        for number, frame in enumerate(clip):
            own = number // ctx.frames
            off = _group(frame, groups) - mean[own, :, None]
            made[number] = torch.addcmul(by_mean[own, :, None], off, 2 * by_variance[own, :, None]).view_as(frame)
        return made, None, None


def _group(frame: Tensor, groups: int) -> Tensor:
    return frame.to(_widen(frame.dtype)).reshape(groups, -1)


def _widen(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _read_autocast(kind: str) -> dict[str, Any]:
    return {"device_type": kind, "enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}


def _restore_autocast(was: dict[str, Any]) -> Any:
    return torch.autocast(**was, cache_enabled=False) if was["enabled"] else nullcontext()
