"""What the tests of families share: a picture, a request, a plain pipeline."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.families.family import Request


@pytest.fixture
def ramp() -> NDArray[np.uint8]:
    """A picture of 32x32 pixels that grows lighter from left to right."""
    return np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 32, 3)).copy()


@pytest.fixture
def asked() -> Request:
    """A request for text: two steps."""
    return Request(seed=1, item_key="ball", frames=4, width=32, height=32, prompt="a red ball", steps=2, guidance=2.0)


@pytest.fixture
def plainly() -> Callable[..., NDArray[np.uint8]]:
    """Makes a request's clip by one call of diffusers' pipeline, which draws the same noise and decodes by itself."""

    def make(pipeline: Any, request: Request, **more: Any) -> NDArray[np.uint8]:
        made = pipeline(
            prompt=request.prompt,
            num_frames=request.frames,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=request.generator(),
            output_type="np",
            **more,
        )
        return (made.frames[0] * 255).round().astype(np.uint8)

    return make
