"""Cross-attention to a single context token, without the attention: a softmax over one key is 1 whatever the query.

Stable Video Diffusion's context is one token, the picture's embedding. So every position gets the token's value, and
the queries, the keys and the attention itself need not be computed: the same latents, to float tolerance, in about a
tenth less time.
"""

from typing import Any, cast

from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn


class OneTokenAttention:
    """An attention processor of diffusers' kind; a context of several tokens goes through the usual attention."""

    def __init__(self) -> None:
        self._usual = AttnProcessor2_0()

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **named: Any
    ) -> Tensor:
        """Return the attention's output [batch, positions, width] for a context [batch, tokens, context width]."""
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1:
            return self._usual(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **named)
        return compute_token_value(attn, encoder_hidden_states).expand(-1, hidden_states.shape[1], -1)


def compute_token_value(attn: Attention, context: Tensor) -> Tensor:
    """Return what a context of one token, [batch, 1, context width], gives to every position: [batch, 1, width]."""
    return cast(nn.ModuleList, attn.to_out)[0](cast(nn.Module, attn.to_v)(context))


def attend_to_one_token(unet: UNetSpatioTemporalConditionModel) -> None:
    """Have the cross-attentions of `unet`, spatial and temporal, notice when their context is one token."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and isinstance(module, Attention):
            module.set_processor(cast(Any, OneTokenAttention()))
