"""What this user gave is known wherever the folder lies, and to nobody else."""

from pathlib import Path
from typing import Any

import pytest

from flows.curate import CurateConfig
from flows.generate import GenerateConfig
from flows.running.claim import claim
from flows.running.given import keep_given, list_not_given, list_places
from tasks.ledger import read_marker
from tasks.user_state import locate_state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of `curate` in which nothing was given yet."""
    folder = tmp_path / "out"
    folder.mkdir()
    claim(folder, "curate")
    return folder


def settings(*sources: str, **more: Any) -> CurateConfig:
    return CurateConfig.model_validate({"sources": sources or ("/films",), "out": Path("out"), **more})


def test_what_was_given_is_known_wherever_the_folder_lies_and_whatever_else_is_changed(folder: Path):
    assert list_not_given(folder, "curate", settings()) == ["/films"]
    keep_given(folder, "curate", settings())
    moved = folder.rename(folder.parent / "moved")
    assert list_not_given(moved, "curate", settings()) == []
    assert list_not_given(moved, "curate", settings(split={"min_clip_s": 2.5})) == []
    assert list_not_given(moved, "curate", settings("/films", "/etc")) == ["/etc"]
    assert list_not_given(moved, "export", settings()) == ["/films"]


def test_another_user_did_not_give_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep_given(folder, "curate", settings())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user's"))
    assert list_not_given(folder, "curate", settings()) == ["/films"]


def test_in_a_folder_without_a_marker_nothing_was_given(tmp_path: Path):
    keep_given(tmp_path, "curate", settings())
    assert list_not_given(tmp_path, "curate", settings()) == ["/films"]


def test_a_user_without_a_place_for_notes_runs_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder.parent / "full").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "full"))
    keep_given(folder, "curate", settings())
    assert list_not_given(folder, "curate", settings()) == ["/films"]


def test_without_a_setting_the_notes_are_in_the_users_home(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    keep_given(folder, "curate", settings())
    marker = read_marker(folder)
    assert marker is not None
    assert (folder.parent / "home/.local/state/reelmill/folders" / f"{marker.id}.curate.given").is_file()


def test_a_damaged_note_gives_nothing(folder: Path):
    keep_given(folder, "curate", settings())
    marker = read_marker(folder)
    assert marker is not None
    locate_state(marker, "curate.given").write_text("[")
    assert list_not_given(folder, "curate", settings()) == ["/films"]


def test_servers_keys_files_and_folders_are_places_and_defaults_and_words_are_none(tmp_path: Path):
    asked = settings(
        caption={
            "image_engine": "endpoint",
            "image_model": "m",
            "endpoint": {"base_url": "http://there", "key_env": "K"},
        }
    )
    assert set(list_places(asked)) == {"/films", "the server http://there", "the key K"}
    (tmp_path / "model").mkdir()
    generating = GenerateConfig(jobs=Path("/in"), out=tmp_path, model=str(tmp_path / "model"))
    assert set(list_places(generating)) == {"/in", str(tmp_path / "model")}
