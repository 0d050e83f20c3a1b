"""Motion: how much moves in a clip, and how the camera moved, from optical flow between its stored frames.

`motion_score` is the mean magnitude of the flow over time and space, in short sides of the frame per second: 0 is a
freeze, and higher is faster. It depends neither on the resolution nor on the frame rate. Source: Stable Video Diffusion
(arXiv 2311.15127, C.3): Farneback's flow at 2 frames per second. The camera's columns are those of models/camera.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.camera import CameraMotion
from models.camera import measure_motion as measure_frames
from models.errors import BadMedia, ReelmillError
from tasks.caching import Step, cached
from tasks.frames import load_frames, read_frame_times
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of

VERSION = 1

NEEDS_OF_SCAN = ("frame_store",)

NEEDS = ("clip_id", "start_pts", "end_pts")
"""Columns of the split that this step reads."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("motion_score", pa.float32()),
        ("camera_motion", pa.string()),
        ("camera_strength", pa.float32()),
        ("camera_pan", pa.float32()),
        ("camera_tilt", pa.float32()),
        ("camera_zoom", pa.float32()),
        ("camera_roll", pa.float32()),
        ("object_motion", pa.float32()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("motion", VERSION, SCHEMA)


class MotionConfig(BaseModel):
    """How densely motion is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames_per_s: float = Field(
        default=2.0, gt=0, description="Frames measured for each second, as far as they are stored."
    )


def evenly_spaced(times_s: Sequence[float], frames_per_s: float) -> list[int]:
    """Indices of the frames nearest to every 1/frames_per_s after the first, and of the last frame; each once."""
    if not times_s:
        return []
    times = np.asarray(times_s)
    ticks = np.arange(times[0], times[-1], 1 / frames_per_s)
    # A last step shorter than half of the others would weigh noise more than motion: it replaces the tick before.
    if len(ticks) > 1 and times[-1] - ticks[-1] < 0.5 / frames_per_s:
        ticks = ticks[:-1]
    nearest = {int(np.abs(times - tick).argmin()) for tick in ticks}
    return sorted(nearest | {len(times) - 1})


def columns_of(motion: CameraMotion) -> dict[str, Any]:
    """A measured motion under the names of the manifest's columns."""
    return {
        "motion_score": motion.magnitude,
        "camera_motion": motion.motion,
        "camera_strength": motion.strength,
        "camera_pan": motion.pan,
        "camera_tilt": motion.tilt,
        "camera_zoom": motion.zoom,
        "camera_roll": motion.roll,
        "object_motion": motion.object_motion,
    }


def measure_clip(store: Path, clip: dict[str, Any], config: MotionConfig) -> dict[str, Any]:
    """The row of one clip of the split, from its frames in `store`; nulls and the reason when it cannot be measured."""
    row = {"clip_id": clip["clip_id"], "attempt": 1}
    try:
        stored = [frame for frame in read_frame_times(store) if clip["start_pts"] <= frame[0] < clip["end_pts"]]
        chosen = [stored[i] for i in evenly_spaced([time for _, time in stored], config.frames_per_s)]
        if len(chosen) < 2:
            raise BadMedia(f"{clip['clip_id']}: {len(chosen)} stored frames are too few to see motion, two are needed.")
        frames = load_frames(store, [pts for pts, _ in chosen])
        return row | columns_of(measure_frames(frames, [time for _, time in chosen]))
    except ReelmillError as error:
        return row | {"error_code": error.code, "error_message": str(error)}


def measure_video(root: Path, config: MotionConfig, scan: ManifestRef, split: ManifestRef) -> ManifestRef:
    """The motion of one video's clips below `root`: found, or measured."""

    def compute(_: str) -> pa.Table:
        stores = [root / row["frame_store"] for row in read_rows(scan, NEEDS_OF_SCAN) if row["frame_store"]]
        rows = [measure_clip(store, clip, config) for store in stores for clip in read_rows(split, NEEDS)]
        return table_of(rows, SCHEMA)

    return cached(STEP, root, config, [scan, split], compute)


@task(name="motion", cache_policy=NO_CACHE)
def measure_motion(
    root: Path, config: MotionConfig, videos: list[tuple[ManifestRef, ManifestRef]]
) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos, each given by its scan and its split."""
    return [measure_video(root, config, scan, split) for scan, split in videos]
