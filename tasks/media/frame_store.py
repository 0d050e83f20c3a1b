"""The frame store: sampled frames of one video as JPEG in one Parquet file, one row per frame in order of time.

Steps after the scan read pictures here, by pts, and never decode the video again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import BadManifest, TooShort
from models.pictures import Frames
from tasks.ledger import is_whole
from tasks.manifest import publish

SCHEMA = pa.schema([("pts", pa.int64()), ("time_s", pa.float64()), ("combing", pa.float32()), ("jpeg", pa.binary())])
"""`combing` is that of tasks/media/canonical_picture.py at this frame; null where too little moves to say."""

JPEG_QUALITY = 90

ROWS_PER_GROUP = 32
"""Frames held in memory while writing, and the fewest that are read at a time."""

NONE_STORED = "none of its frames is stored. If it is long, raise --scan.frames-per-s."
"""Why a clip cannot be looked at."""


class FrameWriter:
    """A writer that appends frames to a store, in order of time. See `frame_writer`."""

    def __init__(self, file: pq.ParquetWriter, quality: int = JPEG_QUALITY) -> None:
        self._file = file
        self._quality = quality
        self._rows: list[dict[str, int | float | bytes | None]] = []
        self.last_pts: int | None = None

    def add(self, pts: int, time_s: float, picture: Frames, combing: float | None = None) -> None:
        """Append one uint8 RGB picture [height, width, 3]; raises ValueError when it is older than the last one."""
        if self.last_pts is not None and pts <= self.last_pts:
            raise ValueError(f"Frame {pts} comes after frame {self.last_pts}.")
        jpeg = _encode_jpeg(picture, self._quality)
        self._rows.append({"pts": pts, "time_s": time_s, "combing": combing, "jpeg": jpeg})
        self.last_pts = pts
        if len(self._rows) == ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the frames that are held in memory."""
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows.clear()


@contextmanager
def frame_writer(path: Path, quality: int = JPEG_QUALITY) -> Iterator[FrameWriter]:
    """Yield a writer for the store at `path`; the file appears complete when the block succeeds, or not at all."""
    with publish(path) as aside, pq.ParquetWriter(aside, SCHEMA, compression="none") as file:
        writer = FrameWriter(file, quality)
        yield writer
        writer.flush()


def read_frame_times(path: Path) -> list[tuple[int, float]]:
    """Return the (pts, time in seconds) of every stored frame, in order; raises BadManifest."""
    table = _read(path, ["pts", "time_s"])
    return list(zip(table["pts"].to_pylist(), table["time_s"].to_pylist(), strict=True))


def read_combing(path: Path, start_pts: int, end_pts: int) -> list[float]:
    """Return the combing of the stored frames of [start_pts, end_pts) where it is known, in order; raises
    BadManifest."""
    within = [("pts", ">=", start_pts), ("pts", "<", end_pts)]
    return [value for value in _read(path, ["combing"], within)["combing"].to_pylist() if value is not None]


def load_frames(path: Path, pts: Sequence[int]) -> Frames:
    """Return the stored frames of these pts, in the given order, as uint8 RGB [frames, height, width, 3].

    Raises BadManifest when one of them is not in the store.
    """
    table = _read(path, ["pts", "jpeg"], [("pts", "in", set(pts))]) if pts else SCHEMA.empty_table()
    pictures = {row["pts"]: _decode_jpeg(row["jpeg"]) for row in table.to_pylist()}
    missing = set(pts) - set(pictures)
    if missing:
        raise BadManifest(f"{path}: has no frame at pts {min(missing)}. Delete the file and run the scan again.")
    return _stack([pictures[p] for p in pts])


def read_lumas(path: Path, start_pts: int, end_pts: int) -> Iterator[Frames]:
    """Yield the luma of each stored frame of [start_pts, end_pts), uint8 [height, width]; few are held at a time.

    Raises BadManifest when the store is unreadable.
    """
    pts = [pts for pts, _ in read_frame_times(path) if start_pts <= pts < end_pts]
    for place in range(0, len(pts), ROWS_PER_GROUP):
        few = pts[place : place + ROWS_PER_GROUP]
        table = _read(path, ["jpeg"], [("pts", ">=", few[0]), ("pts", "<=", few[-1])])
        yield from (_decode_jpeg(jpeg, cv2.IMREAD_GRAYSCALE) for jpeg in table["jpeg"].to_pylist())


class FramesOnDemand(Sequence[Frames]):
    """Stored frames of these pts, uint8 RGB [height, width, 3] each, read a few at a time when they are needed.

    For clips of any length; `view` is what is shown of each. Raises BadManifest as `load_frames` does.
    """

    def __init__(self, path: Path, pts: Sequence[int], view: Callable[[Frames], Frames] = lambda frame: frame) -> None:
        self._path, self._pts, self._view = path, pts, view
        self._held: tuple[int, Frames] | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._pts)

    @overload
    def __getitem__(self, index: int) -> Frames: ...
    @overload
    def __getitem__(self, index: slice) -> "FramesOnDemand": ...
    def __getitem__(self, index: int | slice) -> "Frames | FramesOnDemand":
        """Return one frame, or for a slice those frames on demand."""
        if isinstance(index, slice):
            return FramesOnDemand(self._path, self._pts[index], self._view)
        group, place = divmod(range(len(self))[index], ROWS_PER_GROUP)
        if self._held is None or self._held[0] != group:
            start = group * ROWS_PER_GROUP
            self._held = group, load_frames(self._path, self._pts[start : start + ROWS_PER_GROUP])
        return self._view(self._held[1][place])


def load_first_middle_last(path: Path, start_pts: int, end_pts: int) -> Frames:
    """Return the first, the middle and the last stored frame of [start_pts, end_pts), each once, as `load_frames` does.

    Raises TooShort when no such frame is stored.
    """
    stored = [frame for frame in read_frame_times(path) if start_pts <= frame[0] < end_pts]
    if not stored:
        raise TooShort(NONE_STORED)
    middle_s = (stored[0][1] + stored[-1][1]) / 2
    middle, _ = min(stored, key=lambda frame: abs(frame[1] - middle_s))
    return load_frames(path, sorted({stored[0][0], middle, stored[-1][0]}))


def _read(path: Path, columns: list[str], filters: list[tuple] | None = None) -> pa.Table:
    if not is_whole(path):
        raise BadManifest(f"{path}: has other bytes than were written. Delete it and run the scan again.")
    try:
        return pq.read_table(path, columns=columns, filters=filters)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadManifest(f"{path}: not a readable frame store ({error}). Delete it and run the scan again.") from error


def _stack(pictures: list[Frames]) -> Frames:
    return np.stack(pictures) if pictures else np.empty((0, 0, 0, 3), np.uint8)


def _encode_jpeg(picture: Frames, quality: int) -> bytes:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


def _decode_jpeg(jpeg: bytes, kind: int = cv2.IMREAD_COLOR_RGB) -> Frames:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), kind)
    if picture is None:
        raise BadManifest("A stored frame is not a JPEG. Delete the frame store and run the scan again.")
    return picture.astype(np.uint8, copy=False)
