"""Pictures are taken by what they are, and what a folder of them holds beside is named: nothing vanishes."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from models.errors import BadInput, BadMedia
from models.file_kinds import READS_HEIC
from models.pictures import PICTURE_SUFFIXES, prepare_picture
from tasks.item_lists import read_listing
from tasks.left_out import describe_left_out, list_pictures
from tasks.media.video import find_ffmpeg, run_ffmpeg


def listed(path: Path) -> list[str]:
    return [str(row.values["image"]) for row in read_listing(path, PICTURE_SUFFIXES, "image", ("image",)).rows]


def save(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(path, kind)
    return path


def make_heic(path: Path) -> Path:
    """Write an HEVC picture with the brand of HEIC."""
    coded = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=1:duration=1", "-c:v", "libx265", "-brand", "heic"]
    run_ffmpeg([find_ffmpeg(), "-loglevel", "error", *coded, "-f", "mp4", str(path)], None, path.name)
    return path


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"])
def test_a_picture_is_taken_whatever_its_name(tmp_path: Path, kind: str):
    for name in ("beach", "beach.jpg_large", "beach.txt", "犬.data"):
        save(tmp_path / name, kind)
    assert listed(tmp_path) == ["beach", "beach.jpg_large", "beach.txt", "犬.data"]
    assert listed(tmp_path / "beach") == ["beach"]


def test_pictures_in_subfolders_are_counted_and_named_and_a_flows_own_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("a.png", "trip/b.png", "trip/day/c.png", "out/pictures/d.png", ".trash/e.png"):
        save(tmp_path / name)
    (tmp_path / "out" / "manifests").mkdir()
    assert listed(tmp_path) == ["a.png"]
    said = "trip/b.png (in a subfolder), trip/day/c.png (in a subfolder)"
    assert warnings_of(caplog) == [f"{tmp_path}: not taken, 2 files: {said}."]


@pytest.mark.skipif(READS_HEIC, reason="The extra heic is installed.")
def test_what_is_no_picture_is_named_as_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path / "a.png")
    make_heic(tmp_path / "b.heic")
    (tmp_path / "c.mkv").write_bytes(b"\x1a\x45\xdf\xa3 V_VP9")
    (tmp_path / "d.png.part").write_bytes((tmp_path / "a.png").read_bytes())
    assert listed(tmp_path) == ["a.png"]
    said = "b.heic (HEIC), c.mkv (Matroska or WebM), d.png.part (not complete)"
    assert warnings_of(caplog) == [f"{tmp_path}: not taken, 3 files: {said}."]


def test_a_folder_with_nothing_to_take_says_what_it_holds(tmp_path: Path):
    save(tmp_path / "trip" / "b.png")
    with pytest.raises(BadInput, match=r"not taken, 1 file: trip/b\.png \(in a subfolder\)"):
        listed(tmp_path)


@pytest.mark.skipif(READS_HEIC, reason="The extra heic is installed.")
def test_a_picture_of_another_kind_under_the_name_of_one_is_told_what_it_is(tmp_path: Path):
    make_heic(tmp_path / "photo.jpg")
    assert listed(tmp_path) == ["photo.jpg"], "what is named as a picture is a row that says what is wrong"
    with pytest.raises(BadMedia, match=r"photo\.jpg: cannot be read as a picture \(its content is HEIC; save it as"):
        prepare_picture(tmp_path / "photo.jpg", 8, 8)


def test_a_long_list_is_cut_and_a_long_name_too(tmp_path: Path):
    said = describe_left_out(tuple((f"{n}" + "x" * 100, "") for n in range(9)))
    assert (said.startswith("9 files: 0xx"), said.endswith(" and 7 more")) == (True, True)
    assert len(describe_left_out((("y" * 5000, ""),))) < 400


def test_a_big_folder_is_listed_in_its_order(tmp_path: Path):
    for number in range(300):
        save(tmp_path / f"{number:03}.png")
    names, left = list_pictures(tmp_path, PICTURE_SUFFIXES)
    assert (names, left) == ([f"{number:03}.png" for number in range(300)], ())
