"""A folder of files of every kind: what the decoder reads is taken whatever its name, and nothing else goes unsaid."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadInput, BadMedia
from models.file_kinds import find_kind, is_film, is_picture, read_kind
from tasks.curate.ingest import IngestConfig, ingest_sources
from tasks.curate.source_list import expand_sources
from tasks.manifest import read_rows
from tasks.media.probe import probe
from tasks.media.video import find_ffmpeg, run_ffmpeg

FILM = ("-f", "lavfi", "-i", "testsrc=size=176x144:rate=25:duration=0.4", "-pix_fmt", "yuv420p")

SOUND = ("-f", "lavfi", "-i", "sine=duration=0.4")

FILMS: dict[str, tuple[str, ...]] = {
    "a.3gp": ("-c:v", "mpeg4"),
    "a.vob": ("-f", "vob"),
    "a.ogv": ("-c:v", "libtheora"),
    "a.asf": (),
    "a.dv": ("-target", "pal-dv"),
    "a.gif": ("-pix_fmt", "rgb8"),
    "a.y4m": (),
    "a.m2v": (),
    "a.f4v": ("-c:v", "libx264"),
    "a.mp4": ("-c:v", "libx264"),
    "a.mkv": ("-c:v", "libx264"),
    "a.webm": ("-c:v", "libvpx"),
    "a.avi": (),
    "a.mov": ("-c:v", "libx264"),
    "a.ts": (),
    "a.m2ts": ("-mpegts_m2ts_mode", "1"),
    "a.mpg": (),
    "a.wmv": (),
    "a.flv": (),
    "a.mxf": (),
    "a.h264": ("-c:v", "libx264"),
    "a.hevc": ("-c:v", "libx265"),
    "a.ivf": ("-c:v", "libvpx"),
    "a.nut": (),
    "a.obu": ("-c:v", "libsvtav1"),
    "a.apng": ("-f", "apng", "-pix_fmt", "rgb24"),
    "a.avif": ("-c:v", "libsvtav1"),
}

PICTURES = ("still.png", "still.jpg", "still.gif", "still.webp", "still.bmp", "still.tif", "still.ppm")

SOUNDS = ("s.mp3", "s.m4a", "s.ogg", "s.opus", "s.wav", "s.flac", "s.mka", "s.wma", "s.aac", "s.ac3", "s.aiff")

KEY = ("-encryption_key", "01" * 16, "-encryption_kid", "02" * 16)

CENC = ("-c:v", "libx264", "-encryption_scheme", "cenc-aes-ctr", *KEY)

COLOURS = {".gif": "rgb8", ".ppm": "rgb24"}


def make(path: Path, *options: str, source: tuple[str, ...] = FILM) -> Path:
    """Write a file by ffmpeg."""
    run_ffmpeg([find_ffmpeg(), "-loglevel", "error", "-y", *source, *options, str(path)], None, path.name)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, pictures and sounds of every kind, written once, under names without suffixes."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, options in FILMS.items():
        make(folder / name, *options)
    for name in PICTURES:
        make(folder / name, "-frames:v", "1", "-pix_fmt", COLOURS.get(Path(name).suffix, "yuv420p"))
    for name in SOUNDS:
        make(folder / name, source=SOUND)
    return folder


@pytest.fixture
def hold(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """Put files that were made into a folder of sources, each as its new name."""

    def put(**named: str) -> Path:
        (tmp_path / "in").mkdir(exist_ok=True)
        for new, old in named.items():
            (tmp_path / "in" / new.replace("__", ".")).write_bytes((made / old).read_bytes())
        return tmp_path / "in"

    return put


def rows_of(root: Path, *sources: Path) -> dict[str, dict[str, Any]]:
    ref = ingest_sources(root, IngestConfig(), [str(source) for source in sources])
    return {Path(row["source"]).name: row for row in read_rows(ref)}


def taken(folder: Path) -> list[str]:
    return [Path(entry.source).name for entry in expand_sources([str(folder)], None)]


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_one_by_its_content_and_the_decoder_reads_it(made: Path, name: str):
    assert (is_film(made / name), probe(made / name).width > 0) == (True, True)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_one_by_its_content(made: Path, name: str):
    assert (is_film(made / name), is_picture(made / name)) == (False, True)


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_is_neither(made: Path, name: str):
    kind = read_kind(made / name)
    assert kind is not None
    assert kind.holds == "sound"


TEXTS = (
    b"The wide world",
    b"BM\0\0",
    b"we, free",
    b"GIF89 is a format",
    b"P5 is a pipe\n",
    b"{}",
    b"",
    b"\0" * 999,
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_reads_like_a_mark_is_of_no_kind(text: bytes):
    assert find_kind(text) is None


def test_films_without_a_name_that_says_so_are_taken_and_read(tmp_path: Path, hold: Callable[..., Path]):
    folder = hold(one="a.mp4", two__dat="a.3gp", three__gif="a.gif", four__mp3="a.ogv", five__JPG="a.avi")
    rows = rows_of(tmp_path / "data", folder)
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("one", "two.dat", "three.gif", "four.mp3", "five.JPG"), "ok"
    )


def test_every_suffix_of_films_is_taken_and_a_damaged_one_is_a_row(tmp_path: Path):
    (tmp_path / "in").mkdir()
    names = [f"bad{suffix}" for suffix in (".3gp", ".vob", ".ogv", ".asf", ".dv", ".y4m", ".m2v", ".f4v")]
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"\x93" * 99)
    assert {name: row["status"] for name, row in rows_of(tmp_path / "data", tmp_path / "in").items()} == dict.fromkeys(
        names, "unreadable"
    )


def test_what_is_not_taken_is_counted_and_named_with_the_reason(
    hold: Callable[..., Path], caplog: pytest.LogCaptureFixture
):
    folder = hold(
        film__mp4="a.mp4", song__mp3="s.mp3", shot__png="still.png", loop__gif="still.gif", half__part="a.mp4"
    )
    (folder / "deeper" / ".cache").mkdir(parents=True)
    (folder / "deeper" / "notes.txt").write_text("x")
    for nobody_misses in (".DS_Store", "._film.mp4", "Thumbs.db"):
        (folder / nobody_misses).touch()
    (folder / ".film.mp4").write_bytes(b"x")
    (folder / "gone").symlink_to(folder / "nowhere")
    assert taken(folder) == taken(folder) == ["film.mp4"]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == (
        f"{folder}: not taken, 8 files: .film.mp4 (hidden), deeper/.cache (hidden), deeper/notes.txt, gone (a link to "
        "nothing), half.part (not complete), loop.gif (GIF of one picture), shot.png (PNG), song.mp3 (sound)."
    )


def test_of_many_the_first_are_named_and_all_are_counted(tmp_path: Path, made: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "film.mp4").write_bytes((made / "a.mp4").read_bytes())
    for number in range(200):
        (tmp_path / f"{number:03}.txt").touch()
    taken(tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "not taken, 200 files: 000.txt, 001.txt" in said
    assert " and 158 more." in said
    assert len(said) < 500


def test_a_folder_without_films_says_what_it_holds(hold: Callable[..., Path]):
    folder = hold(photo__jpg="still.jpg")
    with pytest.raises(BadInput, match=r"no video in this folder\. Not taken, 1 file: photo\.jpg \(JPEG\)"):
        taken(folder)


def test_a_list_of_suffixes_takes_those_alone(hold: Callable[..., Path], caplog: pytest.LogCaptureFixture):
    folder = hold(a__mp4="a.mp4", b__mkv="a.mkv")
    assert [Path(entry.source).name for entry in expand_sources([str(folder)], (".mkv",))] == ["b.mkv"]
    assert "not taken, 1 file: a.mp4 (MP4)" in caplog.text


def test_an_encrypted_film_is_told_so(tmp_path: Path):
    for name, flags in (("first.mp4", "+faststart"), ("last.mp4", "0")):
        path = make(tmp_path / name, *CENC, "-movflags", flags)
        row = rows_of(tmp_path / "data", path)[name]
        assert (row["status"], row["error_code"]) == ("unreadable", "bad_media")
        assert "is encrypted (CENC)" in row["error_message"]
        assert "damaged" not in row["error_message"]


def test_a_scrambled_broadcast_and_a_scrambled_disc_are_told_so(tmp_path: Path, made: Path):
    stream = bytearray((made / "a.ts").read_bytes())
    for at in range(0, len(stream), 188):
        stream[at + 3] |= 0x80
        stream[at + 4 : at + 188] = bytes(184)
    (tmp_path / "tv.ts").write_bytes(stream)
    disc = bytearray((made / "a.vob").read_bytes())
    at = disc.find(b"\0\0\1\xe0")
    while at >= 0:
        disc[at + 6] |= 0x10
        disc[at + 20 : at + 2000] = bytes(range(180)) * 11
        at = disc.find(b"\0\0\1\xe0", at + 2000)
    (tmp_path / "dvd.vob").write_bytes(disc)
    for name in ("tv.ts", "dvd.vob"):
        with pytest.raises(BadMedia, match="is encrypted"):
            probe(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv", "a.wmv"])
def test_a_film_that_is_only_damaged_is_not_called_encrypted(tmp_path: Path, made: Path, name: str):
    content = (made / name).read_bytes()
    (tmp_path / name).write_bytes(content[:150] + bytes(len(content) - 150))
    with pytest.raises(BadMedia) as caught:
        probe(tmp_path / name)
    assert "encrypted" not in str(caught.value)


def test_an_animated_webp_is_told_what_it_is(tmp_path: Path):
    path = make(tmp_path / "moving.webp", "-c:v", "libwebp_anim")
    reason = rows_of(tmp_path / "data", path)["moving.webp"]["error_message"]
    assert "is of the kind animated WebP, which is not decoded here" in reason
    assert "damaged" not in reason
