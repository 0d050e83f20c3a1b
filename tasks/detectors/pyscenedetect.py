"""PySceneDetect's own AdaptiveDetector and ContentDetector, applied to the small pictures of a scan.

They give the hard cuts that PySceneDetect finds in a video shrunk to thumbnails. Every parameter is passed, because its
defaults change between versions; other steps choose the lengths of shots, so its own shortest scene is 0.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from scenedetect.detector import SceneDetector

from tasks.detectors.boundary import LUMA, Boundary
from tasks.media.signals import THUMBNAIL_SIZES, Signals


class LibrarySettings(BaseModel):
    """The thresholds of PySceneDetect's detectors, in its units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    adaptive_threshold: float = Field(
        default=3.0, gt=0, description="adaptive: score as a multiple of its neighbours'; more: fewer cuts."
    )
    adaptive_window: int = Field(default=2, ge=1, description="adaptive: frames on either side that are neighbours.")
    min_content: float = Field(default=15.0, ge=0, description="adaptive: least score of a cut, 0 to 255.")
    content_threshold: float = Field(
        default=27.0, gt=0, description="content: least score of a cut, 0 to 255; more: fewer cuts."
    )


WEIGHTS = ContentDetector.Components(delta_hue=1.0, delta_sat=1.0, delta_lum=1.0, delta_edges=0.0)
"""The weights of the differences of hue, saturation, brightness and edges in a frame's score."""

RATE = 25.0
"""The rate at which frames are numbered; no result depends on it."""


def find_adaptive(signals: Signals, settings: LibrarySettings) -> list[Boundary]:
    """Return the cuts of PySceneDetect's AdaptiveDetector."""
    detector = AdaptiveDetector(
        adaptive_threshold=settings.adaptive_threshold,
        min_scene_len=0,
        window_width=settings.adaptive_window,
        min_content_val=settings.min_content,
        weights=WEIGHTS,
        luma_only=False,
        kernel_size=3,
    )
    return _run(detector, signals)


def find_content(signals: Signals, settings: LibrarySettings) -> list[Boundary]:
    """Return the cuts of PySceneDetect's ContentDetector."""
    detector = ContentDetector(
        threshold=settings.content_threshold, min_scene_len=0, weights=WEIGHTS, luma_only=False, kernel_size=3
    )
    return _run(detector, signals)


BT709_TO_BGR = np.array([[1, 1.8556, 0], [1, -0.1873, -0.4681], [1, 0, 1.5748]])
"""Blue, green and red of luma and the chroma of blue and red (ITU-R BT.709)."""


def make_picture(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a thumbnail as an image, uint8 BGR [height, width, 3], its planes read as BT.709 of full range."""
    width, height = THUMBNAIL_SIZES[0]
    chroma = thumbnail[LUMA:].reshape(2, *THUMBNAIL_SIZES[1][::-1])
    planes = [thumbnail[:LUMA].reshape(height, width), *(cv2.resize(p, (width, height)) for p in chroma)]
    shifted = cv2.merge(planes).astype(np.float32) - (0, 128, 128)
    return np.clip(np.rint(cv2.transform(shifted, BT709_TO_BGR)), 0, 255).astype(np.uint8)


def _run(detector: SceneDetector, signals: Signals) -> list[Boundary]:
    cuts: set[int] = set()
    for number, thumbnail in enumerate(signals.thumbnails):
        time = FrameTimecode(number, RATE)
        cuts |= {cut.frame_num for cut in detector.process_frame(time, make_picture(thumbnail))}
    return [Boundary(cut, cut, "cut") for cut in sorted(cuts - {0})]
