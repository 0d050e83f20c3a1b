"""A folder's lock: nothing is written through it where it is a link, and it names the process that holds it."""

import os
from pathlib import Path

import pytest

from flows.running.lock import LOCK, exclusive, find_holder
from models.errors import BadInput


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_stays_as_it_is(tmp_path: Path):
    precious, folder = tmp_path / "precious", tmp_path / "out"
    precious.write_text("precious")
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with (
        pytest.raises(BadInput, match=r"\.reelmill\.lock: is a link, so this folder cannot be locked"),
        exclusive(folder),
    ):
        pass
    assert precious.read_text() == "precious"


def test_a_lock_that_is_a_link_to_nothing_makes_nothing(tmp_path: Path):
    (tmp_path / LOCK).symlink_to(tmp_path / "new")
    with pytest.raises(BadInput, match="is a link"), exclusive(tmp_path):
        pass
    assert not (tmp_path / "new").exists()


def test_a_held_lock_names_its_process_and_a_left_one_names_none(tmp_path: Path):
    with exclusive(tmp_path):
        assert find_holder(tmp_path) == str(os.getpid())
    assert find_holder(tmp_path) is None
