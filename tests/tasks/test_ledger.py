"""The ledger: what it names is replaced and removed, nothing else is; damage of its lines is seen."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadInput, BadManifest
from tasks import ledger
from tasks.ledger import (
    LEDGER,
    MARKER,
    Entry,
    digest_path,
    drop_damaged,
    find_damaged_lines,
    find_root,
    is_whole,
    list_ours,
    mark,
    move,
    read_ledger,
    read_marker,
    record,
    remove,
    resolve_inside,
)
from tasks.manifest import publish, publish_folder, publish_link, publish_text

HELLO = Entry("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", 5)


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """Give a marked folder, named so that it has files of others in it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    mark(folder, "generate", "0.1.0")
    return folder


def test_a_marker_says_whose_the_folder_is_and_no_two_are_alike(tmp_path: Path):
    made = [mark(tmp_path, "curate", "1.2.3"), mark(tmp_path, "curate", "1.2.3")]
    assert (made[1].flow, made[1].version) == ("curate", "1.2.3")
    assert read_marker(tmp_path) == made[1] != made[0]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [MARKER, LEDGER]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": 1}', "\x00", "[" * 9000])
def test_a_damaged_marker_is_read_as_none(tmp_path: Path, text: str):
    assert read_marker(tmp_path) is None
    (tmp_path / MARKER).write_text(text)
    assert read_marker(tmp_path) is None


def test_every_published_file_is_recorded_with_its_digest_and_size(marked: Path):
    publish_text(marked / "report/index.html", "hello")
    publish_link(marked / "shown", Path("report/index.html"))
    named = hashlib.sha256(b"report/index.html").hexdigest()
    assert read_ledger(marked) == {
        MARKER: digest_path(marked / MARKER),
        "report/index.html": HELLO,
        "shown": Entry(named, -1),
    }
    assert (marked / "shown").read_text() == "hello"


def test_a_folder_inside_belongs_to_the_nearest_marker(marked: Path):
    inner = marked / "inner"
    inner.mkdir()
    mark(inner, "curate", "1")
    publish_text(inner / "a", "hello")
    publish_text(marked / "b", "hello")
    assert find_root(inner / "deep" / "er") == inner
    assert set(read_ledger(inner)) == {MARKER, "a"}
    assert set(read_ledger(marked)) == {MARKER, "b"}


def test_what_others_put_there_is_neither_replaced_nor_removed(marked: Path):
    other = marked / "outputs.parquet"
    other.write_text("mine")
    with pytest.raises(BadInput, match=r"outputs\.parquet: Reelmill did not write this file, so it stays\. Move it"):
        publish_text(other, "ours")
    remove(other)
    with pytest.raises(BadInput, match="did not write this file"):
        move(marked / MARKER, other)
    assert other.read_text() == "mine"
    assert (marked / MARKER).exists()


def test_our_own_file_is_replaced_moved_and_removed(marked: Path):
    for text in ("first", "hello"):
        publish_text(marked / "a", text)
    assert move(marked / "a", marked / "b") == marked / "b"
    assert "a" not in read_ledger(marked)
    assert read_ledger(marked)["b"] == HELLO
    remove(marked / "b")
    assert "b" not in read_ledger(marked)
    assert not (marked / "b").exists()
    (marked / "b").write_text("another's now")
    remove(marked / "b")
    assert (marked / "b").exists()


def test_outside_of_marked_folders_files_are_replaced_and_removed(tmp_path: Path):
    path = tmp_path / "figures.json"
    path.write_text("old")
    publish_text(path, "new")
    assert path.read_text() == "new"
    remove(path)
    remove(path)
    assert list(tmp_path.iterdir()) == []
    assert list_ours(tmp_path) == []


@pytest.mark.parametrize("name", ["report/index.html", "report/deep/index.html"])
def test_nothing_is_written_through_a_link(marked: Path, tmp_path: Path, name: str):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (marked / "report").symlink_to(elsewhere)
    with pytest.raises(BadInput, match=r"report: is a link, and nothing is written through links"):
        publish_text(marked / name, "hello")
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_replaced_only_where_the_file_was_ours(marked: Path, tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("precious")
    publish_text(marked / "a", "old")
    for name in ("a", "b"):
        (marked / name).unlink(missing_ok=True)
        (marked / name).symlink_to(target)
    publish_text(marked / "a", "hello")
    assert (marked / "a").read_text() == "hello"
    assert not (marked / "a").is_symlink()
    with pytest.raises(BadInput, match="did not write this file"):
        publish_text(marked / "b", "hello")
    assert target.read_text() == "precious"


def test_the_ledger_itself_is_not_written_through_a_link(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LEDGER).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        mark(folder, "generate", "1")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_is_published_file_by_file_among_those_of_others(marked: Path):
    for names in (("weights", "sub/old"), ("weights", "sub/new")):
        with publish_folder(marked / "model") as aside:
            (aside / "sub").mkdir()
            for name in names:
                (aside / name).write_text(name)
        (marked / "model/notes.txt").write_text("mine")
    left = {path.relative_to(marked).as_posix() for path in (marked / "model").rglob("*") if path.is_file()}
    assert left == {"model/weights", "model/sub/new", "model/notes.txt"}
    assert list_ours(marked / "model") == [marked / "model/sub/new", marked / "model/weights"]
    assert list_ours(marked)[0] == marked / MARKER


def test_a_folder_with_anothers_file_under_a_new_name_is_left_as_it_is(marked: Path):
    (marked / "model").mkdir()
    (marked / "model/weights").write_text("mine")
    with pytest.raises(BadInput, match="weights: Reelmill did not write"), publish_folder(marked / "model") as aside:
        (aside / "config").write_text("new")
        (aside / "weights").write_text("new")
    assert [path.name for path in (marked / "model").iterdir()] == ["weights"]
    assert (marked / "model/weights").read_text() == "mine"
    assert [path.name for path in marked.iterdir() if path.name not in (MARKER, LEDGER)] == ["model"]


def test_files_in_unfinished_folders_are_not_recorded(marked: Path):
    with publish_folder(marked / "films") as aside, publish(aside / "a.mp4") as inner:
        inner.write_text("hello")
    assert set(read_ledger(marked)) == {MARKER, "films/a.mp4"}


@given(
    names=st.lists(
        st.binary(min_size=1, max_size=40)
        .filter(lambda b: b not in (b".", b"..") and b"/" not in b and b"\0" not in b)
        .map(os.fsdecode),
        unique=True,
        max_size=5,
    )
)
@settings(max_examples=30)
def test_a_name_of_any_bytes_is_on_a_line_of_its_own(tmp_path_factory: pytest.TempPathFactory, names: list[str]):
    folder = tmp_path_factory.mktemp("names")
    mark(folder, "curate", "1")
    for name in names:
        record(folder / name, folder / MARKER)
    assert set(read_ledger(folder)) == {MARKER, *(n for n in names if not ledger.ASIDE.fullmatch(n))}
    assert find_damaged_lines(folder) == []


def test_every_flipped_bit_of_a_ledger_is_found(marked: Path):
    publish_text(marked / "a", "hello")
    whole = (marked / LEDGER).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (marked / LEDGER).write_bytes(damaged)
        assert find_damaged_lines(marked), position
    (marked / LEDGER).write_bytes(whole)
    assert find_damaged_lines(marked) == []


def test_the_lines_around_a_damaged_one_are_read(marked: Path):
    for name in "abc":
        publish_text(marked / name, "hello")
    lines = (marked / LEDGER).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(HELLO.sha256.encode(), b"f" * 64)
    (marked / LEDGER).write_bytes(b"".join(lines))
    assert set(read_ledger(marked)) == {MARKER, "a", "c"}
    assert find_damaged_lines(marked) == [3]


def test_a_line_for_which_the_disk_has_no_room_leaves_the_ledger_whole_and_the_file_unchanged(
    marked: Path, repository: Path
):
    publish_text(marked / "a", "hello")
    before = (marked / LEDGER).read_bytes()
    code = f"""
import pathlib, resource, sys, tasks.manifest as m
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10}, {len(before) + 10}))
try:
    m.publish_text(pathlib.Path(sys.argv[1]), "HELLO")
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(marked / "a")]
    said = subprocess.run(command, check=True, cwd=repository, capture_output=True, text=True).stdout
    assert said == f"[Errno 28] No space left on device: '{marked / LEDGER}'\n"
    assert ((marked / LEDGER).read_bytes(), (marked / "a").read_text()) == (before, "hello")


def test_a_damaged_line_is_said_once_by_whatever_reads_the_ledger(marked: Path, caplog: pytest.LogCaptureFixture):
    for name in "abc":
        publish_text(marked / name, "hello")
    content = (marked / LEDGER).read_bytes()
    place = content.index(b'"b"')
    (marked / LEDGER).unlink()
    (marked / LEDGER).write_bytes(content[:place] + b'"B"' + content[place + 3 :])
    read_ledger(marked)
    publish_text(marked / "d", "hello")
    assert set(read_ledger(marked)) == {MARKER, "a", "c", "d"}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{marked.resolve() / LEDGER}: line 3 is damaged. The file that it names cannot be checked")


def test_what_another_process_wrote_is_known_without_a_new_start(marked: Path, repository: Path):
    publish_text(marked / "a", "hello")
    assert "b" not in read_ledger(marked)
    code = "import pathlib, sys, tasks.manifest as m; m.publish_text(pathlib.Path(sys.argv[1]), 'hello')"
    subprocess.run([sys.executable, "-c", code, str(marked / "b")], check=True, cwd=repository)
    assert read_ledger(marked)["b"] == HELLO
    (marked / LEDGER).write_bytes((marked / LEDGER).read_bytes().splitlines(keepends=True)[0])
    assert set(read_ledger(marked)) == {MARKER}
    (marked / LEDGER).unlink()
    assert read_ledger(marked) == {}


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(marked: Path):
    publish_text(marked / "a", "hello")
    whole = (marked / LEDGER).read_bytes()
    (marked / LEDGER).write_bytes(whole[:-3])
    assert "a" not in read_ledger(marked)
    with (marked / LEDGER).open("ab") as file:
        file.write(whole[-3:])
    assert read_ledger(marked)["a"] == HELLO


def test_damage_is_seen_also_where_the_length_is_the_same(marked: Path):
    publish_text(marked / "clips/a.mp4", "hello")
    publish_text(marked / "clips/b.mp4", "hello")
    assert is_whole(marked / "clips/a.mp4")
    (marked / "clips/a.mp4").write_text("hellp")
    (marked / "clips/mine.mp4").write_text("mine")
    assert not is_whole(marked / "clips/a.mp4")
    assert is_whole(marked / "clips/mine.mp4")
    assert drop_damaged(marked / "clips") == [marked / "clips/a.mp4"]
    assert sorted(path.name for path in (marked / "clips").iterdir()) == ["b.mp4", "mine.mp4"]
    assert drop_damaged(marked / "clips") == []
    (marked / "clips/b.mp4").unlink()
    assert not is_whole(marked / "clips/b.mp4")
    assert drop_damaged(marked / "clips") == []


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "link/secret", "", "linked"])
def test_a_table_names_no_file_outside_of_its_folder(tmp_path: Path, name: str):
    root = tmp_path / "out"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    (root / "linked").symlink_to(tmp_path / "secret")
    (root / "inner").symlink_to(root / "a")
    with pytest.raises(BadManifest, match=r"is outside of .*, so it is not read"):
        resolve_inside(root, name)
    for inside in ("a/b.mp4", "inner/b.mp4", "a"):
        assert resolve_inside(root, inside) == root / inside


def test_files_are_listed_by_paths_that_begin_as_the_folder_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "out/pictures").mkdir(parents=True)
    mark(tmp_path / "out", "demo", "1")
    (tmp_path / "out/pictures/a.png").write_text("a")
    record(tmp_path / "out/pictures/a.png", tmp_path / "out/pictures/a.png")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "out/pictures", Path("out/pictures")):
        assert list_ours(folder) == [folder / "a.png"]
    assert list_ours(Path("out")) == [Path("out/.reelmill.json"), Path("out/pictures/a.png")]
