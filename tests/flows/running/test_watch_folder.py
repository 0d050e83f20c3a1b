"""A watched folder: which pictures are whole, and which are still coming."""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.running.guard import Guard, NightConfig, read_local_time
from flows.running.watch_folder import WatchConfig, find_settled, keep_watching, list_pictures
from models.errors import BadInput
from tests.declared import declared


def test_only_pictures_are_seen_and_none_that_is_hidden(tmp_path: Path):
    for name in ("a.png", "b.JPG", "notes.txt", ".c.png", "d.png.part"):
        (tmp_path / name).write_bytes(b"1234")
    assert sorted(list_pictures(tmp_path)) == ["a.png", "b.JPG"]


def test_a_picture_is_whole_when_two_looks_find_it_the_same(tmp_path: Path):
    for name in ("same", "grown", "touched"):
        (tmp_path / f"{name}.png").write_bytes(b"1234")
    (tmp_path / "empty.png").touch()
    before = list_pictures(tmp_path)
    (tmp_path / "grown.png").write_bytes(b"12345")
    os.utime(tmp_path / "touched.png", ns=(1, 1))
    (tmp_path / "new.png").write_bytes(b"1")
    assert sorted(find_settled(before, list_pictures(tmp_path))) == ["same.png"]
    assert find_settled({}, before) == {}


def test_a_folder_with_a_pictures_name_is_no_picture(tmp_path: Path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to("b.png")
    assert list_pictures(tmp_path) == {}


def test_a_watched_folder_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(BadInput, match="can no longer be watched"):
        list_pictures(tmp_path / "gone")


@dataclass
class Round:
    """What a round comes to here."""

    clips: int
    failed: int
    stopped: str | None


def test_each_round_makes_the_settled_pictures_and_the_guard_ends_the_watch(tmp_path: Path):
    pictures, asked, deadline = tmp_path / "pictures", list[tuple[str, ...]](), read_local_time() + timedelta(hours=1)
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"1234")

    def make(names: tuple[str, ...], until: datetime | None) -> Round:
        assert until == deadline
        asked.append(names)
        (pictures / "b.png").write_bytes(b"1234")
        return Round(len(names), 0, "the disk is full" if len(names) == 2 else None)

    guard = Guard(tmp_path, NightConfig(), deadline, free=lambda _: 10**12)
    last = keep_watching(pictures, tmp_path / "out", 0.01, guard, make)
    assert asked == [("a.png",), ("a.png", "b.png")]
    assert last == Round(2, 0, "the disk is full")


def test_a_watch_needs_a_folder_and_a_picture_in_time(tmp_path: Path):
    over = Guard(tmp_path, NightConfig(), read_local_time(), free=lambda _: 10**12)
    with pytest.raises(BadInput, match=r"nowhere: --watch needs a folder of pictures\."):
        keep_watching(tmp_path / "nowhere", tmp_path / "out", 0.01, over, lambda *_: Round(0, 0, None))
    with pytest.raises(BadInput, match="no picture arrived before the time limit was reached"):
        keep_watching(tmp_path, tmp_path / "out", 0.01, over, lambda *_: Round(0, 0, None))


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(WatchConfig) == {
        "": "frozen=True, extra='forbid'",
        "watch": "False",
        "poll_s": "5.0, ge=0.2, le=3600",
    }
