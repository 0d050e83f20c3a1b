"""Rendered shots, and their signals as the scan would record them."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.media.signals import Recorder, Signals, make_signals, shrink_frame

Frames = NDArray[np.uint8]


@pytest.fixture(scope="session")
def film() -> Callable[..., Frames]:
    """Renders a shot at 24 frames per second: film(seed, motion, frames, speed)."""

    def render(seed: int, motion: Motion = "static", frames: int = 40, speed: float = 0.4) -> Frames:
        return render_shot(Scene(seed, movers=3), Camera.doing(motion, speed), frames, size=(96, 64))

    return render


@pytest.fixture(scope="session")
def measured() -> Callable[..., Signals]:
    """Measures frames that are shown at 24 frames per second, or at another `rate`."""

    def measure(frames: Frames, rate: int = 24) -> Signals:
        recorder = Recorder()
        for pts, picture in enumerate(frames):
            recorder.add(pts, shrink_frame(VideoFrame.from_ndarray(picture)))
        return make_signals(recorder.columns(), Fraction(1, rate))

    return measure
