"""A small curated dataset on disk, made of real tables and a real frame store, for whatever shows one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.caching import make_lineage
from tasks.curate.ingest import SCHEMA as INGEST
from tasks.curate.join import SCHEMA as CLIPS
from tasks.curate.join import STEP as JOIN
from tasks.curate.join import make_videos_schema
from tasks.curate.select import select_clips
from tasks.footage import Camera, Scene, render_shot
from tasks.keep_rules import SelectConfig
from tasks.manifest import Lineage, ManifestRef, make_table, write_manifest
from tests.frame_stores import write_frames

Rows = Sequence[dict[str, Any]]
Curated = Callable[..., ManifestRef]

CLIP_PTS, FRAME_PTS, STORED = 1000, 250, 41
"""A clip of 2 s in a time base of 1/500, the distance between stored frames, and how many are stored."""


def _clip(number: int, changes: dict[str, Any]) -> dict[str, Any]:
    video = changes.get("video_id", "a")
    start, end = number * CLIP_PTS, (number + 1) * CLIP_PTS
    row = {
        "clip_id": f"{video}-{number}", "video_id": video, "source": f"/films/{video}.mp4", "start_s": start / 500,
        "end_s": end / 500, "start_pts": start, "end_pts": end, "shot_start_pts": start, "motion_score": 0.3,
        "camera_motion": "pan_right", "camera_strength": 0.28, "text_area": 0.0, "change": 4.0, "contrast": 40.0,
        "caption": f"caption {number} of {video}", "caption_engine": "attributes",
    }  # fmt: skip
    return row | changes


def _file(changes: dict[str, Any]) -> dict[str, Any]:
    video = changes["video_id"]
    row = {
        "source": f"/films/{video}.mp4", "bytes": 120_000, "codec": "h264", "width": 96, "height": 64, "fps": 24.0,
        "duration_s": 10.0, "status": "ok", "decodes": 1, "clips": 5, "frame_store": f"frames/{video}.parquet",
        "attempt": 1,
    }  # fmt: skip
    return row | changes


def _store(path: Path, seed: int) -> None:
    pictures = render_shot(Scene(seed, movers=0), Camera(pan=0.2), STORED, 2.0, (96, 64))
    write_frames(path, ((i * FRAME_PTS, i * FRAME_PTS / 500, picture) for i, picture in enumerate(pictures)))


@pytest.fixture
def curated(tmp_path: Path) -> Curated:
    """Writes a dataset: each clip and each file is given by what is not usual in it, and `config` decides.

    The clips follow one another, 2 s each, in video "a" if not said otherwise; `files` adds to the clips' videos.
    """

    def write(clips: Rows, files: Rows = (), config: SelectConfig | None = None) -> ManifestRef:
        root, config = tmp_path / "films", config or SelectConfig()
        rows = [_clip(number, clip) for number, clip in enumerate(clips)]
        own = sorted({row["video_id"] for row in rows} - {file["video_id"] for file in files})
        videos = [_file(file) for file in (*({"video_id": name} for name in own), *files)]
        for seed, video in enumerate(videos):
            if video["frame_store"]:
                _store(root / video["frame_store"], seed)
        made = Lineage(step="videos", version=1)
        write_manifest(root / "videos.parquet", make_table(videos, make_videos_schema(INGEST)), made)
        path = root / "manifests" / "join" / "made.parquet"
        joined = write_manifest(path, make_table(rows, CLIPS), make_lineage(JOIN, None, ()))
        return select_clips(root, config, joined).clips

    return write
