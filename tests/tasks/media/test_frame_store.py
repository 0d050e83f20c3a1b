from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import BadManifest
from tasks.footage import Camera, Scene, render_shot
from tasks.ledger import mark
from tasks.media import frame_store
from tasks.media.frame_store import (
    ROWS_PER_GROUP,
    SCHEMA,
    Frames,
    FramesOnDemand,
    frame_writer,
    load_frames,
    read_frame_times,
    read_lumas,
)
from tests.frame_stores import write_frames

PTS = [0, 512, 1000, 2048, 4096]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return render_shot(Scene(2), Camera.doing("pan_left", 1.5), len(PTS), size=(96, 64))


@pytest.fixture
def store(tmp_path: Path, pictures: np.ndarray) -> Path:
    path = tmp_path / "frames" / "a b 'c'.parquet"
    write_frames(path, ((pts, pts / 1024, picture) for pts, picture in zip(PTS, pictures, strict=True)))
    return path


def recognised(stored: np.ndarray, pictures: np.ndarray) -> list[int]:
    """Which of the pictures each stored one is."""
    assert stored.dtype == np.uint8
    assert stored.shape[1:] == pictures.shape[1:]
    return [int(np.abs(pictures.astype(int) - one).reshape(len(pictures), -1).mean(1).argmin()) for one in stored]


def test_times_come_back_in_order(store: Path):
    assert read_frame_times(store) == [(pts, pts / 1024) for pts in PTS]


def test_pictures_come_back_in_the_order_asked_for(store: Path, pictures: np.ndarray):
    assert recognised(load_frames(store, [4096, 0, 1000]), pictures) == [4, 0, 2]


def test_the_channels_are_red_green_blue(tmp_path: Path):
    red = np.full((32, 32, 3), (250, 10, 10), np.uint8)
    write_frames(tmp_path / "red.parquet", [(0, 0.0, red)])
    assert np.abs(load_frames(tmp_path / "red.parquet", [0])[0].astype(int) - red).max() <= 3


def test_the_same_frame_may_be_asked_for_twice(store: Path):
    first, second = load_frames(store, [512, 512])
    assert np.array_equal(first, second)


def test_asking_for_nothing_gives_nothing(store: Path):
    assert load_frames(store, []).shape == (0, 0, 0, 3)
    assert list(read_lumas(store, 5000, 6000)) == []


def test_a_stretch_excludes_its_end(store: Path, pictures: np.ndarray):
    gray = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])
    assert recognised(np.stack(list(read_lumas(store, 512, 2048))), gray) == [1, 2]


def test_a_frame_that_is_not_there_is_an_error_that_names_it(store: Path):
    with pytest.raises(BadManifest, match="no frame at pts 513"):
        load_frames(store, [512, 513])


def test_frames_out_of_order_are_refused_and_leave_no_file(tmp_path: Path, pictures: np.ndarray):
    with pytest.raises(ValueError, match="Frame 5 comes after frame 5"):
        write_frames(tmp_path / "x.parquet", [(5, 0.1, pictures[0]), (5, 0.2, pictures[1])])
    assert list(tmp_path.iterdir()) == []


def test_a_broken_store_is_an_error_that_says_what_to_do(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"not a store")
    with pytest.raises(BadManifest, match="run the scan again"):
        read_frame_times(path)
    with pytest.raises(BadManifest, match="run the scan again"):
        load_frames(tmp_path / "missing.parquet", [0])


def test_what_is_written_so_far_does_not_stay_in_memory(tmp_path: Path, pictures: np.ndarray):
    path = tmp_path / "long.parquet"
    with frame_writer(path) as writer:
        for pts in range(ROWS_PER_GROUP * 2 + 1):
            writer.add(pts, pts / 24, pictures[0])
        assert not path.exists()
    assert pq.ParquetFile(path).num_row_groups == 3
    assert len(read_frame_times(path)) == ROWS_PER_GROUP * 2 + 1


def test_the_same_frames_give_the_same_bytes(tmp_path: Path, pictures: np.ndarray):
    for name in ("a", "b"):
        write_frames(tmp_path / name, [(0, 0.0, pictures[0]), (7, 0.3, pictures[1])])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_lower_quality_gives_a_smaller_file(tmp_path: Path, pictures: np.ndarray):
    write_frames(tmp_path / "fine", [(0, 0.0, pictures[0])], quality=95)
    write_frames(tmp_path / "coarse", [(0, 0.0, pictures[0])], quality=30)
    assert (tmp_path / "coarse").stat().st_size < (tmp_path / "fine").stat().st_size


def test_luma_comes_frame_by_frame_and_is_that_of_the_pictures(tmp_path: Path):
    shades = [np.full((8, 10, 3), 2 * i, np.uint8) for i in range(70)]
    write_frames(tmp_path / "s.parquet", ((i, i / 2, shade) for i, shade in enumerate(shades)))
    found = list(read_lumas(tmp_path / "s.parquet", 5, 69))
    assert [picture.shape for picture in found] == [(8, 10)] * 64
    assert [int(picture[0, 0]) for picture in found] == [2 * i for i in range(5, 69)]
    assert list(read_lumas(tmp_path / "s.parquet", 90, 99)) == []


def test_frames_on_demand_are_those_that_are_stored_and_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures = [np.full((8, 8, 3), i, np.uint8) for i in range(3 * ROWS_PER_GROUP + 5)]
    store = tmp_path / "store.parquet"
    write_frames(store, ((i, i / 2, picture) for i, picture in enumerate(pictures)))
    asked: list[int] = []

    def counted(path: Path, pts: Sequence[int]) -> Frames:
        asked.append(len(pts))
        return load_frames(path, pts)

    monkeypatch.setattr(frame_store, "load_frames", counted)
    on_demand = FramesOnDemand(store, list(range(1, len(pictures), 2)))
    assert len(on_demand) == len(pictures) // 2
    found = [int(picture.mean().round()) for picture in on_demand]
    assert np.abs(np.array(found) - np.arange(1, len(pictures), 2)).max() <= 1
    assert max(asked) == ROWS_PER_GROUP
    assert len(asked) == -(-len(on_demand) // ROWS_PER_GROUP)
    assert on_demand[-1].mean() == pytest.approx(len(pictures) - 2, abs=1)
    assert len(on_demand[2:7]) == 5


def test_a_stored_frame_that_is_no_picture_is_an_error_that_says_what_to_do(tmp_path: Path):
    row = {"pts": 0, "time_s": 0.0, "jpeg": b"no picture"}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), tmp_path / "x.parquet")
    with pytest.raises(BadManifest, match=r"A stored frame is not a JPEG\. Delete the frame store"):
        load_frames(tmp_path / "x.parquet", [0])


def test_a_store_with_a_flipped_byte_is_not_read(tmp_path: Path, pictures: np.ndarray):
    mark(tmp_path, "curate", "1")
    path = tmp_path / "frames/a.frames"
    write_frames(path, [(0, 0.0, pictures[0])])
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(BadManifest, match=r"a\.frames: has other bytes than were written\. Delete it"):
        read_frame_times(path)
