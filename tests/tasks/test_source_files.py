"""A source counts as read only if it had the recorded bytes before and after, whatever its times say."""

import os
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadManifest, BadMedia, SourceChanged
from tasks import source_files
from tasks.child_process import run_in_child
from tasks.ledger import mark
from tasks.source_files import digest_source, find_source, read_as

A = "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"
"""The SHA-256 of the letter A."""


def write_old(path: Path, text: str, age_s: int = 100) -> Path:
    """Write a file whose time of modification is in the past."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = path.stat().st_mtime_ns - age_s * 10**9
    os.utime(path, ns=(then, then))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output folder with a marker."""
    (tmp_path / "out").mkdir()
    mark(tmp_path / "out", "curate", "1")
    return tmp_path / "out"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A file of one letter."""
    return write_old(tmp_path / "films/a.mp4", "A")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, in order; the clock is five seconds ahead, so that their identities are kept."""
    found: list[Path] = []
    before, now = source_files._hash, source_files.time.time_ns

    def count(path: Path) -> str:
        found.append(path)
        return before(path)

    monkeypatch.setattr(source_files, "_hash", count)
    monkeypatch.setattr(source_files.time, "time_ns", lambda: now() + 5 * 10**9)
    return found


def test_the_size_and_the_digest_of_a_file(root: Path, film: Path):
    assert digest_source(root, film) == (1, A)


def test_a_file_is_hashed_once_as_long_as_its_identity_is_the_same(root: Path, film: Path, hashed: list[Path]):
    for _ in range(3):
        digest_source(root, film)
    with read_as(root, film, A):
        assert hashed == [film]
    source_files._open.cache_clear()
    assert digest_source(root, film) == (1, A)
    assert hashed == [film]
    film.rename(film.with_name("b.mp4")).rename(film)
    digest_source(root, film)
    assert hashed == [film, film]


def test_a_file_that_changed_within_the_last_seconds_is_hashed_each_time(
    root: Path, film: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(source_files.time, "time_ns", lambda: film.stat().st_ctime_ns + 10**9)
    digest_source(root, film)
    digest_source(root, film)
    assert hashed == [film, film]


def test_a_folder_without_a_marker_keeps_no_identities(tmp_path: Path, film: Path, hashed: list[Path]):
    digest_source(tmp_path, film)
    source_files._open.cache_clear()
    digest_source(tmp_path, film)
    assert hashed == [film, film]


def test_a_line_of_the_state_that_was_cut_short_is_passed_over(root: Path, film: Path, hashed: list[Path]):
    digest_source(root, film)
    state = next(Path(os.environ["XDG_STATE_HOME"]).rglob("*.identities"))
    state.write_bytes(b"[1\n" + state.read_bytes() + b'["a", 1, 2, "\xff')
    source_files._open.cache_clear()
    digest_source(root, film)
    assert hashed == [film]


@pytest.mark.parametrize("when", ["before", "within", "within, and reading fails"])
def test_a_changed_file_is_not_taken_for_the_recorded_one(root: Path, film: Path, hashed: list[Path], when: str):
    digest_source(root, film)
    if when == "before":
        write_old(film, "B")
    with pytest.raises(SourceChanged, match=r"a\.mp4: its content changed since it was listed"), read_as(root, film, A):
        assert when != "before"
        write_old(film, "B")
        if when.endswith("fails"):
            raise ValueError("damaged")


def test_an_edit_that_leaves_size_and_modification_time_equal_is_seen(root: Path, film: Path, hashed: list[Path]):
    digest_source(root, film)
    facts = film.stat()
    with pytest.raises(SourceChanged), read_as(root, film, A):
        film.write_text("B")
        os.utime(film, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_touched_file_of_the_same_bytes_is_the_same(root: Path, film: Path):
    with read_as(root, film, A):
        film.touch()


def test_what_takes_the_place_of_a_file_for_a_while_is_not_read(root: Path, film: Path):
    """Folders, links and names may be swapped and swapped back: the file that was checked is the one that is open."""
    away, other = film.parent.with_name("away"), write_old(film.parent.with_name("other") / "a.mp4", "B")
    with read_as(root, film, A) as held:
        film.parent.rename(away)
        other.parent.rename(film.parent)
        assert film.read_text() == "B"
        assert held.read_text() == "A"
        assert run_in_child(Path.read_text, held, limit_s=60) == "A"
        film.parent.rename(other.parent)
        away.rename(film.parent)


def test_an_edit_of_the_open_file_is_seen_where_its_name_leads_to_a_copy_of_what_it_was(root: Path, film: Path):
    copy = write_old(film.with_name("copy"), "A")
    with pytest.raises(SourceChanged, match=r"a\.mp4: its content changed"), read_as(root, film, A) as held:
        held.write_text("B")
        copy.rename(film)


def test_a_file_that_is_replaced_between_check_and_opening_is_not_read(
    root: Path, film: Path, monkeypatch: pytest.MonkeyPatch
):
    check = source_files._check_content

    def replaced(*given: Any) -> Any:
        before = check(*given)
        write_old(film.with_name("other"), "B").rename(film)
        return before

    monkeypatch.setattr(source_files, "_check_content", replaced)
    with pytest.raises(SourceChanged), read_as(root, film, A):
        raise AssertionError


@pytest.mark.parametrize("said", ["{held}: is damaged.", "{held.name}: is damaged."])
def test_an_error_names_the_file_as_it_was_given(root: Path, film: Path, said: str):
    with pytest.raises(BadMedia) as caught, read_as(root, film, A) as held:
        raise BadMedia(said.format(held=held))
    assert str(caught.value) in (f"{film}: is damaged.", "a.mp4: is damaged.")


def test_what_reading_an_unchanged_file_raises_stays_what_it_is(root: Path, film: Path):
    with pytest.raises(ValueError, match="damaged"), read_as(root, film, A):
        raise ValueError("damaged")


def test_a_file_that_is_being_written_is_said_to_be(root: Path, film: Path, monkeypatch: pytest.MonkeyPatch):
    before = source_files._hash

    def grow(path: Path) -> str:
        digest = before(path)
        path.write_text("AA")
        return digest

    monkeypatch.setattr(source_files, "_hash", grow)
    with pytest.raises(SourceChanged, match="is being written"):
        digest_source(root, film)


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_what_is_no_file_is_a_sentence(root: Path, tmp_path: Path, kind: str):
    path = tmp_path / "x"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    said = "is not there any more" if kind == "nothing" else "is not a regular file"
    with pytest.raises(BadMedia, match=said):
        digest_source(root, path)


def test_a_moved_source_is_found_by_its_name_and_its_bytes(root: Path, tmp_path: Path):
    write_old(tmp_path / "there/1/a.mp4", "B")
    right = write_old(tmp_path / "there/2/a.mp4", "A")
    write_old(tmp_path / "there/b.mp4", "A")
    gone = tmp_path / "gone/a.mp4"
    assert find_source(root, str(gone), A, tmp_path / "there") == right
    assert find_source(root, str(gone), A, None) == gone
    assert find_source(root, str(tmp_path / "gone/c.mp4"), A, tmp_path / "there") == tmp_path / "gone/c.mp4"


def test_a_fetched_source_stays_inside_its_folder(root: Path, tmp_path: Path):
    assert find_source(root, "sources/a.mp4", A, tmp_path) == root / "sources/a.mp4"
    with pytest.raises(BadManifest, match="is outside of"):
        find_source(root, "../films/a.mp4", A, None)
