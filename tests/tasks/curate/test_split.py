from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.caching import make_lineage
from tasks.curate.scan import SCHEMA as SCAN_SCHEMA
from tasks.curate.scan import STEP as SCAN
from tasks.curate.scan import ScanConfig, scan_videos
from tasks.curate.split import SCHEMA, Shot, SplitConfig, cut_shot, find_shots, split_signals, split_videos
from tasks.curate.video_manifests import VideoManifests, read_clips
from tasks.detectors.boundary import Boundary
from tasks.footage import Camera, Scene, dissolve, render_shot
from tasks.manifest import ManifestRef, digest_file, make_table, read_rows, write_manifest
from tasks.media.signals import THUMBNAIL_BYTES
from tasks.media.video import SourceVideo, write_video
from tests.declared import declared

CONFIG = SplitConfig()


def shot_of(frame: int, cuts: tuple[int, ...]) -> int:
    return sum(cut <= frame for cut in cuts)


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
        "luma": [100.0] * frames,
        "deviation": [50.0] * frames,
        "detail": [10.0] * frames,
        "thumbnails": b"".join(bytes([60 + 40 * (shot_of(i, cuts) % 4)]) * THUMBNAIL_BYTES for i in range(frames)),
        "damaged": [False] * frames,
        "error_code": None,
    }
    return row | columns


def spans(scan: dict[str, Any], config: SplitConfig = CONFIG) -> list[tuple[float, float]]:
    return [(clip["start_s"], clip["end_s"]) for clip in split_signals(scan, config)]


def test_damaged_frames_belong_to_no_shot():
    damaged = np.zeros(20, bool)
    damaged[[0, 5, 6, 19]] = True
    assert find_shots([Boundary(10, 10, "cut")], damaged) == [
        (1, 5, "damage", "damage"),
        (7, 10, "damage", "cut"),
        (10, 19, "cut", "damage"),
    ]
    assert find_shots([], np.ones(4, bool)) == []


def test_cut_shots_cover_every_frame_once():
    cuts = [Boundary(3, 3, "cut"), Boundary(7, 7, "cut")]
    assert [shot[:2] for shot in find_shots(cuts, np.zeros(9, bool))] == [(0, 3), (3, 7), (7, 9)]


def test_the_frames_of_a_gradual_transition_belong_to_no_shot():
    boundaries = [Boundary(30, 40, "dissolve"), Boundary(0, 4, "fade"), Boundary(50, 60, "wipe")]
    assert find_shots(boundaries, np.zeros(60, bool)) == [(4, 30, "fade", "dissolve"), (40, 50, "dissolve", "wipe")]
    assert find_shots([], np.zeros(5, bool)) == [(0, 5, "start", "end")]


def test_rows_say_what_a_shot_begins_and_ends_with():
    rows = list(split_signals(scan_row(48, cuts=(12, 30)), CONFIG))
    assert [(row["shot_begins"], row["shot_ends"]) for row in rows] == [
        ("start", "cut"),
        ("cut", "cut"),
        ("cut", "end"),
    ]


def test_a_long_shot_is_cut_into_equal_clips():
    times = [i / 24 for i in range(101)]
    assert cut_shot(Shot(0, 100, "start", "end"), times, None) == [(0, 100)]  # pyright: ignore[reportArgumentType]
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


def gapped(frames: int, after: int, ticks: int) -> list[int]:
    """Times of frames at 24 frames per second, with a pause after so many of them."""
    return [512 * i + (ticks if i >= after else 0) for i in range(frames)]


def test_no_clip_spans_a_gap_and_each_side_has_its_own_rate():
    minute = 12288 * 57
    pts = gapped(72, 30, minute)
    first, second = split_signals(scan_row(72, pts=pts, end_pts=pts[-1] + 512), CONFIG)
    assert (first["start_s"], first["end_s"], first["fps"]) == (0.0, 30 / 24, 24.0)
    assert (second["start_s"], second["end_s"], second["fps"]) == (57 + 30 / 24, 60.0, 24.0)
    assert (first["shot_ends"], second["shot_begins"], second["shot_ends"]) == ("gap", "gap", "end")
    assert (first["shot_end_pts"], first["frames"], second["frames"]) == (30 * 512, 30, 42)


def test_a_long_shot_before_a_gap_is_cut_into_equal_clips_up_to_its_last_frame():
    pts = gapped(120, 96, 12288 * 3600)
    scan = scan_row(120, pts=pts, end_pts=pts[-1] + 512)
    assert spans(scan, SplitConfig(max_clip_s=2.0))[:2] == [(0.0, 2.0), (2.0, 4.0)]


@pytest.mark.parametrize("detector", ["cascade", "adaptive", "content", "fixed"])
def test_every_detector_ends_a_shot_at_a_gap(detector: str):
    pts = gapped(48, 20, 12288 * 20)
    scan = scan_row(48, pts=pts, end_pts=pts[-1] + 512)
    rows = list(split_signals(scan, SplitConfig.model_validate({"detector": detector, "stride_s": 60.0})))
    assert [row["shot_ends"] for row in rows] == ["gap", "end"]


def test_slides_shown_for_long_and_short_pauses_are_no_gaps():
    slides = [12288 * 9 * i for i in range(48)]
    assert len(spans(scan_row(48, pts=slides, end_pts=12288 * 9 * 48))) == 1
    pts = gapped(48, 20, 12288 * 4)
    assert len(spans(scan_row(48, pts=pts, end_pts=pts[-1] + 512))) == 1
    assert len(spans(scan_row(48, pts=pts, end_pts=pts[-1] + 512), SplitConfig(gap_s=2.0))) == 2


def test_a_clock_that_was_set_back_and_another_size_end_a_shot():
    joins = [
        {"frame": 12, "kind": "size", "width": 48, "height": 32},
        {"frame": 30, "kind": "clock", "width": 48, "height": 32},
    ]
    rows = list(split_signals(scan_row(48, joins=joins), CONFIG))
    assert [(row["shot_begins"], row["shot_ends"]) for row in rows] == [
        ("start", "size"),
        ("size", "clock"),
        ("clock", "end"),
    ]
    assert [(row["width"], row["height"], row["frames"]) for row in rows] == [(96, 64, 12), (48, 32, 18), (48, 32, 18)]


def test_short_shots_stay_rows():
    assert spans(scan_row(48, cuts=(44,)), SplitConfig(min_clip_s=1.0)) == [(0.0, 44 / 24), (44 / 24, 2.0)]


def test_a_longest_length_below_the_shortest_is_refused():
    with pytest.raises(ValidationError, match="max_clip_s"):
        SplitConfig(min_clip_s=3, max_clip_s=2)


def scan_manifest(root: Path, row: dict[str, Any]) -> ManifestRef:
    whole = {**row, "frames": len(row["pts"]) if row.get("pts") else None, "attempt": 1}
    table: pa.Table = make_table([whole], SCAN_SCHEMA)
    return write_manifest(root / "scan.parquet", table, make_lineage(SCAN, None, []))


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


@pytest.mark.slow
def test_a_new_decision_from_a_stored_scan_equals_a_fresh_run(tmp_path: Path):
    before, after = (render_shot(Scene(seed), Camera.doing("pan_left", 0.2), 50, size=(96, 64)) for seed in (1, 2))
    path = tmp_path / "mixed.mp4"
    write_video(path, np.concatenate([dissolve(before, after, 12), before]), 24)
    digest = digest_file(path)
    video = SourceVideo(video_id=digest[:16], path=path, digest=digest, duration_s=6.0, width=96, height=64)

    def clips(root: Path, *configs: SplitConfig) -> list[dict[str, Any]]:
        scans = scan_videos.fn(tmp_path / root, ScanConfig(), [video])
        (split,) = [split_videos.fn(tmp_path / root, config, scans) for config in configs][-1]
        return read_rows(split)

    other = SplitConfig(middle_threshold=2.0, low_threshold=2.0)
    decided_again, fresh = clips(Path("a"), CONFIG, other), clips(Path("b"), other)
    assert decided_again == fresh
    assert [row["shot_ends"] for row in fresh] == ["cut", "end"]
    assert [row["shot_ends"] for row in clips(Path("a"), CONFIG)] == ["dissolve", "cut", "end"]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(SplitConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "min_clip_s": "1.0, ge=0",
        "max_clip_s": "None, gt=0",
    }


def test_the_step_goes_by_its_name():
    assert split_videos.name == "split"


def test_a_video_that_cannot_be_split_is_a_row_without_a_clip_and_stops_no_other(tmp_path: Path):
    scans = [
        write_manifest(tmp_path / f"{name}.parquet", make_table([row], SCAN_SCHEMA), make_lineage(SCAN, None, [name]))
        for name, row in {"bad": scan_row(thumbnails=b"short"), "good": scan_row(frames=24)}.items()
    ]
    first, second = split_videos.fn(tmp_path, CONFIG, scans)
    (row,) = read_rows(first)
    assert (row["clip_id"], row["video_id"], row["error_code"]) == (None, "0123456789abcdef", "splitting_failed")
    assert [row["error_code"] for row in read_rows(second)] == [None]
    assert read_clips(VideoManifests(scans[0], first), {"split": ("clip_id",)}) == []
