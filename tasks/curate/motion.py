"""Motion: how much moves in a clip, and how the camera moved, from optical flow between its stored frames.

`motion_score` is the mean magnitude of the flow over time and space, in short sides of the frame per second: 0 is a
freeze, and higher is faster. It depends neither on the resolution nor on the frame rate. Source: Stable Video Diffusion
(arXiv 2311.15127, C.3): Farneback's flow at 2 frames per second, and RAFT at 800x450 for the last stage, which is the
engine `raft`. Both work on stored frames inside the black bars, so nothing is decoded, and give the same units: bars do
not change the short side, which is the whole frame's. The camera's columns are those of models/measures/camera.py.
Where the camera is lost between two frames, its speed is measured to a frame that the scan stored soon after the first;
where it is lost all the same, `camera_motion` is "unknown", the camera's other columns and `object_motion` are null,
and `motion_score` is what the flow shows, which is too little.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import TooShort
from models.measures.camera import MIN_STEP_S, CameraMotion, FlowOfFrames
from models.measures.camera import measure_motion as measure_frames
from models.measures.quality import Bars
from models.measures.raft import measure_raft_flow
from models.pictures import Frames
from models.weights.hub_cache import ModelName, find_model
from tasks import clip_measures
from tasks.attempts import tried
from tasks.caching import Step
from tasks.child_process import run_in_child
from tasks.curate.video_manifests import ClipRow, VideoManifests, make_clip_rows, measure_video, read_bars
from tasks.manifest import ManifestRef
from tasks.media.frame_store import FramesOnDemand, load_frames, read_frame_times

VERSION = 3

NEEDS = {
    "scan": ("frame_store",),
    "split": ("clip_id", "start_pts", "end_pts", "start_s", "end_s", "width", "height"),
    "look": ("clip_id", "bar_top", "bar_bottom", "bar_left", "bar_right"),
}

SCHEMA = clip_measures.make_step_schema(clip_measures.MOTION)

STEP = Step("motion", VERSION, SCHEMA)

SOON_S = 0.25
"""A frame at most this long after another one shows what a fast camera does."""

LIMIT_S, LIMIT_FACTOR = 300.0, 10.0
"""Time limit for the clips of a video, fixed and per second of them: about a hundred times what it takes."""


class MotionConfig(BaseModel):
    """How densely motion is measured, and by which optical flow."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frames_per_s: float = Field(default=2.0, gt=0, description="Frames measured per second, where enough are stored.")
    engine: Literal["farneback", "raft"] = Field(
        default="farneback",
        description="The optical flow: OpenCV's Farneback, or torchvision's RAFT, finer and slower.",
    )
    raft_weights: ModelName = Field(
        default="raft_large.safetensors", description="raft: the weights, of torchvision's raft_large or raft_small."
    )
    raft_short_side: int = Field(default=450, ge=128, description="raft: short side of the pictures it looks at.")


def list_models(config: MotionConfig) -> dict[str, str]:
    """Return the models that the settings ask for, by the setting that names them."""
    return {"raft_weights": config.raft_weights} if config.engine == "raft" else {}


def resolve_settings(config: MotionConfig) -> tuple[MotionConfig, str | None]:
    """Return the settings that the engine reads, the others at their defaults, and the revision of its weights."""
    if config.engine == "farneback":
        return MotionConfig(frames_per_s=config.frames_per_s), None
    revision = find_model(config.raft_weights).revision
    return config.model_copy(update={"raft_weights": revision}), revision


def choose_flow(config: MotionConfig) -> FlowOfFrames | None:
    """Return the finer optical flow where it is asked for, else None."""
    if config.engine == "farneback":
        return None
    return partial(measure_raft_flow, find_model(config.raft_weights).path, short_side=config.raft_short_side)


def space_evenly(times_s: Sequence[float], frames_per_s: float) -> list[int]:
    """Return the indices of the frames nearest to every 1/frames_per_s after the first, and of the last frame; each
    once."""
    if not times_s:
        return []
    times = np.asarray(times_s)
    ticks = np.arange(times[0], times[-1], 1 / frames_per_s)
    # A last step shorter than half of the others would weigh noise more than motion: it replaces the tick before.
    if len(ticks) > 1 and times[-1] - ticks[-1] < 0.5 / frames_per_s:
        ticks = ticks[:-1]
    nearest = {int(np.abs(times - tick).argmin()) for tick in ticks}
    return sorted(nearest | {len(times) - 1})


def describe_motion(motion: CameraMotion) -> dict[str, Any]:
    """Return a measured motion under the names of the manifest's columns; nulls for what is unknown."""
    named = {"motion_score": motion.magnitude, "camera_motion": motion.motion}
    if motion.motion == "unknown":
        return named
    return named | {
        "camera_strength": motion.strength,
        "camera_pan": motion.pan,
        "camera_tilt": motion.tilt,
        "camera_zoom": motion.zoom,
        "camera_roll": motion.roll,
        "object_motion": motion.object_motion,
    }


def find_inner_side(bars: Bars, shown: tuple[int, int]) -> float:
    """Return the short side of the picture inside the bars, in short sides of the whole one."""
    inner = shown[0] - bars.left - bars.right, shown[1] - bars.top - bars.bottom
    return min(inner) / min(shown) if min(inner) > 0 else 1.0


def scale_lengths(motion: CameraMotion, side: float) -> CameraMotion:
    """Return a motion whose lengths are in sides as long as `side` of another unit, in that unit."""
    lengths = ("strength", "pan", "tilt", "object_motion", "magnitude")
    return replace(motion, **{name: getattr(motion, name) * side for name in lengths})


def measure_clip(store: Path, clip: ClipRow, config: MotionConfig) -> dict[str, Any]:
    """Measure one clip of the split, from its frames in `store`; return its columns."""
    stored = [frame for frame in read_frame_times(store) if clip["start_pts"] <= frame[0] < clip["end_pts"]]
    chosen = [stored[i] for i in space_evenly([time for _, time in stored], config.frames_per_s)]
    if len(chosen) < 2:
        raise TooShort(
            f"frames stored: {len(chosen)}, and motion needs two. If it has more, raise --scan.frames-per-s."
        )
    bars, shown = read_bars(clip), (clip["width"], clip["height"])
    frames = FramesOnDemand(store, [pts for pts, _ in chosen], lambda picture: bars.cut(picture, shown))

    def find_soon(index: int) -> tuple[Frames, float] | None:
        found = load_soon_after(store, stored, chosen, index)
        return None if found is None else (bars.cut(found[0], shown), found[1])

    motion = measure_frames(frames, [time for _, time in chosen], choose_flow(config), find_soon)
    return describe_motion(scale_lengths(motion, find_inner_side(bars, shown)))


def load_soon_after(
    store: Path, stored: Sequence[tuple[int, float]], chosen: Sequence[tuple[int, float]], index: int
) -> tuple[Frames, float] | None:
    """Return the first frame stored at least MIN_STEP_S and at most SOON_S after a chosen one, and its time; None where
    there is none. Frames are (pts, seconds)."""
    start_s = chosen[index][1]
    for pts, time_s in stored:
        if MIN_STEP_S - 1e-6 <= time_s - start_s <= SOON_S:
            return load_frames(store, [pts])[0], time_s
    return None


def measure_clips(store: Path, clips: Sequence[ClipRow], config: MotionConfig) -> list[dict[str, Any]]:
    """Return the rows of a video's clips, measured on one core."""
    cv2.setNumThreads(1)
    return make_clip_rows(clips, lambda clip: measure_clip(store, clip, config), "motion")


def measure_in_child(store: Path, clips: Sequence[ClipRow], config: MotionConfig) -> list[dict[str, Any]]:
    """Measure the clips in a child process, because Farneback's flow and the fit are many short calls for which threads
    of one process wait for each other. RAFT runs in this process, where its network is loaded."""
    if config.engine == "raft":
        return measure_clips(store, clips, config)
    limit_s = LIMIT_S + LIMIT_FACTOR * sum(clip["end_s"] - clip["start_s"] for clip in clips)
    return tried(
        lambda: run_in_child(measure_clips, store, clips, config, limit_s=limit_s),
        lambda failure: [{"clip_id": clip["clip_id"], "attempt": 1, **failure} for clip in clips],
        "motion",
    )


@task(name="motion")
def measure_motion(root: Path, config: MotionConfig, videos: Sequence[VideoManifests]) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos."""
    settings, revision = resolve_settings(config)
    measure = partial(measure_in_child, config=config)
    return [measure_video(STEP, root, settings, NEEDS, video, measure, revision) for video in videos]
