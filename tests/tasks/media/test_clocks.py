from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tasks.footage import Camera, Scene, render_shot
from tasks.media.clocks import SteadyClock, can_be_set_back
from tasks.media.video import find_ffmpeg, is_set_back, open_video, read_frames, run_ffmpeg, write_video

FPS = 25


def go(*times: int) -> list[tuple[int | None, bool]]:
    clock = SteadyClock(Fraction(1, 100))
    return [clock.set_time(time) for time in times]


def test_times_that_rise_stay_as_they_are_however_far():
    assert go(0, 4, 8, 9000, 9004) == [(0, False), (4, False), (8, False), (9000, False), (9004, False)]


def test_from_where_the_clock_is_set_back_times_go_on_at_the_step_before():
    assert go(500, 504, 508, 0, 4, 10) == [
        (500, False), (504, False), (508, False), (512, True), (516, False), (522, False)
    ]  # fmt: skip
    assert [time for time, _ in go(0, 4, 90, 0, 50, 100, 0)] == [0, 4, 90, 94, 144, 194, 198]


def test_a_time_that_is_wrong_by_little_is_none_and_changes_no_other():
    assert go(100, 104, 104, 90, 108) == [(100, False), (104, False), (None, False), (None, False), (108, False)]


def test_a_pause_is_no_step():
    assert go(1000, 1004, 2000, 0)[-1] == (2004, True)


def test_files_with_an_index_of_all_frames_have_one_clock():
    assert [can_be_set_back(name) for name in ("mov,mp4,m4a", "matroska,webm", "mpegts", "flv")] == [
        False, False, True, True
    ]  # fmt: skip


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two seconds of red and one of two seconds of blue, one after the other, each with its clock."""
    folder = tmp_path_factory.mktemp("joined")
    parts = []
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        shot = render_shot(Scene(3), Camera(), 2 * FPS, FPS, (96, 64)) // 8 + np.array(colour, np.uint8)
        write_video(folder / f"{name}.mp4", shot.astype(np.uint8), FPS)
        target = folder / f"{name}.ts"
        command = ["-loglevel", "error", "-i", str(folder / f"{name}.mp4"), "-c", "copy", str(target)]
        run_ffmpeg([find_ffmpeg(), *command], None, name)
        parts.append(target.read_bytes())
    path = folder / "joined.ts"
    path.write_bytes(b"".join(parts))
    return path


def says_set_back(path: Path) -> bool:
    with open_video(path) as (container, stream):
        return is_set_back(container, stream)


def test_frames_of_a_second_recording_are_read_at_the_times_that_go_on(joined: Path):
    assert says_set_back(joined)
    start = next(iter(read_frames(joined)))[0]
    shown = [
        (time - start, frame.to_ndarray(format="rgb24").mean((0, 1)))
        for time, frame in read_frames(joined, start + 1, start + 3)
    ]
    assert [time * FPS for time, _ in shown] == list(range(FPS, 3 * FPS))
    red = [colour[0] > colour[2] for _, colour in shown]
    assert red == [True] * FPS + [False] * FPS


def test_a_recording_alone_is_not_set_back(joined: Path):
    assert not says_set_back(joined.with_name("red.ts"))
    assert not says_set_back(joined.with_name("red.mp4"))
