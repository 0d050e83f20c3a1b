"""The footage that the embedded model learns from: rendered scenes whose camera motion is known, not measured.

Every scene is filmed once and shown twice, forwards and backwards: the same pictures with the opposite motion, so that
only the motion distinguishes the two. Unit of speed: short sides per second; `motion_score` is the mean flow of the
camera alone (a zoom of 1 e-fold per second moves a square picture by 0.38 sides per second on average).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.pictures import Frames
from tasks.caching import Step, find_or_compute
from tasks.footage import OPPOSITE, Camera, Motion, Scene, compute_mean_flow, render_shot
from tasks.manifest import Lineage, ManifestRef, digest_file, make_table, read_manifest, write_manifest
from tasks.media.video import write_video

VERSION = 2

SHARES: dict[Motion, float] = {"static": 0.15, "pan_right": 0.33, "tilt_up": 0.33, "zoom_in": 0.19}
"""How often a scene is filmed with each motion; backwards it shows the opposite one."""

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("camera_motion", pa.string()),
        pa.field("motion_score", pa.float64()),
        pa.field("keep", pa.bool_()),
    ]
)

STEP = Step("render", VERSION, SCHEMA, files=("source",))


class RenderConfig(BaseModel):
    """How much footage is rendered, and how it moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int = Field(default=1000, ge=1, description="Scenes, each shown forwards and backwards")
    scenes_per_file: int = Field(default=40, ge=1, description="Scenes joined by hard cuts in one file")
    frames: int = Field(default=8, ge=2, description="Frames of a shot")
    fps: float = Field(default=7.0, gt=0, description="Frames per second")
    side: int = Field(default=128, ge=32, description="Width and height of the footage in pixels")
    slowest: float = Field(default=0.25, gt=0, description="Slowest camera, short sides per second")
    fastest: float = Field(default=0.75, gt=0, description="Fastest camera, short sides per second")
    seed: int = Field(default=0, ge=0, description="First scene's seed")


def film_scene(index: int, config: RenderConfig) -> tuple[Motion, float, Frames]:
    """Film scene number `index`; return its motion, its mean flow in short sides per second, and its frames."""
    rng = np.random.default_rng([config.seed, index, 7])
    motions = list(SHARES)
    motion = motions[rng.choice(len(motions), p=list(SHARES.values()))]
    speed = rng.uniform(config.slowest, config.fastest)
    scene = Scene(config.seed + index, movers=int(rng.integers(0, 4)))
    size = (config.side, config.side)
    frames = render_shot(scene, Camera.doing(motion, speed), config.frames, config.fps, size)
    return motion, compute_mean_flow(motion, speed), frames


def render_file(root: Path, key: str, first: int, config: RenderConfig) -> pa.Table:
    """Render one source file below `root`; return a row for each shot, with its true motion."""
    name = f"sources/{key}.mp4"
    shots = list(_film_shots(first, config))
    write_video(root / name, np.concatenate([frames for *_, frames in shots]), config.fps, crf=10)
    digest = digest_file(root / name)
    length = config.frames / config.fps
    rows: list[dict[str, Any]] = []
    for index, (motion, flow, _) in enumerate(shots):
        span = {"start_s": index * length, "end_s": (index + 1) * length}
        place = {"video_id": digest[:16], "source": name, "digest": digest}
        clip_id = f"{digest[:16]}-{index * config.frames}-{(index + 1) * config.frames}"
        rows.append({"clip_id": clip_id, **place, **span, "camera_motion": motion, "motion_score": flow, "keep": True})
    return make_table(rows, SCHEMA)


def _film_shots(first: int, config: RenderConfig) -> Iterator[tuple[Motion, float, Frames]]:
    for index in range(first, min(first + config.scenes_per_file, config.scenes)):
        motion, flow, frames = film_scene(index, config)
        yield motion, flow, frames
        yield OPPOSITE[motion], flow, frames[::-1]


@task(name="render")
def render_files(root: Path, config: RenderConfig, firsts: list[int]) -> list[ManifestRef]:
    """Render the source files that begin at these scenes."""
    return [
        find_or_compute(STEP, root, config, [f"scene {first}"], lambda key, f=first: render_file(root, key, f, config))
        for first in firsts
    ]


@task(name="dataset")
def write_dataset(root: Path, files: Sequence[ManifestRef]) -> ManifestRef:
    """Join the rendered files to a dataset like a curated one: clips.parquet and videos.parquet below `root`."""
    clips = pa.concat_tables([read_manifest(file) for file in files])
    lineage = Lineage(step="dataset", version=VERSION, inputs=tuple(file.digest for file in files))
    videos = clips.select(["video_id", "source", "digest"]).group_by(["video_id", "source", "digest"]).aggregate([])
    write_manifest(root / "videos.parquet", videos.sort_by("source"), lineage)
    return write_manifest(root / "clips.parquet", clips.drop_columns(["digest"]), lineage)
