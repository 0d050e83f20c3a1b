"""A dataset of made-up measurements, as large as one likes: clips.parquet, videos.parquet and a little footage.

The columns are those of a real dataset, with their types and about their sizes (a caption of some 80 letters, three
hashes), so that what is measured on it is what a real one costs. Motion, text area and the scores are drawn from
long-tailed distributions; one clip in twenty looks like another.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.caching import make_lineage
from tasks.curate import ingest, join
from tasks.curate.select import select_clips
from tasks.footage import Camera, Scene, render_shot
from tasks.keep_rules import SelectConfig
from tasks.manifest import Lineage, make_table, write_manifest
from tasks.media.frame_store import frame_writer

MOTIONS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "complex")

CLIP_S, TICKS = 4, 1000

STORES = 8
"""Frame stores with real pictures; the videos take turns with them."""


def measurements(count: int, videos: int, seed: int = 0) -> pa.Table:
    """`count` joined clips of `videos` files, as the step join writes them."""
    rng = np.random.default_rng(seed)
    video, place = np.divmod(np.arange(count), -(-count // videos))
    start = place * CLIP_S
    names = np.array([f"{v:016x}" for v in range(videos)])[video]
    lengths = np.round(rng.gamma(4.0, 1.2, count) + 0.4, 3)
    columns: dict[str, pa.Array] = {
        "clip_id": pa.array([f"{n}-{s * TICKS}-{(s + CLIP_S) * TICKS}" for n, s in zip(names, start, strict=True)]),
        "video_id": pa.array(names.tolist()),
        "source": pa.array([f"/films/{v:05d}/take {v % 7}.mp4" for v in video]),
        "start_s": pa.array(start.astype(float)),
        "end_s": pa.array(start + lengths),
        "start_pts": pa.array(start * TICKS),
        "end_pts": pa.array((start + CLIP_S) * TICKS),
        "shot_start_pts": pa.array(start * TICKS),
        "time_base": pa.array([f"1/{TICKS}"] * count),
        "width": pa.array(np.where(video % 3, 1280, 1920).astype(np.int32)),
        "height": pa.array(np.where(video % 3, 720, 1080).astype(np.int32)),
        "camera_motion": pa.array(np.array(MOTIONS)[rng.integers(0, len(MOTIONS), count)].tolist()),
        "caption": pa.array([_sentence(i) for i in range(count)]),
        "caption_engine": pa.array(["attributes"] * count),
        "phash": pa.array(_hashes(rng, count).tolist(), pa.list_(pa.string())),
        "dedup_group": pa.array(_groups(rng, count)),
    }
    scores = {
        "fps": np.full(count, 24.0),
        "change": rng.gamma(2.0, 2.0, count),
        "brightness": rng.normal(110, 40, count),
        "contrast": np.abs(rng.normal(50, 20, count)),
        "motion_score": rng.lognormal(-2.0, 1.1, count),
        "camera_strength": rng.lognormal(-2.3, 1.0, count),
        "object_motion": rng.lognormal(-3.0, 1.0, count),
        "text_area": np.where(rng.random(count) < 0.6, 0.0, rng.beta(0.7, 12, count)),
        "clip_similarity": rng.normal(0.26, 0.03, count),
        "aesthetic": rng.normal(5.0, 0.7, count),
    }
    columns |= {name: pa.array(values, join.SCHEMA.field(name).type) for name, values in scores.items()}
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in join.SCHEMA], join.SCHEMA)


def make_dataset(root: Path, count: int, videos: int) -> Path:
    """A dataset of `count` clips at `root`, decided with the default thresholds; its clips have pictures."""
    facts = [_file(f"{number:016x}", number) for number in range(videos)]
    for number in range(min(STORES, videos)):
        _store(root / f"frames/{number}.parquet", number, -(-count // videos))
    made = Lineage(step="videos", version=1)
    write_manifest(root / "videos.parquet", make_table(facts, join.make_videos_schema(ingest.SCHEMA)), made)
    joined = write_manifest(
        root / "manifests/join/made.parquet", measurements(count, videos), make_lineage(join.STEP, None, ())
    )
    return select_clips(root, SelectConfig(), joined).clips.path


def _sentence(i: int) -> str:
    return f"Clip {i}: the camera glides past something green and grey while a bus waits, number {i * 7919 % 10007}."


def _hashes(rng: np.random.Generator, count: int) -> NDArray[np.str_]:
    return np.array([f"{one:016x}" for one in rng.integers(0, 2**63, 3 * count)]).reshape(count, 3)


def _groups(rng: np.random.Generator, count: int) -> list[str | None]:
    drawn = rng.integers(0, max(count // 60, 1), count).tolist()
    alike = (rng.random(count) < 0.05).tolist()
    return [f"{group:016x}" if repeats else None for group, repeats in zip(drawn, alike, strict=True)]


def _file(video: str, number: int) -> dict[str, object]:
    return {
        "video_id": video, "source": f"/films/{number:05d}/take {number % 7}.mp4", "bytes": 9_000_000, "codec": "h264",
        "width": 1280, "height": 720, "fps": 24.0, "duration_s": 240.0, "status": "ok", "decodes": 1, "clips": 50,
        "frame_store": f"frames/{number % STORES}.parquet", "attempt": 1,
    }  # fmt: skip


def _store(path: Path, seed: int, clips: int) -> None:
    """Two frames a second, as large as the scan stores them, over as many clips as a file has."""
    camera = Camera(pan=0.05 * (seed - 3), zoom=0.02 * (seed % 3))
    pictures = render_shot(Scene(seed, movers=1), camera, 24, 2.0, (640, 360))
    times = range(clips * CLIP_S * 2)
    with frame_writer(path) as writer:
        for t in times:
            writer.add(t * TICKS // 2, t / 2, pictures[t % len(pictures)])
