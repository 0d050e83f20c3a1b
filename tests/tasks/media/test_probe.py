import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from models.errors import BadMedia
from tasks.footage import Camera, Scene, render_shot
from tasks.media import probe as module
from tasks.media.probe import VideoFacts, probe
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video

FACTS = VideoFacts(
    container="mov,mp4,m4a,3gp,3g2,mj2",
    codec="h264",
    pix_fmt="yuv420p",
    bit_depth=8,
    width=96,
    height=64,
    coded_width=96,
    coded_height=64,
    rotation=0,
    sample_aspect=Fraction(1),
    fps=24.0,
    fps_nominal=24.0,
    variable_rate=False,
    time_base=Fraction(1, 12288),
    duration_s=1.5,
    color_primaries="bt709",
    color_transfer="bt709",
    color_matrix="bt709",
    color_range="tv",
    hdr=False,
    field_order="progressive",
    interlaced=False,
    has_audio=False,
    audio_codec=None,
    audio_channels=None,
    audio_rate=None,
    streams=1,
    stream=0,
    anomalies=("one_keyframe",),
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "plain.mp4"
    write_video(path, render_shot(Scene(1), Camera.doing("pan_left"), 36, size=(96, 64)), 24)
    return path


def convert(source: Path, name: str, *options: str, before: tuple[str, ...] = ()) -> Path:
    """Another file made from `source` by ffmpeg, beside it."""
    target = source.with_name(name)
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(source), *options, str(target)]
    run_ffmpeg(command, None, name)
    return target


def test_the_facts_of_a_plain_video(video: Path):
    assert probe(video) == FACTS


@pytest.mark.parametrize(
    "name", ["two words.mp4", 'it\'s "quoted".mp4', "film 🎬 é.mp4", "50%d.mp4", "a:b.mp4", "-x.mp4"]
)
def test_any_name_will_do(video: Path, tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(video.read_bytes())
    assert probe(path) == FACTS


def test_a_relative_path_is_no_address(video: Path, monkeypatch: pytest.MonkeyPatch):
    (video.parent / "pipe:0").write_bytes(video.read_bytes())
    monkeypatch.chdir(video.parent)
    assert probe(Path("pipe:0")) == FACTS


@pytest.mark.parametrize(("turn", "rotation"), [("-90", 90), ("180", 180), ("90", 270)])
def test_a_rotated_video_has_the_size_it_is_shown_in(video: Path, turn: str, rotation: int):
    path = convert(video, f"turned{turn}.mp4", "-c", "copy", before=("-display_rotation", turn))
    size = {"width": 64, "height": 96} if rotation != 180 else {}
    assert probe(path) == replace(FACTS, rotation=rotation, anomalies=("one_keyframe", "rotated"), **size)


def test_a_variable_rate_is_seen(video: Path):
    slower = "setpts='if(lt(N,18),N,18+(N-18)*3)/24/TB'"
    facts = probe(convert(video, "variable.mp4", "-vf", slower, "-fps_mode", "vfr"))
    assert facts.variable_rate is True
    assert facts.fps == pytest.approx(36 / 3, rel=0.1)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mov"])
def test_rounding_to_a_coarse_time_base_is_no_variable_rate(video: Path, name: str):
    facts = probe(convert(video, name, "-r", "24000/1001"))
    assert facts.variable_rate is False
    assert facts.fps == pytest.approx(24000 / 1001, abs=0.01)


def test_sound_is_mentioned(video: Path):
    path = convert(video, "sound.mp4", "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy")
    facts = probe(path)
    assert (facts.has_audio, facts.audio_codec, facts.audio_channels, facts.audio_rate) == (True, "aac", 1, 44100)
    assert facts.streams == 2


def test_the_stream_that_is_asked_for_is_probed_and_another_is_refused(video: Path):
    small = ("-i", str(video), "-map", "0", "-map", "1", "-c:v:0", "libx264", "-filter:v:1", "scale=32:32")
    path = convert(video, "two.mkv", *small, "-disposition:0", "default", "-disposition:1", "0")
    found = [probe(path, number) for number in (None, 0, 1)]
    assert [(facts.stream, facts.width) for facts in found] == [(0, 96), (0, 96), (1, 32)]
    with pytest.raises(BadMedia, match=r"its stream 7 is no video; 0 and 1 can be used.*--ingest\.stream"):
        probe(path, 7)


@pytest.mark.parametrize(
    ("name", "pix_fmt", "bits"),
    [("ten.mp4", "yuv420p10le", 10), ("wide.mov", "yuv422p", 8), ("deep.mkv", "gray12", 12)],
)
def test_the_pixel_format_and_depth_are_those_of_the_frames(video: Path, name: str, pix_fmt: str, bits: int):
    codec = ("-c:v", "ffv1") if name.endswith("mkv") else ()
    facts = probe(convert(video, name, *codec, "-pix_fmt", pix_fmt))
    assert (facts.pix_fmt, facts.bit_depth) == (pix_fmt + "le" * (name == "deep.mkv"), bits)


@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "hdr"),
    [
        ("smpte2084", "bt2020", "bt2020nc", True),
        ("arib-std-b67", "bt2020", "bt2020nc", True),
        ("bt709", "bt709", "bt709", False),
        ("smpte170m", "smpte170m", "smpte170m", False),
    ],
)
def test_colours_are_those_of_the_file_and_tell_a_high_dynamic_range(
    video: Path, transfer: str, primaries: str, matrix: str, hdr: bool
):
    said = f"colorprim={primaries}:transfer={transfer}:colormatrix={matrix}:range=tv"
    facts = probe(convert(video, f"{transfer}.mp4", "-pix_fmt", "yuv420p10le", "-x264-params", said))
    named = (facts.color_transfer, facts.color_primaries, facts.color_matrix, facts.color_range)
    assert named == (transfer, primaries, matrix, "tv")
    assert facts.hdr is hdr is ("hdr" in facts.anomalies)


@pytest.mark.parametrize(
    ("option", "named", "numbers"),
    [
        ("color_primaries", module._PRIMARIES, {1, *range(4, 13), 22}),
        ("color_trc", module._TRANSFERS, {1, *range(4, 19)}),
        ("colorspace", module._MATRICES, {0, 1, *range(4, 11), 14}),
        ("color_range", module._RANGES, {1, 2}),
        ("field_order", module._FIELD_ORDERS, {1, 2, 3, 4, 5}),
    ],
)
def test_numbers_have_the_names_that_ffmpeg_gives_them(option: str, named: dict[int, str], numbers: set[int]):
    told = subprocess.run([find_ffmpeg(), "-hide_banner", "-h", "full"], capture_output=True, text=True, check=True)
    values = re.findall(rf"^ +-?{option} .*\n((?:     .*\n)+)", told.stdout, re.MULTILINE)
    known = {(int(value), name) for name, value in re.findall(r"^     (\S+) +(\d+) ", "".join(values), re.MULTILINE)}
    assert set(named.items()) <= known
    assert set(named) == numbers


def test_pixels_that_are_not_square_are_said_to_be(video: Path):
    facts = probe(convert(video, "anamorphic.mp4", "-vf", "setsar=4/3"))
    assert (facts.sample_aspect, facts.width, facts.height) == (Fraction(4, 3), 128, 64)
    assert "pixels_not_square" in facts.anomalies


def test_the_stored_size_is_that_of_whole_blocks(video: Path):
    facts = probe(convert(video, "cropped.mp4", "-vf", "crop=90:50"))
    assert (facts.width, facts.height, facts.coded_width, facts.coded_height) == (90, 50, 96, 64)


def test_what_is_plain_has_no_anomaly(video: Path):
    assert probe(convert(video, "plain-keyframes.mp4", "-g", "12")).anomalies == ()


def test_a_broadcast_recording_that_begins_at_a_second_is_not_far(video: Path):
    assert "far_start" not in probe(convert(video, "short.ts", "-c", "copy")).anomalies


def test_sound_alone_is_no_video(video: Path):
    path = convert(video, "alone.m4a", "-f", "lavfi", "-i", "sine=d=1", "-vn")
    with pytest.raises(BadMedia, match=r"alone\.m4a: has no video stream"):
        probe(path)


def test_a_cover_picture_is_no_video(video: Path):
    sound = ("-f", "lavfi", "-i", "sine=d=1", "-map", "1:a", "-map", "0:v", "-frames:v", "1")
    path = convert(video, "cover.mp3", *sound, "-c:v", "mjpeg", "-disposition:v", "attached_pic")
    with pytest.raises(BadMedia, match="has no video stream"):
        probe(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello\n" * 1000, "is a text file"),
        ("ünïcödé, written at length\n".encode() * 400, "is a text file"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://example.com/a.ts\n", "is a text file"),
        (bytes(range(256)) * 50, "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "renamed.mp4"
    path.write_bytes(content)
    with pytest.raises(BadMedia, match=f"renamed.mp4: {reason}") as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(BadMedia, match="No such file"):
        probe(tmp_path / "gone.mp4")
    with pytest.raises(BadMedia, match="Is a directory"):
        probe(tmp_path)


def test_a_video_cut_before_its_index_is_refused(video: Path):
    path = convert(video, "index-last.mp4", "-c", "copy")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match="Is it complete"):
        probe(path)


def test_a_video_cut_within_its_first_frame_is_refused(video: Path, tmp_path: Path):
    path = tmp_path / "stub.mp4"
    path.write_bytes(video.read_bytes()[:1500])
    with pytest.raises(BadMedia):
        probe(path)
