"""Frame stores written at once, where a test has all the frames."""

from collections.abc import Iterable
from pathlib import Path

from models.pictures import Frames
from tasks.media.frame_store import JPEG_QUALITY, frame_writer


def write_frames(path: Path, frames: Iterable[tuple[int, float, Frames]], quality: int = JPEG_QUALITY) -> None:
    """Write a store from (pts, time in seconds, uint8 RGB picture) in order of time."""
    with frame_writer(path, quality) as writer:
        for pts, time_s, picture in frames:
            writer.add(pts, time_s, picture)
