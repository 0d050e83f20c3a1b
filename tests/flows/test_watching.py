"""A watched folder: which pictures are whole, and which are still coming."""

import os
from pathlib import Path

import pytest

from flows.watching import look_at, settled
from models.errors import BadInput


def test_only_pictures_are_seen_and_none_that_is_hidden(tmp_path: Path):
    for name in ("a.png", "b.JPG", "notes.txt", ".c.png", "d.png.part"):
        (tmp_path / name).write_bytes(b"1234")
    assert sorted(look_at(tmp_path)) == ["a.png", "b.JPG"]


def test_a_picture_is_whole_when_two_looks_find_it_the_same(tmp_path: Path):
    for name in ("same", "grown", "touched"):
        (tmp_path / f"{name}.png").write_bytes(b"1234")
    (tmp_path / "empty.png").touch()
    before = look_at(tmp_path)
    (tmp_path / "grown.png").write_bytes(b"12345")
    os.utime(tmp_path / "touched.png", ns=(1, 1))
    (tmp_path / "new.png").write_bytes(b"1")
    assert sorted(settled(before, look_at(tmp_path))) == ["same.png"]
    assert settled({}, before) == {}


def test_a_folder_with_a_pictures_name_is_no_picture(tmp_path: Path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to("b.png")
    assert look_at(tmp_path) == {}


def test_a_watched_folder_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(BadInput, match="can be watched no more"):
        look_at(tmp_path / "gone")
