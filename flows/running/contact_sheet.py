"""A contact sheet: some clips of an output folder, a picture of each, in one JPEG small enough for an artifact."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.pictures import Frames
from tasks.attempts import caught
from tasks.ledger import resolve_inside
from tasks.manifest import read_column_names, read_manifest_ref, read_rows
from tasks.media.frame_store import load_frames, read_frame_times
from tasks.media.video import read_frames
from tasks.pages.dataset import read_dataset
from tasks.pages.page import make_data_uri
from tasks.pages.sheets import sample_rows

log = logging.getLogger("reelmill")

COLUMNS, ROWS = 6, 3

CELL = 160, 90
"""Width and height of a picture's place, in pixels."""

QUALITY = 70


def draw_contact_sheet(folder: Path) -> str | None:
    """Return the sheet of a dataset's kept clips, or of a folder of generated clips, as a data URI; None without any
    picture."""
    pictures = caught(lambda: list(_list_pictures(folder)), f"{folder}: its contact sheet")
    if isinstance(pictures, Exception):
        log.warning("The summary has no pictures. %s", pictures)
        return None
    return make_data_uri(join_pictures(pictures), "image/jpeg") if pictures else None


def join_pictures(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """Return pictures, uint8 RGB, in rows of COLUMNS, each shrunk into its CELL, as a JPEG."""
    width, height = CELL
    rows = -(-len(pictures) // COLUMNS)
    sheet = np.zeros((rows * height, min(len(pictures), COLUMNS) * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        small = fit(picture, CELL)
        top = number // COLUMNS * height + (height - small.shape[0]) // 2
        left = number % COLUMNS * width + (width - small.shape[1]) // 2
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return jpeg.tobytes()


def fit(picture: NDArray[np.uint8], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of any size as large as fits into a cell of (width, height), its shape kept."""
    height, width = picture.shape[:2]
    scale = min(cell[0] / width, cell[1] / height)
    size = max(1, min(cell[0], round(width * scale))), max(1, min(cell[1], round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _list_pictures(folder: Path) -> Iterator[NDArray[np.uint8]]:
    if (folder / "clips.parquet").is_file() and "keep" in read_column_names(folder / "clips.parquet"):
        yield from _list_kept(folder)
    elif (folder / "outputs.parquet").is_file():
        yield from _list_made(folder)


def _list_kept(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the middle stored frame of kept clips."""
    dataset = read_dataset(read_manifest_ref(folder / "clips.parquet"))
    kept = np.flatnonzero(dataset.keep).tolist()
    for clip in dataset.clips.take(pa.array(sample_rows(kept, COLUMNS * ROWS), pa.int64())).to_pylist():
        store = dataset.root / dataset.stores[clip["video_id"]]
        times = [pts for pts, _ in read_frame_times(store) if clip["start_pts"] <= pts < clip["end_pts"]]
        if times:
            frames: Frames = load_frames(store, [times[len(times) // 2]])
            yield from frames


def _list_made(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the first frame of generated films."""
    rows = read_rows(folder / "outputs.parquet", ("status", "video"))
    names = [row["video"] for row in rows if row["status"] == "ok" and row["video"] and row["video"].endswith(".mp4")]
    for number in sample_rows(range(len(names)), COLUMNS * ROWS):
        for _, frame in read_frames(resolve_inside(folder, names[number])):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8)
            break
