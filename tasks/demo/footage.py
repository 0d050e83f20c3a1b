"""The demo's footage: short rendered films whose shots, transitions and camera motions are known, and held-out
pictures.

Times are in seconds, speeds in short sides per second (zoom: ln of magnification; roll: 60 degrees for each unit). Each
shot has a scene of its own, whose seed is far from those of the scenes that the embedded model was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.pictures import Frames
from tasks.caching import Step, find_or_compute
from tasks.footage import Camera, Motion, Scene, dissolve, fade_through, render_shot, render_title
from tasks.manifest import ManifestRef, make_table, publish_folder
from tasks.media.video import write_video

VERSION = 2

SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("shot", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("kind", pa.string()),
        ("motion", pa.string()),
        ("speed", pa.float64()),
        ("transition", pa.string()),
        ("transition_s", pa.float64()),
        ("copy_of", pa.string()),
        ("whole", pa.bool_()),
    ]
)
"""One row per shot. transition: how it begins ("start", "cut", "dissolve" or "fade"), over transition_s, for which
shots that dissolve overlap. copy_of: the file whose shots it repeats. whole: the file was not cut short."""

STEP = Step("footage", VERSION, SCHEMA, files=("file",))

FOLDER = "footage"

HELD_OUT = 10_500_000
"""The first seed of scenes that are in no training footage, nor among those that the embedded model is measured on."""

TITLE = ["REELMILL", "RAW FOOTAGE IN", "VIDEO MODELS OUT"]

COPY_CRF = 30
"""The H.264 quality of the re-encoded copy; the other films have 16."""


class FootageConfig(BaseModel):
    """The size of the films; their content is fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=256, ge=32, description="Width in pixels")
    height: int = Field(default=192, ge=32, description="Height in pixels")
    fps: float = Field(default=24.0, gt=0, description="Frames per second")
    seed: int = Field(default=5_000_000, ge=0, description="The first shot's scene; each further shot has the next one")


@dataclass(frozen=True)
class RenderedShot:
    """One shot: what it shows, for how long, and how it begins.

    kind: a scene with moving shapes filmed by a moving camera, the same without the shapes ("freeze" with a
    static camera), a title card, or a flat dark picture.
    """

    motion: Motion
    seconds: float
    speed: float = 0.0
    kind: Literal["scene", "freeze", "title", "flat"] = "scene"
    transition: Literal["cut", "dissolve", "fade"] = "cut"
    transition_s: float = 0.0


class Film(NamedTuple):
    """One file: its shots, the film it repeats the first shots of, and the share of its bytes that is kept."""

    name: str
    shots: tuple[RenderedShot, ...]
    copy_of: str | None = None
    kept_share: float = 1.0


FILMS = (
    Film(
        "cuts-1.mp4",
        (
            RenderedShot("static", 2.2),
            RenderedShot("pan_right", 2.5, 0.35),
            RenderedShot("tilt_up", 2.2, 0.3),
            RenderedShot("pan_right", 2.4, 0.5),
            RenderedShot("zoom_in", 2.2, 0.45),
            RenderedShot("pan_right", 2.6, 0.42),
        ),
    ),
    Film(
        "cuts-2.mp4",
        (
            RenderedShot("pan_left", 2.4, 0.4),
            RenderedShot("pan_right", 2.2, 0.55),
            RenderedShot("static", 2.0),
            RenderedShot("pan_right", 2.8, 0.33),
            RenderedShot("tilt_down", 2.2, 0.35),
            RenderedShot("pan_right", 2.4, 0.45),
        ),
    ),
    Film(
        "cuts-3.mp4",
        (
            RenderedShot("zoom_out", 2.2, 0.4),
            RenderedShot("pan_right", 2.0, 0.6),
            RenderedShot("pan_left", 2.2, 0.5),
            RenderedShot("pan_right", 2.6, 0.38),
            RenderedShot("roll", 2.2, 0.4),
            RenderedShot("pan_right", 2.4, 0.5),
        ),
    ),
    Film(
        "cuts-4.mp4",
        (
            RenderedShot("pan_right", 2.4, 0.4),
            RenderedShot("tilt_up", 2.2, 0.4),
            RenderedShot("pan_right", 2.2, 0.52),
            RenderedShot("static", 2.2),
            RenderedShot("pan_right", 2.6, 0.36),
        ),
    ),
    Film(
        "dissolve.mp4",
        (
            RenderedShot("tilt_down", 2.6, 0.3),
            RenderedShot("pan_left", 2.6, 0.35, transition="dissolve", transition_s=0.5),
            RenderedShot("zoom_in", 2.2, 0.4),
        ),
    ),
    Film(
        "fade.mp4",
        (RenderedShot("static", 2.4), RenderedShot("tilt_up", 2.6, 0.35, transition="fade", transition_s=0.5)),
    ),
    Film(
        "titles.mp4",
        (
            RenderedShot("static", 2.0, kind="title"),
            RenderedShot("pan_right", 2.4, 0.45),
            RenderedShot("static", 2.0, kind="freeze"),
            RenderedShot("tilt_down", 0.6, 0.4),
            RenderedShot("static", 1.5, kind="flat"),
            RenderedShot("zoom_out", 2.2, 0.45),
        ),
    ),
    Film("recoded.mp4", (RenderedShot("static", 2.2), RenderedShot("pan_right", 2.5, 0.35)), copy_of="cuts-1.mp4"),
    Film("truncated.mp4", (RenderedShot("pan_left", 2.0, 0.4), RenderedShot("pan_right", 2.0, 0.4)), kept_share=0.5),
)
"""The films; the copy repeats its original's first shots."""


def render_film(film: Film, config: FootageConfig) -> Frames:
    """Render the film's frames, uint8 RGB [frames, height, width, 3]."""
    shots = zip(film.shots, choose_seeds(film, config.seed), strict=True)
    joined: Frames | None = None
    for shot, seed in shots:
        frames = render_shot_frames(shot, seed, config)
        joined = frames if joined is None else _join(joined, frames, shot, config.fps)
    assert joined is not None, "a film has shots"
    return joined


def choose_seeds(film: Film, first: int) -> range:
    """Return the seeds of the film's scenes, one for each shot; a copy has those of its original."""
    names = [other.name for other in FILMS]
    earlier = FILMS[: names.index(film.copy_of or film.name)]
    start = first + sum(len(other.shots) for other in earlier if not other.copy_of)
    return range(start, start + len(film.shots))


def render_shot_frames(shot: RenderedShot, seed: int, config: FootageConfig) -> Frames:
    """Render one shot, uint8 RGB [frames, height, width, 3]."""
    frames, size = round(shot.seconds * config.fps), (config.width, config.height)
    if shot.kind == "title":
        return render_title(TITLE, frames, size)
    if shot.kind == "flat":
        return np.full((frames, config.height, config.width, 3), 12, np.uint8)
    scene = Scene(seed, movers=0 if shot.kind == "freeze" else 2)
    return render_shot(scene, Camera.doing(shot.motion, shot.speed), frames, config.fps, size)


def _join(before: Frames, after: Frames, shot: RenderedShot, fps: float) -> Frames:
    length = round(shot.transition_s * fps)
    if shot.transition == "dissolve":
        return dissolve(before, after, length)
    if shot.transition == "fade":
        return fade_through(before, after, length)
    return np.concatenate([before, after])


def make_truth_rows(film: Film, fps: float) -> Iterator[dict[str, Any]]:
    """Yield the film's rows of the truth table. A shot's times are those of the frames in which it is visible."""
    end = 0
    for index, shot in enumerate(film.shots):
        overlap = round(shot.transition_s * fps) if shot.transition == "dissolve" else 0
        start = end - overlap
        end = start + round(shot.seconds * fps)
        yield {
            "file": f"{FOLDER}/{film.name}",
            "shot": index,
            "start_s": start / fps,
            "end_s": end / fps,
            "kind": shot.kind,
            "motion": shot.motion,
            "speed": shot.speed,
            "transition": shot.transition if index else "start",
            "transition_s": shot.transition_s,
            "copy_of": film.copy_of and f"{FOLDER}/{film.copy_of}",
            "whole": film.kept_share == 1.0,
        }


def write_film(path: Path, film: Film, frames: Frames, fps: float) -> None:
    """Encode a film; one that is cut short ends in the middle of its data."""
    write_video(path, frames, fps, crf=COPY_CRF if film.copy_of else 16)
    if film.kept_share < 1.0:
        whole = path.read_bytes()
        path.write_bytes(whole[: round(len(whole) * film.kept_share)])


def write_films(folder: Path, config: FootageConfig) -> None:
    """Write every film into `folder`, which appears with all of them or not at all; files of others there stay."""
    with publish_folder(folder) as aside:
        for film in FILMS:
            write_film(aside / film.name, film, render_film(film, config), config.fps)


def write_held_out(folder: Path, number: int, side: int = 128) -> list[Path]:
    """Write `number` square PNG pictures of scenes that are in no training, and return their paths; of those written
    before, no more stay in `folder`."""
    names = [f"picture-{index + 1:02d}.png" for index in range(number)]
    with publish_folder(folder) as aside:
        for index, name in enumerate(names):
            frame = render_shot(Scene(HELD_OUT + index), Camera(), 1, size=(side, side))[0]
            Image.fromarray(np.ascontiguousarray(frame)).save(aside / name, format="PNG")
    return [folder / name for name in names]


@task(name="footage")
def render_footage(root: Path, config: FootageConfig) -> ManifestRef:
    """Find or render the films in `root`/footage and their truth table."""

    def compute(_: str) -> pa.Table:
        write_films(root / FOLDER, config)
        return make_table([row for film in FILMS for row in make_truth_rows(film, config.fps)], SCHEMA)

    return find_or_compute(STEP, root, config, [], compute)
