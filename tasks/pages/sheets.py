"""Contact sheets: clips of a dataset as strips of their stored frames, so that a page shows motion without a video."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.pictures import Frames
from tasks.attempts import caught
from tasks.ledger import resolve_inside
from tasks.media.frame_store import load_frames, read_frame_times
from tasks.pages.dataset import Dataset
from tasks.pages.page import make_data_uri

log = logging.getLogger("reelmill")

FRAMES_OF_STRIP = 6

CELL_SIDE = 192
"""Longer side of a strip's frames, in pixels."""

JPEG_QUALITY = 72


class Strip(NamedTuple):
    """Frames of a clip side by side in one picture: its address, the number of frames, and the width and height of
    each."""

    url: str
    frames: int
    width: int
    height: int

    @property
    def rest(self) -> float:
        """Return where the middle frame is, as CSS counts background positions: 0 the first, 100 the last, in
        percent."""
        return 100.0 * ((self.frames - 1) // 2) / max(self.frames - 1, 1)


class Sheet(NamedTuple):
    """Some clips of a group: the rows of those shown, each with its `strip`, and the number of all."""

    name: str
    cards: list[dict[str, Any]]
    clips: int

    @property
    def more(self) -> int:
        """Return how many are not shown."""
        return self.clips - len(self.cards)


def sample_rows(rows: Sequence[int], cap: int) -> list[int]:
    """Return at most `cap` of the rows, evenly chosen, the first and the last among them."""
    if len(rows) <= cap:
        return list(rows)
    return [rows[round(i)] for i in np.linspace(0, len(rows) - 1, cap)]


def group_rows(dataset: Dataset, column: str, among: NDArray[np.bool_]) -> dict[Any, list[int]]:
    """Group the rows `among` the clips by their value in `column`, in the order of first appearance."""
    groups: dict[Any, list[int]] = {}
    values = dataset.clips[column].to_pylist()
    for row in np.flatnonzero(among).tolist():
        groups.setdefault(values[row], []).append(row)
    return groups


class Reel:
    """The pictures of a dataset's clips, as strips; each frame store's index is read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._times: dict[str, list[tuple[int, float]]] = {}

    def strip(self, clip: Mapping[str, Any], frames: int = FRAMES_OF_STRIP, side: int = CELL_SIDE) -> Strip | None:
        """Return the strip of a clip from its stored frames; None, with a warning in the log, when there are none."""
        name = self.dataset.stores.get(clip["video_id"], "")
        strip = caught(lambda: self._strip(clip, name, frames, side), f"{clip['clip_id']}: its strip")
        if isinstance(strip, Exception):
            log.warning("%s: shown without pictures. %s", clip["clip_id"], strip)
            return None
        return strip

    def _strip(self, clip: Mapping[str, Any], name: str, frames: int, side: int) -> Strip | None:
        store = resolve_inside(self.dataset.root, name)
        if name not in self._times:
            self._times[name] = read_frame_times(store)
        stored = [frame for frame in self._times[name] if clip["start_pts"] <= frame[0] < clip["end_pts"]]
        pictures = load_frames(store, [stored[i][0] for i in choose_frames([time for _, time in stored], frames)])
        return join_frames(pictures, side) if len(pictures) else None


def make_sheet(reel: Reel, name: str, rows: Sequence[int], cap: int) -> Sheet:
    """Return a sheet of at most `cap` of these rows, evenly chosen."""
    shown = reel.dataset.clips.take(pa.array(sample_rows(rows, cap), pa.int64())).to_pylist()
    return Sheet(name, [clip | {"strip": reel.strip(clip)} for clip in shown], len(rows))


def make_kept_sheets(reel: Reel, cap: int) -> list[Sheet]:
    """Return the kept clips by their camera motion, the largest group first."""
    groups = group_rows(reel.dataset, "camera_motion", reel.dataset.keep)
    by_size = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0] or ""))
    return [make_sheet(reel, name or "", rows, cap) for name, rows in by_size]


def choose_frames(times_s: Sequence[float], number: int) -> list[int]:
    """Return the indices of at most `number` frames nearest to evenly spaced times, the first and the last among
    them."""
    if not times_s:
        return []
    times = np.asarray(times_s)
    ticks = np.linspace(times[0], times[-1], number)
    return sorted({int(np.abs(times - tick).argmin()) for tick in ticks})


def join_frames(pictures: Frames, side: int = CELL_SIDE) -> Strip:
    """Shrink frames, uint8 RGB [frames, height, width, 3], to `side` if larger, and put them side by side in one
    JPEG."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, side / max(height, width))
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    cells = [cv2.resize(picture, cell, interpolation=cv2.INTER_AREA) for picture in pictures]
    strip = cv2.cvtColor(np.hstack(cells), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Strip(make_data_uri(jpeg.tobytes(), "image/jpeg"), len(cells), *cell)
