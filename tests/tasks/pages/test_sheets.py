"""Contact sheets show the frames of the clips they name, some of each group, and say how many there are."""

import base64
import logging

import cv2
import numpy as np
import pytest

from tasks.media.frame_store import load_frames
from tasks.pages.dataset import read_dataset
from tasks.pages.sheets import (
    Reel,
    Strip,
    choose_frames,
    group_rows,
    join_frames,
    make_kept_sheets,
    make_sheet,
    sample_rows,
)


def picture_of(strip: Strip) -> np.ndarray:
    jpeg = base64.b64decode(strip.url.removeprefix("data:image/jpeg;base64,"))
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return picture


def test_a_strip_shows_the_frames_side_by_side_in_order():
    frames = np.stack([np.full((40, 60, 3), level, np.uint8) for level in (20, 120, 220)])
    strip = join_frames(frames)
    picture = picture_of(strip)
    assert (strip.frames, strip.width, strip.height) == (3, 60, 40)
    assert picture.shape == (40, 180, 3)
    assert picture[20, [30, 90, 150], 0] == pytest.approx([20, 120, 220], abs=3)


@pytest.mark.parametrize(("shape", "cell"), [((360, 640), (192, 108)), ((640, 360), (108, 192)), ((40, 30), (30, 40))])
def test_large_frames_are_shrunk_small_ones_stay(shape, cell):
    strip = join_frames(np.zeros((2, *shape, 3), np.uint8))
    assert (strip.width, strip.height) == cell


@pytest.mark.parametrize(("frames", "rest"), [(1, 0.0), (2, 0.0), (3, 50.0), (6, 40.0)])
def test_at_rest_the_middle_frame_shows(frames, rest):
    assert Strip("", frames, 1, 1).rest == pytest.approx(rest)


def test_frames_are_taken_evenly_in_time_not_in_number():
    crowded = [0.0, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0]
    assert choose_frames(crowded, 4) == [0, 4, 5, 6]
    assert choose_frames([0.0, 0.5], 6) == [0, 1]
    assert choose_frames([], 6) == []


def test_a_strip_is_of_its_clip_alone(curated):
    dataset = read_dataset(curated([{}, {}]))
    clip = dataset.clips.slice(1, 1).to_pylist()[0]
    strip = Reel(dataset).strip(clip)
    assert strip
    assert strip.frames == 4
    frames = load_frames(dataset.root / "frames/a.parquet", [1000, 1750])
    picture = picture_of(strip).astype(float)
    for cell, frame in ((picture[:, :96], frames[0]), (picture[:, -96:], frames[1])):
        assert np.abs(cell - frame).mean() < 6
    assert np.abs(frames[0].astype(float) - frames[1]).mean() > 12


def test_a_clip_whose_frames_are_gone_is_shown_without(curated, caplog):
    dataset = read_dataset(curated([{}]))
    (dataset.root / "frames/a.parquet").unlink()
    with caplog.at_level(logging.WARNING, "reelmill"):
        sheet = make_sheet(Reel(dataset), "pan_right", [0], 5)
    assert sheet.cards[0]["strip"] is None
    assert "a-0: shown without pictures" in caplog.text


def test_frames_that_a_table_names_outside_of_its_dataset_are_not_shown(curated, caplog):
    """The dataset may be a stranger's, and another one of this user lies beside it."""
    dataset = read_dataset(curated([{}], files=[{"video_id": "a", "frame_store": "../others/frames.parquet"}]))
    assert (dataset.root / "../others/frames.parquet").is_file()
    with caplog.at_level(logging.WARNING, "reelmill"):
        assert Reel(dataset).strip(dataset.clips.to_pylist()[0]) is None
    assert "'../others/frames.parquet': is outside of" in caplog.text


def test_a_clip_without_any_stored_frame_has_no_strip(curated):
    dataset = read_dataset(curated([{"start_pts": 90_000, "end_pts": 90_001}]))
    assert make_sheet(Reel(dataset), "", [0], 1).cards[0]["strip"] is None


@pytest.mark.parametrize(
    ("rows", "cap", "chosen"), [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (4, 1, [0]), (4, 0, []), (0, 3, [])]
)
def test_a_sheet_takes_clips_from_the_whole_group(rows, cap, chosen):
    assert sample_rows(range(rows), cap) == chosen


def test_a_sheet_says_how_many_it_leaves_out(curated):
    dataset = read_dataset(curated([{}] * 5))
    sheet = make_sheet(Reel(dataset), "pan_right", range(5), 2)
    assert [card["clip_id"] for card in sheet.cards] == ["a-0", "a-4"]
    assert (sheet.clips, sheet.more) == (5, 3)


def test_kept_clips_are_grouped_by_motion_the_largest_group_first(curated):
    motions = ["static", "pan_left", "roll", "pan_left", None]
    clips = [{"camera_motion": motion} for motion in motions]
    sheets = make_kept_sheets(Reel(read_dataset(curated([*clips, {"camera_motion": "roll", "text_area": 0.5}]))), 5)
    assert [(sheet.name, sheet.clips) for sheet in sheets] == [("pan_left", 2), ("", 1), ("roll", 1), ("static", 1)]


def test_groups_hold_the_rows_asked_for(curated):
    dataset = read_dataset(curated([{}, {"camera_motion": "roll"}, {}]))
    assert group_rows(dataset, "camera_motion", np.array([True, True, False])) == {"pan_right": [0], "roll": [1]}
