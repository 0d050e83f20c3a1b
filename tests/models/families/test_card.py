"""Sampling and decoding on a pretended card, where a mix-up of devices or precisions is an error.

Tensors have shapes, precisions and devices but no values. LTX-Video alone can do without them: other pipelines look at
values, of masks of texts or of the schedule, on their way.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline
from diffusers.image_processor import VaeImageProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.device import CPU
from models.families import ltx
from models.families.family import Request
from tests.small_families import ltx_parts

GPU = torch.device("cuda", 0)


class Begun(FlowMatchEulerDiscreteScheduler):
    """A schedule that is told where it begins, and does not look for it among values."""

    def set_timesteps(self, *arguments: Any, sigmas: Any = None, timesteps: Any = None, **named: Any) -> None:
        super().set_timesteps(*arguments, sigmas=sigmas, timesteps=timesteps, **named)
        self.set_begin_index(0)


@pytest.fixture(params=[False, True], ids=["decoder", "decoder that is told a noise level"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LTXPipeline]:
    """A pipeline on the card, its autoencoder in float32 and the rest in bfloat16."""
    parts: dict[str, Any] = {**ltx_parts(request.param), "scheduler": Begun()}
    made = LTXPipeline(**parts)
    made.set_progress_bar_config(disable=True)

    def blank(_: Any, image: Any, height: int, width: int) -> Tensor:
        return torch.zeros(1, 3, height, width)

    monkeypatch.setattr(VaeImageProcessor, "preprocess", blank)
    monkeypatch.setattr(ltx, "convert_to_frames", lambda _, decoded: decoded)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for name, part in made.components.items():
            if isinstance(part, nn.Module):
                _pretend(part.eval(), torch.float32 if name == "vae" else torch.bfloat16)
        yield made


def _pretend(part: nn.Module, precision: torch.dtype) -> None:
    for module in part.modules():
        for name, weight in module.named_parameters(recurse=False):
            on_gpu = torch.empty(weight.shape, dtype=precision, device=GPU)
            setattr(module, name, nn.Parameter(on_gpu, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU))


@pytest.fixture
def item(asked: Request) -> Request:
    return replace(asked, frames=9)


@pytest.mark.slow
@pytest.mark.parametrize("has_picture", [False, True])
def test_all_that_meets_lies_on_the_gpu_and_latents_come_back(
    pipeline: LTXPipeline, item: Request, ramp: NDArray[np.uint8], has_picture: bool
) -> None:
    made = ltx.sample(pipeline, replace(item, picture=ramp if has_picture else None))
    assert (made.device, made.dtype, made.shape) == (CPU, torch.float32, (2, 8, 1, 1))
    decoded: Any = ltx.decode(pipeline, made, item)
    assert (decoded.device, decoded.dtype, decoded.shape) == (GPU, torch.float32, (1, 3, 9, 32, 32))


@pytest.mark.slow
def test_a_mix_up_of_devices_is_an_error_on_the_pretended_card(pipeline: LTXPipeline, item: Request) -> None:
    """Otherwise the test above says nothing."""
    made = ltx.sample(pipeline, item)
    with pytest.raises(RuntimeError, match="device"):
        pipeline.vae.decode(made.transpose(0, 1)[None], torch.zeros(1))
