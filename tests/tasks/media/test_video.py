import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest
from av.error import InvalidDataError

from models.errors import BadInput, BadMedia, DecodeLimit
from tasks.footage import Camera, Scene, render_shot
from tasks.limits import Limits, set_limits
from tasks.media.canonical_picture import make_picture, read_shown_size
from tasks.media.probe import probe
from tasks.media.video import (
    FullPass,
    compile_command,
    count_decoders,
    find_ffmpeg,
    make_film_options,
    open_video,
    read_frames,
    run_ffmpeg,
    write_video,
)

QUARTERS = np.zeros((64, 96, 3), np.uint8)
QUARTERS[:32, :48], QUARTERS[:32, 48:], QUARTERS[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
"""Red top left, green top right, blue bottom left, black bottom right."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "plain.mp4"
    write_video(path, render_shot(Scene(1), Camera.doing("pan_left"), 96, size=(96, 64)), 24)
    return path


@pytest.fixture(scope="module")
def with_keyframes(video: Path) -> Path:
    return convert(video, "keyframes.mp4", "-g", "24", "-sc_threshold", "0", "-movflags", "+faststart")


def convert(source: Path, name: str, *options: str, before: tuple[str, ...] = ()) -> Path:
    """Another file made from `source` by ffmpeg, beside it."""
    target = source.with_name(name)
    run_ffmpeg(
        [find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(source), *options, str(target)], None, name
    )
    return target


def full_pass(path: Path) -> tuple[list[Fraction], list[bool], FullPass]:
    with open_video(path) as (container, stream):
        decoding = FullPass(container, stream)
        seen = [((frame.pts or 0) * (stream.time_base or 0), damaged) for frame, damaged in decoding.frames()]
    return [Fraction(time) for time, _ in seen], [damaged for _, damaged in seen], decoding


def colours(picture: np.ndarray) -> list[str]:
    """The names of the corners' colours: top left, top right, bottom left, bottom right."""
    height, width, _ = picture.shape
    corners = [picture[y, x] for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return ["black" if corner.max() < 60 else ("red", "green", "blue")[int(corner.argmax())] for corner in corners]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path):
    frames = render_shot(Scene(2), Camera(), 4, size=(64, 48))
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 24, tags={"title": 'it\'s "a" title'})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_odd_sides_are_made_even(tmp_path: Path):
    write_video(tmp_path / "odd.mp4", np.zeros((2, 33, 65, 3), np.uint8), 24)
    assert [read_shown_size(frame) for _, frame in read_frames(tmp_path / "odd.mp4")] == [(66, 34)] * 2


def named_ffmpeg(monkeypatch: pytest.MonkeyPatch, path: Path, said: str | None) -> str:
    """Have IMAGEIO_FFMPEG_EXE name a program that prints `said`, or a missing one; returns its path."""
    if said is not None:
        path.write_text(f"#!/bin/sh\necho '{said}'\n")
        path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
    find_ffmpeg.cache_clear()
    return str(path)


@pytest.fixture
def _ffmpeg_asked_anew() -> Iterator[None]:
    yield
    find_ffmpeg.cache_clear()


def test_the_ffmpeg_on_the_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    find_ffmpeg.cache_clear()
    assert Path(find_ffmpeg()).parent.name == "binaries"


@pytest.mark.usefixtures("_ffmpeg_asked_anew")
@pytest.mark.parametrize("version", ["6.1", "n6.1.2-3-gabc", "7.0-static", "10.0"])
def test_another_ffmpeg_is_used_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str):
    named = named_ffmpeg(monkeypatch, tmp_path / "mine", f"ffmpeg version {version} Copyright (c) 2000-2026")
    assert find_ffmpeg() == named


@pytest.mark.usefixtures("_ffmpeg_asked_anew")
@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("ffmpeg version 5.1.9-0+deb12u1 Copyright", r"mine: is ffmpeg 5\.1, and Reelmill needs 6\.1 or later"),
        ("ffmpeg version 6.0 Copyright", r"mine: is ffmpeg 6\.0, and Reelmill needs 6\.1 or later"),
        ("hello", "mine: prints no version of ffmpeg"),
        (None, "mine: cannot be run as ffmpeg"),
    ],
)
def test_an_ffmpeg_that_is_too_old_or_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, refused: str
):
    named_ffmpeg(monkeypatch, tmp_path / "mine", said)
    with pytest.raises(BadInput, match=refused):
        find_ffmpeg()


def test_a_failing_ffmpeg_says_why():
    with pytest.raises(BadMedia, match=r"film\.mp4: ffmpeg failed: .*No such file"):
        run_ffmpeg([find_ffmpeg(), "-loglevel", "error", "-i", "/nowhere.mp4", "-f", "null", "-"], None, "film.mp4")


def test_a_slow_ffmpeg_is_ended():
    endless = [find_ffmpeg(), "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc", "-f", "null", "-"]
    with pytest.raises(BadMedia, match="did not finish within"):
        run_ffmpeg(endless, None, "film.mp4", limit_s=0.5)


def test_frames_are_read_with_exact_times(video: Path):
    assert [time for time, _ in read_frames(video)] == [Fraction(n, 24) for n in range(96)]


def test_a_span_is_read_without_its_end(with_keyframes: Path):
    times = [time for time, _ in read_frames(with_keyframes, Fraction(30, 24), Fraction(54, 24))]
    assert times == [Fraction(n, 24) for n in range(30, 54)]


def test_a_variable_rate_keeps_its_times(video: Path):
    path = convert(video, "variable.mp4", "-vf", "setpts='if(lt(N,48),N,48+(N-48)*3)/24/TB'", "-fps_mode", "vfr")
    times, _, _ = full_pass(path)
    assert times == [Fraction(n if n < 48 else 48 + (n - 48) * 3, 24) for n in range(96)]


@pytest.mark.parametrize(
    ("turn", "corners"),
    [
        ("0", ["red", "green", "blue", "black"]),
        ("90", ["green", "black", "red", "blue"]),
        ("180", ["black", "blue", "green", "red"]),
        ("-90", ["blue", "red", "black", "green"]),
    ],
)
def test_a_picture_is_turned_as_ffmpeg_shows_it(tmp_path: Path, turn: str, corners: list[str]):
    write_video(tmp_path / "plain.mp4", QUARTERS[None], 24)
    path = convert(tmp_path / "plain.mp4", "turned.mp4", "-c", "copy", before=("-display_rotation", turn))
    shown = convert(path, "shown.mp4")
    (_, turned), (_, reference) = next(read_frames(path)), next(read_frames(shown))
    assert read_shown_size(turned) == read_shown_size(reference)
    assert colours(make_picture(turned)) == colours(make_picture(reference)) == corners


def test_a_picture_is_shrunk_but_never_enlarged(video: Path):
    _, frame = next(read_frames(video))
    assert make_picture(frame, short_side=32).shape == (32, 48, 3)
    assert make_picture(frame, short_side=500).shape == (64, 96, 3)


def test_pixels_that_are_not_square_are_made_square(video: Path):
    _, frame = next(read_frames(video))
    assert make_picture(frame, pixel_aspect=Fraction(4, 3)).shape == (64, 128, 3)
    assert make_picture(frame, short_side=32, pixel_aspect=Fraction(1, 2)).shape == (43, 32, 3)


def test_a_whole_video_loses_nothing(video: Path):
    times, damaged, decoding = full_pass(video)
    assert (len(times), sum(damaged), decoding.lost, decoding.dropped) == (96, 0, 0, 0)


def test_each_pass_counts_as_one_decoder(video: Path):
    before = count_decoders()
    full_pass(video)
    assert count_decoders() == before + 1


def with_hole(path: Path, packet: int) -> Path:
    """A copy in which the second half of one packet is zeros."""
    with open_video(path) as (container, stream):
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(stream) if packet.size]
    position, size = packets[packet]
    content = bytearray(path.read_bytes())
    content[position + size // 2 : position + size] = bytes(size - size // 2)
    target = path.with_name(f"hole{packet}.mp4")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("packet", [24, 25])
def test_damage_lasts_until_the_next_keyframe(with_keyframes: Path, packet: int):
    times, damaged, _ = full_pass(with_hole(with_keyframes, packet))
    assert not any(bad for time, bad in zip(times, damaged, strict=True) if time < 0.8 or time >= 2)
    late = [bad for time, bad in zip(times, damaged, strict=True) if 1.3 < time < 2]
    assert late == [True] * len(late)
    assert len(late) > 10


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_what_a_cut_file_lacks_is_counted(with_keyframes: Path, share: float):
    path = with_keyframes.with_name("cut.mp4")
    whole = with_keyframes.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    times, _, decoding = full_pass(path)
    assert 0 < len(times) < 96
    assert len(times) + decoding.lost >= 92


def test_times_run_forward_even_in_h264_in_avi(video: Path):
    path = convert(video, "reordered.avi", "-c:v", "libx264", "-bf", "2")
    times, _, decoding = full_pass(path)
    assert times == sorted(set(times))
    assert decoding.dropped <= 2
    assert float(times[-1] - times[0]) == pytest.approx(95 / 24, abs=0.1)


def test_what_the_decoder_raises_inside_the_block_is_bad_media(video: Path):
    with pytest.raises(BadMedia, match="cannot be read as a video"), open_video(video):
        raise InvalidDataError(1, "Invalid data found")


def test_what_others_raise_inside_the_block_is_left_alone(video: Path):
    with pytest.raises(OSError, match="No space left"), open_video(video):
        raise OSError(28, "No space left on device")


def make_playlists(folder: Path) -> dict[str, Path]:
    """Files that make libav and ffmpeg read another film of this machine; an odd byte says that they are no text."""
    write_video(folder / "secret.mp4", render_shot(Scene(1), Camera(), 4, size=(96, 64)), 24)
    run_ffmpeg([find_ffmpeg(), "-loglevel", "error", "-i", f"{folder}/secret.mp4", f"{folder}/secret.ts"], None, "ts")
    contents = {
        "hls.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n# \xff\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": b"ffconcat version 1.0\n# \xff\nfile secret.mp4\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.mark.parametrize("name", ["hls.m3u8", "concat.mp4"])
def test_a_playlist_with_an_odd_byte_reads_no_other_file(tmp_path: Path, name: str):
    path = make_playlists(tmp_path)[name]
    with av.open(str(path)) as container:
        assert container.streams.video, "what any player does"
    with (
        pytest.raises(BadMedia, match=r"cannot be read as a video \(Invalid argument\)\. Is it a film"),
        open_video(path),
    ):
        pass
    for demuxer in (None, "mov"):
        command = ffmpeg.input(str(path), **make_film_options(demuxer)).output("-", f="null")
        with pytest.raises(BadMedia, match="ffmpeg failed"):
            run_ffmpeg(compile_command(command), None, name)
    run_ffmpeg(compile_command(ffmpeg.input(str(path)).output("-", f="null")), None, name)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "flv"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_film_that_is_a_playlist_too_is_read_as_itself_or_not_at_all(tmp_path: Path, suffix: str, place: str):
    playlist = make_playlists(tmp_path)["hls.m3u8"].read_bytes()
    write_video(tmp_path / "own.mp4", render_shot(Scene(2), Camera(), 6, size=(48, 36)), 24)
    film = tmp_path / f"own.{suffix}"
    if suffix != "mp4":
        run_ffmpeg([find_ffmpeg(), "-i", f"{tmp_path}/own.mp4", "-c", "copy", str(film)], None, suffix)
    both = tmp_path / ("both.m3u8" if place == "before" else f"both.{suffix}")  # libav takes hls by this name alone.
    parts = (playlist, film.read_bytes()) if place == "before" else (film.read_bytes(), playlist)
    both.write_bytes(b"".join(parts))
    try:
        facts = probe(both)
    except BadMedia:
        assert place == "before", "what follows a film does not hide it"
    else:
        assert (facts.width, facts.height) == (48, 36), "the film that the playlist names has 96 pixels in 64 lines"
        frames = len(list(read_frames(both)))
        assert frames == 6


def test_a_concatenation_by_its_name_is_the_name_of_no_file(tmp_path: Path, video: Path):
    with pytest.raises(BadMedia, match="cannot be opened"), open_video(Path(f"concat:{video}|{video}")):
        pass


def test_a_film_is_opened_by_the_demuxer_that_is_named(video: Path):
    with open_video(video, demuxer="mov") as (container, _):
        assert container.format.name == "mov"
    with pytest.raises(BadMedia, match="cannot be read as a video"), open_video(video, demuxer="matroska"):
        pass


def test_a_film_of_more_pixels_than_are_allowed_is_an_error_that_names_the_setting(video: Path):
    set_limits(Limits(megapixels=0.006))
    try:
        with (
            pytest.raises(DecodeLimit, match=r"more than 0\.006 million pixels.*--limits\.megapixels"),
            open_video(video),
        ):
            pass
    finally:
        set_limits(Limits())


@pytest.mark.parametrize("limits", [Limits(memory_mb=1000), Limits(processor_share=0.001)])
def test_ffmpeg_has_the_limits_of_a_command_that_reads_a_film(limits: Limits):
    source = ffmpeg.input("testsrc2=s=16000x16000:d=600", f="lavfi").output("-", f="null")
    with pytest.raises(BadMedia) as caught:
        run_ffmpeg(compile_command(source), None, "film.mp4", 300, limits)
    assert "did not finish" not in str(caught.value), "its time is not what ended it"
