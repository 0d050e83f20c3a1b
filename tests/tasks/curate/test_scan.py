import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.curate import scan as step
from tasks.curate.scan import SCHEMA, STEP, Sampling, ScanConfig, is_peak, scan_videos
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import ManifestRef, digest_file, read_lineage, read_rows
from tasks.media.frame_store import load_frames, read_frame_times
from tasks.media.signals import THUMBNAIL_BYTES
from tasks.media.video import SourceVideo, find_ffmpeg, run_ffmpeg, write_video
from tests.declared import declared

TICKS = 512
"""Ticks of a frame at 24 frames per second in a time base of 1/12288."""


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shots with a hard cut at frame 40; 70 frames at 24 frames per second."""
    path = tmp_path_factory.mktemp("source") / "cut at 40.mp4"
    shots = [
        render_shot(Scene(seed, movers=0), Camera.doing("pan_left"), n, size=(96, 64)) for seed, n in ((1, 40), (2, 30))
    ]
    write_video(path, np.concatenate(shots), 24)
    return path


@pytest.fixture(scope="module")
def scanned(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ManifestRef]:
    root = tmp_path_factory.mktemp("dataset")
    return root, scan(root, footage)


def source(path: Path) -> SourceVideo:
    digest = digest_file(path)
    return SourceVideo(video_id=digest[:16], path=path, digest=digest, duration_s=3.0, width=96, height=64)


def scan(root: Path, path: Path, config: ScanConfig | None = None) -> ManifestRef:
    (ref,) = scan_videos.fn(root, config or ScanConfig(), [source(path)])
    return ref


def row_of(root: Path, path: Path, config: ScanConfig | None = None) -> dict[str, Any]:
    (row,) = read_rows(scan(root, path, config))
    return row


def convert(path: Path, name: str, *options: str, before: tuple[str, ...] = ()) -> Path:
    target = path.with_name(name)
    run_ffmpeg([find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(path), *options, str(target)], None, name)
    return target


def test_a_row_says_what_was_seen(scanned: tuple[Path, ManifestRef], footage: Path):
    (row,) = read_rows(scanned[1])
    assert set(row) == set(SCHEMA.names)
    assert (
        row
        | {
            "video_id": digest_file(footage)[:16],
            "source_digest": digest_file(footage),
            "time_base": "1/12288",
            "frames": 70,
            "width": 96,
            "height": 64,
            "duration_s": 70 / 24,
            "end_pts": 70 * TICKS,
            "pts": [i * TICKS for i in range(70)],
            "damaged": [False] * 70,
            "lost": 0,
            "dropped": 0,
            "error_code": None,
            "attempt": 1,
        }
        == row
    )


def test_one_decode_is_counted(scanned: tuple[Path, ManifestRef]):
    assert read_rows(scanned[1])[0]["decodes"] == 1


def test_the_change_peaks_at_the_cut(scanned: tuple[Path, ManifestRef]):
    (row,) = read_rows(scanned[1])
    change = np.array(row["change"])
    assert change.argmax() == 40
    assert change[40] > 5 * np.delete(change, 40).max()
    assert change[0] == 0
    assert {len(row[name]) for name in ("change", "luma", "deviation", "detail", "damaged")} == {70}
    assert len(row["thumbnails"]) == 70 * THUMBNAIL_BYTES


def test_the_store_has_two_frames_a_second_the_ends_and_both_sides_of_the_cut(scanned: tuple[Path, ManifestRef]):
    root, ref = scanned
    (row,) = read_rows(ref)
    times = read_frame_times(root / row["frame_store"])
    frames = [pts // TICKS for pts, _ in times]
    assert {0, 12, 24, 36, 39, 40, 48, 60, 69} <= set(frames)
    assert len(frames) <= 15
    assert all(time_s == pts / 12288 for pts, time_s in times)


def test_a_fast_pan_has_frames_soon_after_the_others_and_a_slow_one_at_its_beginning_alone(tmp_path: Path):
    def stored(speed: float) -> set[float]:
        path = tmp_path / f"{speed}.mp4"
        write_video(path, render_shot(Scene(4), Camera(pan=speed), 60, 30, (160, 96)), 30)
        store = tmp_path / row_of(tmp_path, path)["frame_store"]
        return {round(time_s, 2) for _, time_s in read_frame_times(store)} - {0.03, 0.07, 0.13, 0.17}

    assert stored(2.0) == {0.0, 0.5, 0.6, 1.0, 1.1, 1.5, 1.6, 1.97}
    assert stored(0.1) == {0.0, 0.1, 0.5, 1.0, 1.5, 1.97}


def test_stored_frames_show_the_picture(scanned: tuple[Path, ManifestRef]):
    root, ref = scanned
    (row,) = read_rows(ref)
    before, after = load_frames(root / row["frame_store"], [39 * TICKS, 40 * TICKS]).astype(int)
    truth = [
        render_shot(Scene(seed, movers=0), Camera.doing("pan_left"), n, size=(96, 64)) for seed, n in ((1, 40), (2, 1))
    ]
    assert np.abs(before - truth[0][39]).mean() < 12
    assert np.abs(after - truth[1][0]).mean() < 12


def test_stored_frames_are_shrunk_and_thinned_as_asked(tmp_path: Path, footage: Path):
    row = row_of(tmp_path, footage, ScanConfig(short_side=32, frames_per_s=1.0))
    store = tmp_path / row["frame_store"]
    pts = [pts for pts, _ in read_frame_times(store)]
    assert load_frames(store, pts).shape[1:] == (32, 48, 3)
    assert {pts // TICKS for pts in pts} >= {0, 24, 39, 40, 48, 69}
    assert len(pts) <= 12


def test_a_variable_rate_is_sampled_by_time_and_not_by_index(tmp_path: Path, footage: Path):
    path = convert(footage, "variable.mp4", "-vf", "setpts='if(lt(N,24),N,24+(N-24)*4)/24/TB'", "-fps_mode", "vfr")
    row = row_of(tmp_path, path)
    assert row["pts"] == [TICKS * (i if i < 24 else 24 + (i - 24) * 4) for i in range(70)]
    times = [time_s for _, time_s in read_frame_times(tmp_path / row["frame_store"])]
    assert len(times) >= 2 * row["duration_s"]
    assert max(np.diff(times)) < 0.67
    assert row["change"][40] == max(row["change"])


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "size"), [("90", (64, 96)), ("180", (96, 64))])
def test_a_rotated_video_is_stored_upright(tmp_path: Path, footage: Path, turn: str, size: tuple[int, int]):
    plain = row_of(tmp_path, footage)
    path = convert(footage, f"turned{turn}.mp4", "-c", "copy", before=("-display_rotation", turn))
    turned = row_of(tmp_path, path)
    assert (turned["width"], turned["height"]) == size
    (a,), (b,) = (load_frames(tmp_path / row["frame_store"], [0]).astype(int) for row in (plain, turned))
    assert np.abs(np.rot90(a, int(turn) // 90) - b).mean() < 4


def test_pixels_that_are_not_square_are_stored_square(tmp_path: Path, footage: Path):
    path = convert(footage, "wide.mp4", "-vf", "setsar=2/1", "-frames:v", "8")
    row = row_of(tmp_path, path)
    assert (row["width"], row["height"]) == (192, 64)
    assert load_frames(tmp_path / row["frame_store"], [0]).shape == (1, 64, 192, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ten.mp4", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le")),
        ("rgb.mkv", ("-c:v", "libx264rgb")),
        ("half.mp4", ("-c:v", "libx264", "-pix_fmt", "yuv422p")),
        ("full.mkv", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")),
    ],
)
def test_every_pixel_format_gives_the_same_signals(
    tmp_path: Path, scanned: tuple[Path, ManifestRef], footage: Path, name: str, options: tuple[str, ...]
):
    (plain,) = read_rows(scanned[1])
    row = row_of(tmp_path, convert(footage, name, *options))
    assert row["error_message"] is None
    assert np.abs(np.array(row["change"]) - plain["change"]).max() < 0.06 * plain["change"][40]
    assert np.abs(np.array(row["luma"]) - plain["luma"]).max() < 3


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_an_error_row_that_says_how_much_is_left(tmp_path: Path, footage: Path, share: float):
    path = tmp_path / "cut.mp4"
    path.write_bytes(footage.read_bytes()[: int(footage.stat().st_size * share)])
    row = row_of(tmp_path / "data", path)
    assert row["error_code"] == "bad_media"
    assert "cut.mp4: only" in row["error_message"]
    assert "cut short" in row["error_message"]
    assert [row[name] for name in ("pts", "frames", "frame_store", "change", "duration_s")] == [None] * 5
    assert list((tmp_path / "data" / "frames").iterdir()) == []


def test_a_little_damage_is_marked_and_the_rest_is_kept(tmp_path: Path, footage: Path):
    path = tmp_path / "scratched.mp4"
    content = bytearray(footage.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    row = row_of(tmp_path / "data", path, ScanConfig(max_damage=0.9))
    assert row["error_code"] is None
    assert 0 < sum(row["damaged"]) + row["lost"] < 60
    stored = {pts for pts, _ in read_frame_times(tmp_path / "data" / row["frame_store"])}
    assert not stored & {pts for pts, bad in zip(row["pts"], row["damaged"], strict=True) if bad}
    assert row_of(tmp_path / "data", path)["error_code"] == "bad_media"


def test_a_decode_that_takes_too_long_is_an_error_row_and_leaves_no_file(tmp_path: Path, footage: Path):
    row = row_of(tmp_path, footage, ScanConfig(limit_factor=1e-9, limit_floor_s=1e-6))
    assert row["error_code"] == "decoder_timeout"
    assert footage.name in row["error_message"]
    assert not any((tmp_path / "frames").glob("*"))


def test_a_decode_that_took_too_long_is_tried_again_with_more_time_and_not_with_less(tmp_path: Path, footage: Path):
    def limited(limit_s: float) -> ManifestRef:
        return scan(tmp_path, footage, ScanConfig(limit_factor=1e-9, limit_floor_s=limit_s))

    first = limited(1e-5)
    assert read_rows(first)[0]["limit_s"] == 1e-5
    assert limited(1e-6).cached
    again = limited(60.0)
    (row,) = read_rows(again)
    assert (again.cached, row["error_code"], row["attempt"], row["limit_s"]) == (False, None, 2, None)
    assert limited(120.0).cached


def test_one_bad_video_does_not_stop_the_others(tmp_path: Path, footage: Path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(footage.read_bytes()[:9000])
    refs = scan_videos.fn(tmp_path, ScanConfig(), [source(bad), source(footage)])
    assert [read_rows(ref)[0]["error_code"] for ref in refs] == ["bad_media", None]


def test_a_video_that_is_gone_is_an_error_row(tmp_path: Path, footage: Path):
    video = source(footage).model_copy(update={"path": tmp_path / "gone.mp4"})
    (ref,) = scan_videos.fn(tmp_path, ScanConfig(), [video])
    assert "gone.mp4" in read_rows(ref)[0]["error_message"]


def test_a_film_that_changes_while_it_is_scanned_is_a_row_that_says_so(
    tmp_path: Path, footage: Path, monkeypatch: pytest.MonkeyPatch
):
    film = Path(shutil.copy(footage, tmp_path / "a.mp4"))
    given, run = source(film), step.run_in_child

    def change(*arguments: Any, **named: Any) -> Any:
        measured = run(*arguments, **named)
        film.write_bytes(footage.read_bytes() + b"0")
        return measured

    monkeypatch.setattr(step, "run_in_child", change)
    (ref,) = scan_videos.fn(tmp_path / "data", ScanConfig(), [given])
    (row,) = read_rows(ref)
    assert (row["error_code"], row["frame_store"], row["pts"]) == ("source_changed", None, None)
    monkeypatch.undo()
    assert row_of(tmp_path / "data", film)["frames"] == 70, "its new content has a key of its own"


def test_a_film_is_scanned_by_the_demuxer_that_its_probe_found(tmp_path: Path, footage: Path):
    mp4, matroska = (
        source(footage).model_copy(update={"container": name}) for name in ("mov,mp4,m4a", "matroska,webm")
    )
    (ref,) = scan_videos.fn(tmp_path / "one", ScanConfig(), [mp4])
    assert read_rows(ref)[0]["error_code"] is None
    (ref,) = scan_videos.fn(tmp_path / "two", ScanConfig(), [matroska])
    assert "cannot be read as a video" in read_rows(ref)[0]["error_message"]


def test_a_video_whose_id_leads_out_of_its_dataset_is_a_row_and_writes_nothing(tmp_path: Path, footage: Path):
    video = source(footage).model_copy(update={"video_id": "../../elsewhere/x"})
    (ref,) = scan_videos.fn(tmp_path / "data", ScanConfig(), [video])
    (row,) = read_rows(ref)
    assert (row["error_code"], row["frame_store"]) == ("bad_manifest", None)
    assert not (tmp_path / "elsewhere").exists()


def test_hard_names_are_scanned(tmp_path: Path, footage: Path):
    path = shutil.copy(footage, tmp_path / 'it\'s "a" 🎬 %d.mp4')
    assert row_of(tmp_path / "data", Path(path))["frames"] == 70


@pytest.mark.slow
def test_a_second_run_is_found_until_the_frame_store_is_gone(tmp_path: Path, footage: Path):
    first = scan(tmp_path, footage)
    assert [first.cached, scan(tmp_path, footage).cached] == [False, True]
    store = tmp_path / read_rows(first)[0]["frame_store"]
    content = store.read_bytes()
    store.unlink()
    no_process = 2**22 + 1
    left_by_a_killed_run = store.with_name(f".{store.name}.{no_process}-0a1b2c3d.parquet")
    left_by_a_killed_run.touch()
    again = scan(tmp_path, footage)
    assert list(store.parent.iterdir()) == [store]
    assert (again.cached, again.digest) == (False, first.digest)
    assert store.read_bytes() == content


def test_a_second_root_gets_an_equal_manifest_of_its_own(
    tmp_path: Path, scanned: tuple[Path, ManifestRef], footage: Path
):
    root, first = scanned
    second = scan(tmp_path, footage)
    assert not second.cached
    assert second.path.relative_to(tmp_path) == first.path.relative_to(root)
    assert second.path.read_bytes() == first.path.read_bytes()


def test_a_copy_of_the_file_elsewhere_is_found(tmp_path: Path, footage: Path):
    scan(tmp_path, footage)
    assert scan(tmp_path, Path(shutil.copy(footage, tmp_path / "copy.mp4"))).cached


@pytest.mark.slow
def test_only_what_changes_the_result_is_in_the_key(tmp_path: Path, footage: Path):
    first = scan(tmp_path, footage)
    assert scan(tmp_path, footage, ScanConfig(limit_floor_s=500)).cached
    assert not scan(tmp_path, footage, ScanConfig(jpeg_quality=50)).cached
    assert set(read_lineage(first.path).parameters) == set(Sampling.model_fields)


@pytest.mark.parametrize(
    ("change", "expected"),
    [([0.0], False), ([0.0, 9.0], True), ([0, 1.0, 1.0, 9.0], True), ([0, 8.0, 8.0, 9.0], False), ([0, 0, 1.5], False)],
)
def test_a_peak_stands_out_from_what_came_before(change: list[float], expected: bool):
    assert is_peak(change, Sampling()) is expected


def test_a_scan_prints_nothing(tmp_path: Path, footage: Path, capfd: pytest.CaptureFixture[str]):
    scan(tmp_path, footage)
    assert capfd.readouterr() == ("", "")


def test_a_film_that_changes_size_midway_is_scanned_on_both_sides(tmp_path: Path, footage: Path):
    parts = [convert(footage, f"{side}.mjpeg", "-vf", f"scale={side}:-1", "-frames:v", "12") for side in (96, 48)]
    joined = tmp_path / "joined.mjpeg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    row = row_of(tmp_path / "data", convert(joined, "two sizes.mkv", "-c", "copy"))
    assert (row["error_code"], row["frames"], row["width"], row["height"]) == (None, 24, 96, 64)
    assert row["joins"] == [{"frame": 12, "kind": "size", "width": 48, "height": 32}]
    assert row["change"][12] == 0
    store = tmp_path / "data" / row["frame_store"]
    before, after = (load_frames(store, [row["pts"][i]]).shape for i in (11, 12))
    assert (before[1:3], after[1:3]) == ((64, 96), (32, 48))


def join_recordings(footage: Path, name: str) -> Path:
    """Two recordings of 70 frames in MPEG-TS, one after the other: the second's clock begins anew."""
    one = convert(footage, "one.ts", "-c", "copy")
    path = footage.with_name(name)
    path.write_bytes(one.read_bytes() * 2)
    return path


def test_a_clock_that_is_set_back_goes_on_and_no_frame_is_lost(tmp_path: Path, footage: Path):
    row = row_of(tmp_path, join_recordings(footage, "joined.ts"))
    assert (row["error_code"], row["frames"], row["dropped"]) == (None, 140, 0)
    assert set(np.diff(row["pts"])) == {3750}
    assert [(join["frame"], join["kind"]) for join in row["joins"]] == [(70, "clock")]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(Sampling) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "frames_per_s": "2.0, gt=0",
        "short_side": "360, ge=16",
        "jpeg_quality": "90, ge=1, le=100",
        "peak_change": "2.0, ge=0",
        "peak_ratio": "1.25, ge=1",
        "max_damage": "0.05, ge=0, le=1",
    }
    assert declared(ScanConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "limit_factor": "20.0, gt=0",
        "limit_floor_s": "120.0, gt=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert scan_videos.name == "scan"
    assert STEP.files == ("frame_store",)
