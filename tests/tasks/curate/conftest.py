"""A dataset as the scan and the split leave it, made by hand from frames: the steps after them start here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.caching import make_lineage
from tasks.curate import scan, split
from tasks.curate.video_manifests import VideoManifests
from tasks.manifest import ManifestRef, make_table, write_manifest
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video
from tests.frame_stores import write_frames
from tests.numbered_films import FPS, FRAMES, Make, encoded, numbered

cv2.setNumThreads(1)

Frames = NDArray[np.uint8]

TICKS = 1000
"""Units of pts in a second."""


@dataclass
class Dataset:
    """The folder, and `add`, which stores shots one after the other as a video and returns its scan and split."""

    root: Path

    def add(self, video_id: str, shots: Sequence[Frames], fps: float = 24.0, every: int = 1) -> VideoManifests:
        """Each shot is a clip; every `every`-th frame of the video is stored, and each shot's first and last."""
        frames = np.concatenate(list(shots))
        pts = [round(i * TICKS / fps) for i in range(len(frames) + 1)]
        edges = np.cumsum([0, *(len(shot) for shot in shots)]).tolist()
        kept = sorted({*range(0, len(frames), every), *edges[:-1], *(edge - 1 for edge in edges[1:])})
        store = f"frames/{video_id}.parquet"
        write_frames(self.root / store, ((pts[i], pts[i] / TICKS, frames[i]) for i in kept), quality=98)
        return VideoManifests(
            self._scan(video_id, frames, pts, store), self._split(video_id, edges, pts, fps, frames.shape)
        )

    def failed(self, video_id: str) -> VideoManifests:
        """A video that could not be decoded."""
        row = {"video_id": video_id, "error_code": "bad_media", "error_message": f"{video_id}: broken.", "attempt": 1}
        return VideoManifests(
            self._write("scan", video_id, scan.STEP, [row]), self._write("split", video_id, split.STEP, [])
        )

    def _scan(self, video_id: str, frames: Frames, pts: list[int], store: str) -> ManifestRef:
        change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        facts = {"video_id": video_id, "frames": len(frames), "decodes": 1, "lost": 0, "dropped": 0, "attempt": 1}
        signals = {"pts": pts[:-1], "change": [0.0, *change.tolist()], "frame_store": store}
        return self._write("scan", video_id, scan.STEP, [facts | signals])

    def _split(
        self, video_id: str, edges: list[int], pts: list[int], fps: float, shape: tuple[int, ...]
    ) -> ManifestRef:
        rows = [
            {
                "clip_id": f"{video_id}-{pts[a]}-{pts[b]}",
                "video_id": video_id,
                "time_base": f"1/{TICKS}",
                "start_pts": pts[a],
                "end_pts": pts[b],
                "start_s": pts[a] / TICKS,
                "end_s": pts[b] / TICKS,
                "shot_start_pts": pts[a],
                "shot_end_pts": pts[b],
                "shot_start_s": pts[a] / TICKS,
                "shot_end_s": pts[b] / TICKS,
                "fps": fps,
                "frames": b - a,
                "width": shape[2],
                "height": shape[1],
                "attempt": 1,
            }
            for a, b in pairwise(edges)
        ]
        return self._write("split", video_id, split.STEP, rows)

    def _write(self, folder: str, name: str, step: scan.Step, rows: list[dict]) -> ManifestRef:
        path = self.root / "manifests" / folder / f"{name}.parquet"
        return write_manifest(path, make_table(rows, step.schema), make_lineage(step, None, [name]))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """An empty dataset; see Dataset.add."""
    return Dataset(tmp_path / "data")


@pytest.fixture
def flat() -> Callable[..., Frames]:
    """Frames of one colour, [frames, 48, 64, 3]."""
    return lambda count, level=0: np.full((count, 48, 64, 3), level, np.uint8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numbered") / "plain.mp4"
    write_video(path, numbered(FRAMES), FPS, crf=4)
    return path


@pytest.fixture(scope="module")
def make(plain: Path) -> Make:
    """Another file of the same frames; `before` are ffmpeg's input options."""

    def convert(name: str, *options: str, source: Path = plain, before: tuple[str, ...] = ()) -> Path:
        target = plain.with_name(name)
        command = [find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(source), *options, str(target)]
        run_ffmpeg(command, None, name)
        return target

    return convert


@pytest.fixture(scope="module")
def source(make: Make) -> Path:
    return encoded(make, "source.mp4")
