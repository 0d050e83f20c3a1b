"""Pictures as clips of one frame: the switch that leaves the temporal layers of a spatio-temporal UNet out.

Each temporal layer is mixed with the spatial one before it by a learned share, and by an indicator of frames that are
pictures (diffusers' `image_only_indicator`): of those, the spatial layer's answer alone is taken. diffusers has the
indicator in every layer, but its UNet always sets it to zero.
"""

from typing import Any

import torch
from diffusers.models.resnet import AlphaBlender
from torch import nn

INDICATOR = "image_only_indicator"


class ImageOnly:
    """While it is `on`, the UNet takes every frame as a picture. It is set before a forward pass, and must not change
    before the backward pass, which may compute layers again."""

    def __init__(self, unet: nn.Module) -> None:
        self.on = False
        for module in unet.modules():
            if isinstance(module, AlphaBlender):
                module.register_forward_pre_hook(self._indicate, with_kwargs=True)

    def _indicate(self, _: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Set the indicator of a mixer's call (spatial, temporal, indicator), wherever it is among the arguments."""
        if not self.on:
            return None
        if INDICATOR in named:
            return args, named | {INDICATOR: torch.ones_like(named[INDICATOR])}
        return (*args[:2], torch.ones_like(args[2])), named
