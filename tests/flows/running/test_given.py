"""What this user gave is known wherever the folder lies, and to nobody else."""

from pathlib import Path

import pytest

from flows.running.claim import claim
from flows.running.given import keep_given, was_given
from tasks.ledger import read_marker

SETTINGS = "sources: [films]\nout: out\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of `curate` whose settings nobody gave yet."""
    folder = tmp_path / "out"
    folder.mkdir()
    claim(folder, "curate")
    (folder / "curate.yaml").write_text(SETTINGS)
    return folder


def test_given_settings_are_known_wherever_the_folder_lies(folder: Path):
    assert not was_given(folder, "curate")
    keep_given(folder, "curate", SETTINGS)
    moved = folder.rename(folder.parent / "moved")
    assert was_given(moved, "curate")
    assert not was_given(moved, "select")
    keep_given(moved, "select", "min_s: 2\n")
    assert was_given(moved, "curate")


def test_changed_settings_were_not_given(folder: Path):
    keep_given(folder, "curate", SETTINGS)
    (folder / "curate.yaml").write_text(SETTINGS.replace("films", "/etc"))
    assert not was_given(folder, "curate")
    (folder / "curate.yaml").write_bytes(b"\xff\xff")
    assert not was_given(folder, "curate")
    (folder / "curate.yaml").unlink()
    assert not was_given(folder, "curate")


def test_another_user_did_not_give_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep_given(folder, "curate", SETTINGS)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user's"))
    assert not was_given(folder, "curate")


def test_a_folder_without_a_marker_is_nobodys(tmp_path: Path):
    (tmp_path / "curate.yaml").write_text(SETTINGS)
    keep_given(tmp_path, "curate", SETTINGS)
    assert not was_given(tmp_path, "curate")


def test_a_user_without_a_place_for_notes_runs_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder.parent / "full").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder.parent / "full"))
    keep_given(folder, "curate", SETTINGS)
    assert not was_given(folder, "curate")


def test_without_a_setting_the_notes_are_in_the_users_home(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    keep_given(folder, "curate", SETTINGS)
    marker = read_marker(folder)
    assert marker is not None
    assert (folder.parent / "home/.local/state/reelmill/folders" / f"{marker.id}.curate.given").is_file()
