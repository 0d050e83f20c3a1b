"""Attention as plain products of matrices, for training a small UNet on the processor.

Where a sequence has a few dozen positions, and over time a few frames, the library's fused attention is slower than the
two products it is made of, above all in its backward pass.
"""

from typing import Any, cast

from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from models.svd.one_token_attention import compute_token_value


class PlainAttention:
    """An attention processor of diffusers' kind, to the same numbers within float tolerance."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Return the attention's output [batch, positions, width] for a context [batch, tokens, context width], by
        default the positions themselves."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and context.shape[1] == 1:
            return compute_token_value(attn, context).expand(-1, hidden_states.shape[1], -1)
        query, key, value = (
            cast(nn.Module, layer)(seen).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, seen in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        shares = (query * attn.scale @ key.transpose(-1, -2)).softmax(-1)
        return cast(nn.ModuleList, attn.to_out)[0]((shares @ value).transpose(1, 2).flatten(2))


def attend_plainly(unet: UNetSpatioTemporalConditionModel) -> None:
    """Have all attentions of `unet` work by plain products."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(cast(Any, PlainAttention()))
