"""Clips of known colours, written in every format and read back: frames, sizes, rates, and what they say."""

import re
import stat
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from models.errors import BadInput, EncoderOutOfMemory
from models.pictures import Frames
from tasks.generate import encode_formats
from tasks.generate.clip_tags import list_pictures, read_clip, read_tag
from tasks.generate.encode_formats import (
    CODECS,
    PLANS,
    Format,
    convert_webp_quality,
    list_cautions,
    list_encoders,
    make_look,
    write_clip,
)
from tasks.media import video
from tasks.media.video import find_ffmpeg, read_frames, run_ffmpeg

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40), (128, 128, 128)]

SAID = '{"name": "50% of \'it\'"}' * 40
"""What clips say of themselves here: longer than a block of a GIF."""

FORMATS: tuple[Format, ...] = get_args(Format)

MP4: tuple[Format, ...] = ("h264", "hevc", "av1")


def flags(width: int, height: int) -> Frames:
    """A frame of each colour on the left, with its opposite on the right."""
    frames = np.zeros((len(COLOURS), height, width, 3), np.uint8)
    frames[:] = np.array(COLOURS, np.uint8)[:, None, None]
    frames[:, :, width // 2 :] = 255 - frames[:, :, width // 2 :]
    return frames


def written(path: Path, frames: Frames, name: Format, crf: int | None = None, fps: float = 7.0) -> Path:
    look = make_look(name, crf)
    path = path.with_name(f"{path.name}{look.suffix}")
    assert write_clip(path, frames, fps, look, SAID) == (PLANS[0], [])
    return path


def is_near(clip: Frames, frames: Frames) -> bool:
    """Whether the colours in the middles of both halves are those of `frames`."""
    _, height, width, _ = frames.shape
    spots = [(height // 2, width // 4), (height // 2, width * 3 // 4)]
    return all(np.abs(clip[:, y, x].astype(int) - frames[:, y, x]).max() < 8 for y, x in spots)


@pytest.mark.parametrize("size", [(64, 48), (65, 33)])
@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_comes_back_in_its_colour_and_size_with_what_the_clip_says(
    tmp_path: Path, name: Format, size: tuple[int, int]
):
    frames = flags(*size)
    path = written(tmp_path / "a clip. of 50% %d", frames, name)
    clip = read_clip(path)
    width, height = size if name not in MP4 else (side + side % 2 for side in size)
    assert clip.shape == (5, height, width, 3)
    assert is_near(clip, frames)
    assert read_tag(path) == SAID
    assert list(tmp_path.iterdir()) == [path], "nothing else is left"


@pytest.mark.parametrize("name", MP4)
def test_a_film_has_its_rate_its_codec_and_an_odd_side_repeated(tmp_path: Path, name: Format):
    frames = flags(65, 33)
    path = written(tmp_path / "film", frames, name)
    assert [time for time, _ in read_frames(path)] == [Fraction(n, 7) for n in range(5)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == name
        assert stream.codec_context.codec_tag == {"h264": "avc1", "hevc": "hvc1", "av1": "av01"}[name]
    last = read_clip(path)[:, -1, 10].astype(int)
    assert np.abs(last - frames[:, -1, 10]).max() < 90, "the line that was added is no black bar"


@pytest.mark.parametrize(("name", "unit_ms"), [("gif", 10), ("webp", 1)])
def test_pictures_that_move_keep_time_to_their_units(tmp_path: Path, name: Format, unit_ms: int):
    path = written(tmp_path / "moving", flags(32, 32), name)
    with Image.open(path) as clip:
        assert clip.info["loop"] == 0, "they move for ever"
        shown: list[float] = []
        for picture in ImageSequence.Iterator(clip):
            picture.load()
            shown.append(picture.info["duration"])
    assert all(abs(each - 1000 / 7) <= unit_ms for each in shown)


def test_pictures_are_numbered_from_one_without_loss(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 7, 9, 3), dtype=np.uint8)
    folder = written(tmp_path / "folder", frames, "png")
    assert [path.name for path in list_pictures(folder)] == [f"{n:04}.png" for n in range(1, 13)]
    assert np.array_equal(read_clip(folder), frames)


def test_a_gif_of_few_colours_has_them_exactly(tmp_path: Path):
    frames = flags(40, 30)
    assert np.array_equal(read_clip(written(tmp_path / "flags", frames, "gif")), frames)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, name: Format):
    frames = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    one, other = (written(tmp_path / each, frames, name) for each in "ab")
    files = [list_pictures(path) if path.is_dir() else [path] for path in (one, other)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize("name", ["h264", "hevc", "av1", "webp"])
def test_a_lower_quality_is_a_smaller_file(tmp_path: Path, name: Format):
    frames = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    fine, coarse = (written(tmp_path / f"{crf}", frames, name, crf).stat().st_size for crf in (4, 45))
    assert fine > 2 * coarse


def test_webp_counts_its_quality_upwards():
    assert [convert_webp_quality(crf) for crf in (0, 10, 51)] == [100, 80, 0]


@pytest.mark.parametrize(
    ("name", "crf", "said"),
    [
        ("gif", 10, r"--crf 10: gif has no quality to choose\. Leave it out"),
        ("png", 0, r"--crf 0: png has no quality to choose"),
        ("h264", 52, r"--crf 52: the quality of h264 goes from 0, the best, to 51"),
        ("webp", 60, r"--crf 60: the quality of webp goes from 0"),
    ],
)
def test_a_quality_that_a_format_does_not_have_is_refused(name: Format, crf: int, said: str):
    with pytest.raises(BadInput, match=said):
        make_look(name, crf)
    assert make_look("av1", 60).crf == 60
    assert make_look("h264", None).crf == CODECS["h264"].crf


def lacking(folder: Path, *encoders: str) -> str:
    """An ffmpeg that does not know some encoders."""
    path = folder / "ffmpeg"
    path.write_text(f'#!/bin/sh\nexec {find_ffmpeg()} "$@" | grep -v -E "{"|".join(encoders)}"\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_an_ffmpeg_without_the_encoder_is_named_and_another_that_it_has_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert make_look("av1", None).encoder == "libsvtav1"
    exe = lacking(tmp_path, "libsvtav1", "libx265")
    monkeypatch.setattr(encode_formats, "find_ffmpeg", lambda: exe)
    with pytest.raises(BadInput, match=rf"--format hevc: {exe} has no encoder libx265\. Choose another format"):
        make_look("hevc", None)
    assert make_look("av1", None).encoder == "libaom-av1"
    path = tmp_path / "other.mp4"
    write_clip(path, flags(48, 32), 7.0, make_look("av1", None), SAID)
    assert is_near(read_clip(path), flags(48, 32))


def test_what_ffmpeg_encodes_with_is_known():
    known = list_encoders(find_ffmpeg())
    assert {"libx264", "gif", "png"} <= known
    assert not {"=", "V.....", "Encoders:"} & known


def test_an_encoder_that_is_given_too_little_memory_is_known_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limit is on addresses, which ffmpeg takes more of than memory. Of the encoders only x264 always ends then:
    x265 may wait for a thread that was never made, until its time is over."""
    look = make_look("h264", None)
    exe = tmp_path / "ffmpeg"
    exe.write_text(f'#!/bin/sh\nulimit -v 420000\nexec {find_ffmpeg()} "$@"\n')
    exe.chmod(exe.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(exe))
    frames = np.repeat(flags(2560, 1440), 6, axis=0)
    with pytest.raises(EncoderOutOfMemory, match="ffmpeg ran out of memory"):
        write_clip(tmp_path / f"large{look.suffix}", frames, 7.0, look, SAID)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ffmpeg"]


def test_a_killed_ffmpeg_ran_out_of_memory():
    with pytest.raises(EncoderOutOfMemory, match="film: ffmpeg ran out of memory"):
        run_ffmpeg(["/bin/sh", "-c", "kill -9 $$"], None, "film")
    with pytest.raises(EncoderOutOfMemory):
        run_ffmpeg(["/bin/sh", "-c", "echo '[in#0] Error during demuxing: Cannot allocate memory' >&2"], None, "film")


@pytest.mark.parametrize(("crf", "profile"), [(0, "High 4:4:4 Predictive"), (1, "High"), (None, "High")])
def test_a_profile_that_most_players_refuse_is_said(tmp_path: Path, crf: int | None, profile: str):
    with av.open(str(written(tmp_path / "a", flags(48, 32), "h264", crf))) as container:
        assert container.streams.video[0].profile == profile
    said = list_cautions(make_look("h264", crf), [7.0])
    assert [profile in line and "--crf 1" in line for line in said] == ([] if profile == "High" else [True])


@pytest.mark.parametrize("name", ["hevc", "av1", "webp"])
def test_other_formats_play_at_their_best_quality(name: Format):
    assert list_cautions(make_look(name, 0), [240.0]) == []


@pytest.mark.parametrize(("fps", "shortest"), [(50, 2), (60, 1)])
def test_what_viewers_make_of_a_fast_gif_is_said(tmp_path: Path, fps: int, shortest: int):
    content = written(tmp_path / "a", flags(48, 32), "gif", fps=fps).read_bytes()
    delays = [int.from_bytes(found, "little") for found in re.findall(rb"\x21\xf9\x04.(..)", content, re.DOTALL)]
    assert min(delays) == shortest, "hundredths of a second"
    said = list_cautions(make_look("gif", None), [7.0, fps])
    assert [line.startswith(f"--format gif at {fps} frames a second") for line in said] == [True] * (fps > 50)
    assert all("Play it at 50 or fewer (--playback-fps)" in line for line in said)
