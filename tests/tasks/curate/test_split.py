from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from av.video.frame import VideoFrame
from pydantic import ValidationError

from tasks.caching import lineage_of
from tasks.curate.scan import SCHEMA as SCAN_SCHEMA
from tasks.curate.scan import STEP as SCAN
from tasks.curate.scan import Signals
from tasks.curate.split import SCHEMA, SplitConfig, clips_of, find_cuts, shots_between, split_signals, split_videos
from tasks.footage import Camera, Motion, Scene, dissolve, fade_through, render_shot
from tasks.manifest import ManifestRef, read_rows, table_of, write_manifest
from tasks.signals import small_planes

CONFIG = SplitConfig()
MOTIONS: tuple[Motion, ...] = ("static", "pan_left", "tilt_up", "zoom_in", "zoom_out", "roll")


def film(seed: int, motion: Motion = "static", frames: int = 40, speed: float = 0.4) -> np.ndarray:
    return render_shot(Scene(seed, movers=3), Camera.doing(motion, speed), frames, size=(96, 64))


def measured(frames: np.ndarray) -> Signals:
    signals = Signals()
    for pts, picture in enumerate(frames):
        signals.add(pts, small_planes(VideoFrame.from_ndarray(picture)), damaged=False)
    return signals


def cuts_in(frames: np.ndarray, config: SplitConfig = CONFIG) -> list[int]:
    signals = measured(frames)
    return find_cuts(np.array(signals.change), np.array(signals.change_2), np.array(signals.luma), config)


def scan_row(frames: int = 48, cuts: tuple[int, ...] = (), **columns: Any) -> dict[str, Any]:
    """A scan at 24 frames per second, 512 ticks each, whose signals have cuts where they are asked for."""
    change = [20.0 if i in cuts else 1.0 for i in range(frames)]
    row = {
        "video_id": "0123456789abcdef",
        "time_base": "1/12288",
        "width": 96,
        "height": 64,
        "pts": [512 * i for i in range(frames)],
        "end_pts": 512 * frames,
        "change": change,
        "change_2": [20.0 if i in cuts or i - 1 in cuts else 1.5 for i in range(frames)],
        "luma": [100.0] * frames,
        "damaged": [False] * frames,
        "error_code": None,
    }
    return row | columns


def spans(scan: dict[str, Any], config: SplitConfig = CONFIG) -> list[tuple[float, float]]:
    return [(clip["start_s"], clip["end_s"]) for clip in split_signals(scan, config)]


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_hard_cut_at_frame_40_is_found_at_frame_40(motion: Motion):
    assert cuts_in(np.concatenate([film(1, motion), film(2, "pan_right", 30)])) == [40]


def test_several_cuts_are_all_found():
    shots = [film(seed, motion, 15) for seed, motion in enumerate(MOTIONS)]
    assert cuts_in(np.concatenate(shots)) == [15, 30, 45, 60, 75]


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("speed", [0.3, 2.0])
def test_one_shot_has_no_cut_however_fast_the_camera(motion: Motion, speed: float):
    assert cuts_in(film(3, motion, speed=speed)) == []


def test_a_camera_that_starts_at_full_speed_is_no_cut():
    pan = film(4, "pan_left", 20, speed=1.5)
    assert cuts_in(np.concatenate([np.repeat(pan[:1], 20, axis=0), pan])) == []


def test_a_cut_in_a_still_scene_is_found():
    assert cuts_in(np.repeat(np.stack([film(5)[0], film(6)[0]]), 20, axis=0)) == [20]


def test_a_cut_in_the_dark_is_found():
    dark = [(shot // 8) for shot in (film(7), film(8))]
    assert cuts_in(np.concatenate(dark)) == [40]


@pytest.mark.parametrize("each", [2, 3, 4])
def test_frames_shown_several_times_are_no_cuts(each: int):
    assert cuts_in(np.repeat(film(9, "pan_left", 20, speed=1.0), each, axis=0)) == []


def test_a_cut_among_frames_shown_three_times_is_found():
    shots = np.concatenate([film(9, "pan_left", 10), film(10, "pan_left", 10)])
    assert cuts_in(np.repeat(shots, 3, axis=0)) == [30]


def test_a_flash_of_one_frame_is_no_cut():
    frames = film(11, "pan_left")
    frames[20] = 255
    assert cuts_in(frames) == []


def test_a_frame_that_blends_two_shots_gives_one_cut():
    before, after = film(12), film(13)
    blend = (before[-1:] // 2) + (after[:1] // 2)
    assert cuts_in(np.concatenate([before, blend, after])) in ([40], [41])


def test_of_two_equal_changes_the_first_is_the_cut():
    change, luma = np.array([0, 1, 1, 20, 20, 1, 1.0]), np.full(7, 100.0)
    assert find_cuts(change, np.full(7, 20.0), luma, CONFIG) == [3]


def test_dissolves_and_fades_are_left_to_others():
    before, after = film(14, "pan_left"), film(15)
    assert cuts_in(dissolve(before, after, 10)) == []
    assert cuts_in(fade_through(before, after, 10)) == []


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_very_short_videos_have_no_cut(frames: int):
    signal = np.zeros(frames)
    assert find_cuts(signal, signal, signal, CONFIG) == []


def test_a_cut_is_found_near_either_end():
    assert cuts_in(np.concatenate([film(1, frames=1), film(2, frames=20), film(3, frames=1)])) == [1, 21]


def test_higher_thresholds_find_fewer_cuts():
    frames = np.concatenate([film(1, "pan_left", speed=1.0), film(2, "pan_left", speed=1.0)])
    assert cuts_in(frames) == [40]
    assert cuts_in(frames, SplitConfig(floor=250)) == []
    assert cuts_in(frames, SplitConfig(relative_floor=2)) == []
    assert cuts_in(frames, SplitConfig(threshold=10)) == []


def test_damaged_frames_belong_to_no_shot():
    damaged = np.zeros(20, bool)
    damaged[[0, 5, 6, 19]] = True
    assert shots_between([10], damaged) == [(1, 5), (7, 10), (10, 19)]
    assert shots_between([], np.ones(4, bool)) == []


def test_shots_cover_every_frame_once():
    assert shots_between([3, 7], np.zeros(9, bool)) == [(0, 3), (3, 7), (7, 9)]


def test_a_long_shot_is_cut_into_equal_clips():
    times = [i / 24 for i in range(101)]
    assert clips_of((0, 100), times, None) == [(0, 100)]  # pyright: ignore[reportArgumentType]
    clips = list(split_signals(scan_row(100), SplitConfig(max_clip_s=1.5)))
    assert [clip["frames"] for clip in clips] == [34, 33, 33]
    assert {(clip["shot_start_pts"], clip["shot_end_pts"]) for clip in clips} == {(0, 51200)}
    assert [clip["start_pts"] for clip in clips[1:]] == [clip["end_pts"] for clip in clips[:-1]]


def test_a_shot_of_just_the_longest_length_stays_whole():
    assert len(spans(scan_row(48), SplitConfig(max_clip_s=2.0))) == 1
    assert len(spans(scan_row(49), SplitConfig(max_clip_s=2.0))) == 2


def test_a_clip_row_says_when_in_ticks_and_seconds():
    first, second = split_signals(scan_row(48, cuts=(12,)), CONFIG)
    assert (
        first
        | {
            "clip_id": "0123456789abcdef-0-6144",
            "start_pts": 0,
            "end_pts": 6144,
            "start_s": 0.0,
            "end_s": 0.5,
            "fps": 24.0,
            "frames": 12,
        }
        == first
    )
    assert (second["clip_id"], second["start_s"], second["end_s"]) == ("0123456789abcdef-6144-24576", 0.5, 2.0)


def test_times_come_from_pts_and_not_from_a_rate():
    pts = [512 * (i if i < 24 else 24 + (i - 24) * 3) for i in range(48)]
    slow = scan_row(48, cuts=(36,), pts=pts, end_pts=pts[-1] + 1536)
    assert spans(slow) == [(0.0, 2.5), (2.5, 4.0)]
    assert [clip["fps"] for clip in split_signals(slow, CONFIG)] == [36 / 2.5, 8.0]


def test_short_shots_stay_rows():
    assert spans(scan_row(48, cuts=(44,)), SplitConfig(min_clip_s=1.0)) == [(0.0, 44 / 24), (44 / 24, 2.0)]


def test_a_longest_length_below_the_shortest_is_refused():
    with pytest.raises(ValidationError, match="max_clip_s"):
        SplitConfig(min_clip_s=3, max_clip_s=2)


def scan_manifest(root: Path, row: dict[str, Any]) -> ManifestRef:
    whole = {**row, "frames": len(row["pts"]) if row.get("pts") else None, "attempt": 1}
    table: pa.Table = table_of([whole], SCAN_SCHEMA)
    return write_manifest(root / "scan.parquet", table, lineage_of(SCAN, None, []))


def test_a_failed_scan_gives_no_rows_and_no_error(tmp_path: Path):
    failed = {"video_id": "0123456789abcdef", "error_code": "bad_media", "error_message": "broken", "pts": None}
    (ref,) = split_videos.fn(tmp_path, CONFIG, [scan_manifest(tmp_path, failed)])
    assert (ref.rows, read_rows(ref)) == (0, [])


def test_the_manifest_has_a_row_per_clip_and_is_found_again(tmp_path: Path):
    scan = scan_manifest(tmp_path, scan_row(48, cuts=(12, 30)))
    (ref,) = split_videos.fn(tmp_path, CONFIG, [scan])
    rows = read_rows(ref)
    assert [row["frames"] for row in rows] == [12, 18, 18]
    assert set(rows[0]) == set(SCHEMA.names)
    assert {row["error_code"] for row in rows} == {None}
    (again,) = split_videos.fn(tmp_path, CONFIG, [scan])
    assert (again.cached, again.digest) == (True, ref.digest)


def test_another_parameter_runs_again_and_equal_clips_keep_their_digest(tmp_path: Path):
    scan = scan_manifest(tmp_path, scan_row(48, cuts=(12,)))
    (first,) = split_videos.fn(tmp_path, CONFIG, [scan])
    (second,) = split_videos.fn(tmp_path, SplitConfig(threshold=4.0), [scan])
    assert second.path != first.path
    assert second.digest == first.digest
