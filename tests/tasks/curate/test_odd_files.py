"""Damaged and odd files through ingest, scan and split: each kind has a right answer, and none ends the run.

The film has two shots of a second each, 24 frames a second; what can be read of it has its cut where it belongs.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.curate.ingest import IngestConfig, ingest_sources, list_videos
from tasks.curate.scan import ScanConfig, scan_video
from tasks.curate.split import SplitConfig, split_video
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video

HALF, FPS = 24, 24.0

FILE_NAMES = (
    "two words.mp4",
    'it\'s "quoted".mp4',
    "line\nbreak.mp4",
    "film 🎬 é.mp4",
    "-leading dash.mp4",
    "50%d*.mp4",
)


@dataclass(frozen=True)
class Found:
    """What the three steps say of one file: ingest's row, scan's, None where it was not scanned, and the clips."""

    file: dict[str, Any]
    scan: dict[str, Any] | None
    clips: list[dict[str, Any]]

    def starts(self) -> list[float]:
        """The clips' starts in seconds, from the first frame on."""
        return [round(clip["start_s"] - self.clips[0]["start_s"], 3) for clip in self.clips]


def through(root: Path, *sources: Path | str) -> dict[str, Found]:
    """Ingest, scan and split; the findings by the files' names."""
    ingest = ingest_sources(root, IngestConfig(), [str(source) for source in sources])
    scans, clips = {}, {}
    for video in list_videos(root, ingest):
        scan = scan_video(root, ScanConfig(), video)
        (scans[video.video_id],) = read_rows(scan)
        clips[video.video_id] = read_rows(split_video(root, SplitConfig(), scan))
    return {
        Path(row["source"]).name: Found(row, scans.get(row["video_id"]), clips.get(row["video_id"], []))
        for row in read_rows(ingest)
    }


def one(root: Path, source: Path) -> Found:
    (found,) = through(root, source).values()
    return found


def whole(found: Found, *anomalies: str, frames: int = 2 * HALF) -> None:
    """The file was read to its end, has just these anomalies, and was cut after the first second."""
    assert (found.file["status"], found.file["anomalies"]) == ("ok", list(anomalies))
    assert found.scan
    assert (found.scan["error_message"], found.scan["frames"]) == (None, frames)
    assert found.starts() == pytest.approx([0.0, HALF / FPS], abs=0.002)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain film, which has no anomaly."""
    folder = tmp_path_factory.mktemp("odd")
    shots = [render_shot(Scene(seed), Camera(pan=0.2), HALF, FPS, (96, 64)) for seed in (1, 2)]
    write_video(folder / "source.mp4", np.concatenate(shots), FPS)
    return convert(folder / "source.mp4", "plain.mp4", "-g", "12", "-movflags", "+faststart")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def convert(source: Path, name: str, *options: str, before: tuple[str, ...] = ()) -> Path:
    """Another file made from `source` by ffmpeg, beside it."""
    target = source.with_name(name)
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(source), *options, str(target)]
    run_ffmpeg(command, None, name)
    return target


@pytest.mark.slow
def test_a_plain_file_is_cut_where_it_should(film: Path, data: Path):
    whole(one(data, film))


def test_a_truncated_file_says_how_much_of_it_is_there(film: Path, data: Path, tmp_path: Path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(film.read_bytes()[: film.stat().st_size * 6 // 10])
    found = one(data, path)
    assert found.scan
    assert (found.file["status"], found.scan["error_code"], found.clips) == ("ok", "bad_media", [])
    assert re.search(r"only 2\d of 4\d frames can be used", found.scan["error_message"])


def test_a_file_cut_before_its_index_cannot_be_read(film: Path, data: Path, tmp_path: Path):
    path = convert(film, "index-last.mp4", "-c", "copy", "-movflags", "-faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "Is it complete?" in one(data, path).file["error_message"]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty (0 bytes)"), (b"Dear diary, no film today.\n" * 99, "is a text file")]
)
def test_zero_bytes_and_a_renamed_text_are_named_as_such(data: Path, tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "film.mp4").write_bytes(content)
    found = one(data, tmp_path / "film.mp4")
    assert (found.file["status"], found.scan) == ("unreadable", None)
    assert reason in found.file["error_message"]


def test_sound_alone_is_no_video(film: Path, data: Path):
    path = convert(film, "sound.mp4", "-f", "lavfi", "-i", "sine=d=1", "-map", "1:a")
    assert "has no video stream, only sound or pictures" in one(data, path).file["error_message"]


def test_a_single_frame_is_a_clip_of_one_frame(film: Path, data: Path):
    found = one(data, convert(film, "one.mp4", "-frames:v", "1"))
    assert found.scan
    assert (found.scan["frames"], [clip["frames"] for clip in found.clips]) == (1, [1])
    assert found.file["variable_rate"] is None


def test_a_variable_rate_keeps_its_true_times(film: Path, data: Path):
    slow = f"setpts='if(lt(N,{HALF}),N,{HALF}+(N-{HALF})*2)/24/TB'"
    found = one(data, convert(film, "variable.mp4", "-vf", slow, "-fps_mode", "vfr", "-g", "12"))
    whole(found, "variable_rate")
    assert found.clips[1]["end_s"] == pytest.approx(3.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turn", "rotation", "size"), [("-90", 90, (64, 96)), ("180", 180, (96, 64)), ("90", 270, (64, 96))]
)
def test_a_turned_picture_has_the_size_in_which_it_is_shown(
    film: Path, data: Path, turn: str, rotation: int, size: tuple[int, int]
):
    found = one(data, convert(film, f"turned{rotation}.mp4", "-c", "copy", before=("-display_rotation", turn)))
    whole(found, "rotated")
    assert found.scan
    assert (found.file["rotation"], found.file["width"], found.file["height"]) == (rotation, *size)
    assert (found.scan["width"], found.scan["height"]) == size


def test_odd_sides_stay_odd(film: Path, data: Path):
    found = one(data, convert(film, "odd.mp4", "-vf", "scale=95:63", "-pix_fmt", "yuv444p", "-g", "12"))
    whole(found, "odd_size")
    assert (found.file["width"], found.clips[0]["width"], found.clips[0]["height"]) == (95, 95, 63)


@pytest.mark.slow
def test_ten_bits_are_read_like_eight(film: Path, data: Path):
    found = one(data, convert(film, "ten.mp4", "-pix_fmt", "yuv420p10le", "-g", "12"))
    whole(found)
    assert (found.file["bit_depth"], found.file["hdr"]) == (10, False)
    plain = one(data, film)
    assert found.scan
    assert plain.scan
    assert found.scan["luma"] == pytest.approx(plain.scan["luma"], abs=1.5)


def test_a_high_dynamic_range_is_said(film: Path, data: Path):
    said = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    whole(one(data, convert(film, "hdr.mp4", "-pix_fmt", "yuv420p10le", "-g", "12", "-x264-params", said)), "hdr")


def test_an_interlaced_picture_is_said(film: Path, data: Path):
    options = ("-vf", "setfield=tff", "-flags", "+ilme+ildct", "-x264-params", "tff=1", "-g", "12")
    found = one(data, convert(film, "interlaced.mp4", *options))
    whole(found, "interlaced")
    assert (found.file["interlaced"], found.file["field_order"]) == (True, "tt")


def test_a_raw_stream_says_that_its_frames_have_no_times(film: Path, data: Path):
    found = one(data, convert(film, "raw.h264", "-c", "copy"))
    assert (found.file["status"], found.file["anomalies"]) == ("ok", ["no_duration", "no_timestamps"])
    assert found.scan
    assert (found.scan["error_code"], found.clips) == ("bad_media", [])
    assert "48 without a time). Times are missing or decrease; convert it to mp4." in found.scan["error_message"]


def test_two_streams_joined_end_to_end_say_so_and_lose_no_frame(film: Path, data: Path, tmp_path: Path):
    part = convert(film, "part.ts", "-c", "copy").read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    found = one(data, tmp_path / "joined.ts")
    assert "timestamps_run_back" in found.file["anomalies"]
    assert found.scan
    assert (found.scan["error_message"], found.scan["dropped"]) == (None, 0)
    assert [join["kind"] for join in found.scan["joins"]] == ["clock"]
    assert found.scan["joins"][0]["frame"] == found.scan["frames"] // 2


def test_a_picture_named_like_a_film_is_a_clip_of_one_frame(film: Path, data: Path):
    picture = convert(film, "picture.png", "-frames:v", "1")
    found = one(data, picture.rename(picture.with_suffix(".mp4")))
    assert found.scan
    assert (found.file["status"], found.file["codec"], found.scan["frames"]) == ("ok", "png", 1)


def test_a_clock_that_wraps_in_the_middle_is_followed(film: Path, data: Path):
    """MPEG's clock has 33 bits: after 26.5 hours it begins again at zero."""
    wrapped = convert(
        film, "wrapped.ts", "-c", "copy", "-output_ts_offset", f"{2**33 / 90000 - 1:.3f}", "-muxdelay", "0"
    )
    assert one(data, wrapped).starts() == pytest.approx([0.0, HALF / FPS], abs=0.002)


def test_huge_timestamps_stay_exact(film: Path, data: Path):
    found = one(data, convert(film, "far.mp4", "-c", "copy", "-output_ts_offset", "900000"))
    whole(found, "far_start", "edit_list")
    clip = found.clips[1]
    start = clip["start_pts"] * Fraction(clip["time_base"])
    assert (start, clip["start_s"]) == (900001, 900001.0)


def test_frames_that_an_edit_list_hides_are_not_seen(film: Path, data: Path):
    found = one(data, convert(film, "edited.mp4", "-c", "copy", before=("-ss", "0.7")))
    assert found.file["anomalies"] == ["edit_list"]
    assert found.scan
    assert 2 * HALF - 17 <= found.scan["frames"] <= 2 * HALF - 16
    assert found.starts() == [0.0, pytest.approx(0.3, abs=0.05)]


def test_a_cover_picture_is_not_the_film(film: Path, data: Path):
    cover = convert(film, "cover.jpg", "-frames:v", "1", "-vf", "scale=300:300")
    maps = ("-i", str(cover), "-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic")
    found = one(data, convert(film, "cover.mp4", *maps))
    whole(found, "cover_art")
    assert (found.file["width"], found.file["streams"]) == (96, 2)


def test_a_second_video_in_the_file_is_said_and_the_first_is_taken(film: Path, data: Path):
    second = ("-f", "lavfi", "-i", "testsrc=s=32x32:d=1", "-map", "0:v", "-map", "1:v", "-c:v:0", "copy")
    found = one(data, convert(film, "two.mp4", *second))
    whole(found, "extra_video_streams")
    assert found.file["width"] == 96


def test_a_file_without_a_keyframe_after_its_start_is_cut_all_the_same(film: Path, data: Path):
    long = ("-g", "1000", "-x264-params", "scenecut=0")
    whole(one(data, convert(film, "one-keyframe.mp4", *long)), "one_keyframe")


def test_a_file_that_begins_between_keyframes_loses_what_cannot_be_decoded(film: Path, data: Path):
    headless = convert(film, "headless.mkv", "-c", "copy", "-bsf:v", "noise=drop='lt(n,5)'", "-copyinkf")
    found = one(data, headless)
    assert "no_keyframe_at_start" in found.file["anomalies"]
    assert found.scan
    assert (found.scan["frames"], found.scan["pts"][0]) == (2 * HALF - 12, 500), "from the second keyframe on"
    assert found.starts() == [0.0, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILE_NAMES)
def test_any_name_is_kept_as_it_is(film: Path, data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(film.read_bytes())
    monkeypatch.chdir(tmp_path / "in")
    for source in (tmp_path / "in", Path(name)):
        found = one(data, source)
        whole(found)
        assert found.file["source"] == str(tmp_path / "in" / name)


def test_a_loop_of_links_ends(film: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(film.read_bytes())
    (folder / "deeper" / "up").symlink_to(folder)
    (folder / "self.mp4").symlink_to(folder / "self.mp4")
    found = through(data, folder)
    assert {name: each.file["status"] for name, each in found.items()} == {"a.mp4": "ok", "self.mp4": "unreadable"}


Spoil = Callable[[Path], None]


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _forbidden(path: Path) -> None:
    path.chmod(0)


@pytest.mark.parametrize(
    "spoil",
    [
        _dangling,
        _pipe,
        pytest.param(_forbidden, marks=pytest.mark.skipif(os.geteuid() == 0, reason="Root may read every file.")),
    ],
)
def test_what_cannot_be_opened_is_a_row_and_the_rest_is_read(film: Path, data: Path, tmp_path: Path, spoil: Spoil):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("bad.mp4", "good.mp4"):
        (folder / name).write_bytes(film.read_bytes())
    spoil(folder / "bad.mp4")
    found = through(data, folder)
    assert (found["bad.mp4"].file["status"], found["bad.mp4"].file["digest"]) == ("unreadable", None)
    assert "bad.mp4" in found["bad.mp4"].file["error_message"]
    whole(found["good.mp4"])


def test_a_folder_named_like_a_film_is_a_folder(film: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "in" / "folder.mp4"
    folder.mkdir(parents=True)
    (folder / "inside.mp4").write_bytes(film.read_bytes())
    assert list(through(data, tmp_path / "in")) == ["inside.mp4"]
