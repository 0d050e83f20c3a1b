"""Look: what a clip's picture is like and what is wrong with it, from its first, middle and last stored frame.

`brightness` and `contrast` are the mean and the deviation of luma, 0 to 255; the contrast is that of the frame with the
most: below about 2 the picture is flat. `colours` names the middle frame's colours, the most frequent first. `phash` is
a perceptual hash of each of the three frames, 16 hexadecimal digits: frames that look alike differ in few of 64 bits
(the lowest frequencies against their median: Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010).

`sharpness` (0 blurred, 1 sharp), `exposure` (-1 crushed to black, 0 neither, 1 blown out to white) and `blockiness` (1
no visible codec grid, 2 a clear one) are the medians over the three frames of what models/measures/quality.py measures.
The scan decodes without the codec's loop filter and stores JPEGs of at most 360 lines. So
blockiness says how coarsely a video was coded rather than what a player shows, and it says less the larger a video is.
`bar_top`, `bar_bottom`, `bar_left` and `bar_right` are the widths of those bars, in pixels of the picture as shown,
over all stored frames of the clip, 0 for none; `crop` is what removes them, as ffmpeg's filter `crop` takes it,
"w:h:x:y", null where there are none. All other columns are of the picture inside them. `combing` is the ninth decile
over the stored frames of what tasks/media/canonical_picture.py measures: from 0.5 the clip is interlaced, whatever its
file says, and is deinterlaced wherever it is looked at; null where too little moves to say.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.measures.quality import NO_BARS, Bars, blockiness, exposure, find_bars, measure_range, sharpness
from models.pictures import Frames
from tasks import clip_measures
from tasks.caching import Step
from tasks.curate.video_manifests import ClipRow, VideoManifests, make_clip_rows, measure_video
from tasks.manifest import ManifestRef
from tasks.media.frame_store import load_first_middle_last, read_combing, read_lumas

VERSION = 2

NEEDS = {"scan": ("frame_store",), "split": ("clip_id", "start_pts", "end_pts", "width", "height")}

SCHEMA = clip_measures.make_step_schema(clip_measures.LOOK)

STEP = Step("look", VERSION, SCHEMA)

PALETTE = {
    "black": (15, 15, 15),
    "grey": (125, 125, 125),
    "white": (245, 245, 245),
    "red": (200, 35, 40),
    "orange": (235, 130, 35),
    "yellow": (240, 215, 60),
    "green": (65, 150, 65),
    "teal": (35, 145, 150),
    "blue": (45, 80, 190),
    "light blue": (150, 195, 235),
    "purple": (125, 55, 165),
    "pink": (240, 145, 185),
    "brown": (110, 70, 40),
    "beige": (220, 200, 165),
}
"""The colours that have a name here, sRGB."""


class LookConfig(BaseModel):
    """Which colours are named."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_colours: int = Field(default=2, ge=1, description="At most this many colours are named.")
    min_colour_share: float = Field(
        default=0.15, ge=0, le=1, description="A further colour is named from this share up."
    )


def luma(frame: Frames) -> Frames:
    """Return the luma of an RGB frame, uint8 [height, width]."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def hash_frame(frame: Frames) -> str:
    """Return 64 bits as 16 hexadecimal digits: which of the 8x8 lowest cosine frequencies of the luma exceed their
    median."""
    small = cv2.resize(luma(frame).astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(small)[:8, :8].ravel()
    bits = lowest > np.median(lowest)
    return np.packbits(bits).tobytes().hex()


def name_colours(frame: Frames, config: LookConfig) -> list[str]:
    """Name a frame's colours, each pixel's by the nearest of PALETTE in CIELAB, the most frequent first."""
    small = cv2.resize(frame, (48, 48), interpolation=cv2.INTER_AREA)
    distances = np.linalg.norm(
        _convert_to_lab(small).reshape(-1, 1, 3) - _convert_to_lab(_make_palette()).reshape(1, -1, 3), axis=-1
    )
    shares = np.bincount(distances.argmin(axis=1), minlength=len(PALETTE)) / len(distances)
    order = np.argsort(-shares, kind="stable")[: config.max_colours]
    names = list(PALETTE)
    return [names[i] for rank, i in enumerate(order) if rank == 0 or shares[i] >= config.min_colour_share]


def describe_look(frames: Frames, config: LookConfig) -> dict[str, Any]:
    """Return the measured columns of a clip from its first, middle and last frame, uint8 RGB [1 to 3, height, width,
    3]."""
    lumas = [luma(frame) for frame in frames]
    return {
        "brightness": float(np.mean(lumas)),
        "contrast": float(max(picture.std() for picture in lumas)),
        "colours": name_colours(frames[len(frames) // 2], config),
        "phash": [hash_frame(frames[round(i * (len(frames) - 1) / 2)]) for i in range(3)],
    }


def measure_quality(frames: Frames, shown: tuple[int, int], bars: Bars = NO_BARS) -> dict[str, Any]:
    """Return the quality columns of a clip from the same frames; `shown` is the video's size (width, height), and
    `bars` are in its pixels."""
    lumas = [luma(frame) for frame in frames]
    stored = bars.shrunk(shown, lumas[0])
    return {
        "sharpness": float(np.median([sharpness(picture, stored) for picture in lumas])),
        "exposure": float(np.median([exposure(picture, stored) for picture in lumas])),
        "blockiness": float(np.median([blockiness(picture, shown, stored) for picture in lumas])),
        **{f"bar_{side}": width for side, width in asdict(bars).items()},
        "crop": bars.crop(*shown),
    }


def _convert_to_lab(picture: NDArray[Any]) -> NDArray[np.float32]:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab).astype(np.float32)


def _make_palette() -> Frames:
    return np.array([list(PALETTE.values())], np.uint8)


def measure_clip(store: Path, clip: ClipRow, config: LookConfig) -> dict[str, Any]:
    """Measure one clip of the split, from its frames in `store`; return its columns."""
    span, shown = (clip["start_pts"], clip["end_pts"]), (clip["width"], clip["height"])
    frames = load_first_middle_last(store, *span)
    bars = find_bars(measure_range(read_lumas(store, *span)), shown)
    inside = np.stack([np.ascontiguousarray(bars.cut(frame, shown)) for frame in frames])
    combing = read_combing(store, *span)
    measured = describe_look(inside, config) | measure_quality(frames, shown, bars)
    return measured | {"combing": float(np.quantile(combing, 0.9)) if combing else None}


@task(name="look")
def measure_look(root: Path, config: LookConfig, videos: Sequence[VideoManifests]) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos."""

    def measure(store: Path, clips: Sequence[ClipRow]) -> list[dict[str, Any]]:
        return make_clip_rows(clips, lambda clip: measure_clip(store, clip, config), "look")

    return [measure_video(STEP, root, config, NEEDS, video, measure) for video in videos]
