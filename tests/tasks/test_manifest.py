"""Manifests: what is written is read, digests see rows alone, and files appear whole or not at all."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadManifest
from tasks.manifest import (
    ERROR_FIELDS,
    Lineage,
    digest_file,
    digest_table,
    make_metadata,
    make_table,
    publish,
    publish_folder,
    publish_json,
    publish_text,
    read_lengths,
    read_lineage,
    read_manifest,
    read_manifest_ref,
    read_rows,
    remove_asides,
    write_manifest,
)

SCHEMA = pa.schema([("name", pa.string()), ("pts", pa.list_(pa.int64())), ("score", pa.float32()), *ERROR_FIELDS])
ROWS = [{"name": "a", "pts": [1, 2], "score": 0.5, "attempt": 1}, {"name": "b", "pts": None, "score": None}]
LINEAGE = Lineage(step="scan", version=3, parameters={"rate": 2.0, "names": ["x"]}, inputs=("d1", "d2"))


def test_rows_lineage_and_digest_survive_the_disk(tmp_path: Path):
    table = make_table(ROWS, SCHEMA)
    written = write_manifest(tmp_path / "m.parquet", table, LINEAGE)
    assert read_manifest(written).equals(table)
    assert read_lineage(written.path) == LINEAGE
    assert read_manifest_ref(written.path) == written
    assert (written.rows, written.digest) == (2, digest_table(table))


def test_columns_can_be_read_alone(tmp_path: Path):
    written = write_manifest(tmp_path / "m.parquet", make_table(ROWS, SCHEMA), LINEAGE)
    assert read_rows(written, ("score", "name")) == [{"score": 0.5, "name": "a"}, {"score": None, "name": "b"}]


def test_the_digest_does_not_depend_on_the_lineage(tmp_path: Path):
    table = make_table(ROWS, SCHEMA)
    one = write_manifest(tmp_path / "one.parquet", table, LINEAGE)
    two = write_manifest(tmp_path / "two.parquet", table, LINEAGE.model_copy(update={"version": 4}))
    assert one.digest == two.digest


CELLS = st.tuples(
    st.none() | st.text(max_size=5),
    st.none() | st.lists(st.integers(-9, 9), max_size=3),
    st.none() | st.floats(width=32),
)


@settings(max_examples=60)
@given(st.lists(CELLS, max_size=12), st.data())
def test_the_digest_does_not_depend_on_how_the_rows_are_chunked(rows: list, data: st.DataObject):
    schema = pa.schema([("name", pa.string()), ("pts", pa.list_(pa.int64())), ("score", pa.float32())])
    table = make_table([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    cut = data.draw(st.integers(0, len(rows)))
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    rebuilt = pa.concat_tables([make_table(table.slice(i, 1).to_pylist(), schema) for i in range(len(rows))] or [table])
    padded = pa.concat_tables([table, table]).slice(len(rows))
    assert {digest_table(t) for t in (pieces, rebuilt, padded)} == {digest_table(table)}


@settings(max_examples=60)
@given(st.lists(CELLS, min_size=1, max_size=6))
def test_the_digest_changes_with_any_row(rows: list):
    schema = pa.schema([("name", pa.string()), ("pts", pa.list_(pa.int64())), ("score", pa.float32())])
    named = [dict(zip(schema.names, row, strict=True)) for row in rows]
    changed = [*named[:-1], {**named[-1], "name": f"{named[-1]['name']}!"}]
    assert len({digest_table(make_table(r, schema)) for r in (named, changed, named[:-1])}) == 3


def test_the_digest_sees_types_and_column_names():
    tables = [
        pa.table({"a": pa.array([1], pa.int32())}),
        pa.table({"a": pa.array([1], pa.int64())}),
        pa.table({"b": pa.array([1], pa.int32())}),
    ]
    assert len({digest_table(table) for table in tables}) == 3


def test_the_digest_of_what_was_read_is_that_of_what_was_written(tmp_path: Path):
    written = write_manifest(tmp_path / "m.parquet", make_table(ROWS, SCHEMA), LINEAGE)
    assert digest_table(read_manifest(written)) == written.digest


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    one, two = (write_manifest(tmp_path / n, make_table(ROWS, SCHEMA), LINEAGE) for n in ("1.parquet", "2.parquet"))
    assert one.path.read_bytes() == two.path.read_bytes()


def test_a_column_no_schema_declares_is_named():
    with pytest.raises(BadManifest, match=r"The columns colour, size are not in the step's schema\."):
        make_table([{"name": "a", "size": 3}, {"colour": "red"}], SCHEMA)


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(BadManifest, match="A row does not fit its step's schema"):
        make_table([{"score": "high"}], SCHEMA)


def test_a_missing_column_is_named(tmp_path: Path):
    written = write_manifest(tmp_path / "m.parquet", make_table(ROWS, SCHEMA), LINEAGE)
    with pytest.raises(BadManifest, match="the columns colour are missing"):
        read_manifest(written, ("name", "colour"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_broken_manifest_says_what_to_do(tmp_path: Path, content: bytes):
    (tmp_path / "m.parquet").write_bytes(content)
    for read in (read_manifest, read_manifest_ref, read_lineage):
        with pytest.raises(BadManifest, match=r"m\.parquet: not a readable manifest .* Delete it and run again\."):
            read(tmp_path / "m.parquet")


def test_a_table_without_lineage_is_no_manifest(tmp_path: Path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "m.parquet")
    with pytest.raises(BadManifest, match="it has no lineage"):
        read_manifest_ref(tmp_path / "m.parquet")


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_whose_writing_fails_does_not_appear_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), publish(tmp_path / "deep" / "a.txt") as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_file_whose_writing_fails_leaves_the_old_one(tmp_path: Path):
    publish_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), publish(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_says_which_file_it_has_no_room_for(tmp_path: Path):
    with pytest.raises(OSError, match="No space left") as raised, publish(tmp_path / "page.html"):
        Path("/dev/full").write_text("too much")
    assert raised.value.filename == str(tmp_path / "page.html")


def test_a_file_is_written_aside_under_its_own_ending(tmp_path: Path):
    with publish(tmp_path / "a.mp4") as aside:
        assert (aside.suffix, aside.parent) == (".mp4", tmp_path)
        assert aside.name.startswith(".")
        aside.touch()


KILLED_WHILE_WRITING = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from tasks.manifest import publish
with publish(Path(sys.argv[1])) as aside:
    with aside.open("w") as file:
        file.write("half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


def test_a_file_does_not_appear_when_its_writer_is_killed(tmp_path: Path, repository: Path):
    target = tmp_path / "a.txt"
    publish_text(target, "old")
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert target.read_text() == "old"
    publish_text(target, "new")
    assert target.read_text() == "new"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), publish_folder(tmp_path / "model") as aside:
        (aside / "weights").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with publish_folder(tmp_path / "model") as aside:
            (aside / "weights").write_text(text)
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "weights"]
    assert (tmp_path / "model/weights").read_text() == "new"


NO_PROCESS = 2**22 + 1
"""Larger than any process's number."""


def left_by(pid: int, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{pid}-0a1b2c3d{path.suffix}")
    aside.write_text("half")
    return aside


def test_what_dead_processes_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path):
    dead = [left_by(NO_PROCESS, tmp_path / name) for name in ("a.txt", "deep/er/b.mp4", "c")]
    folder = tmp_path / f".model.{NO_PROCESS}-0a1b2c3d"
    folder.mkdir()
    (folder / "weights").touch()
    others = [left_by(os.getpid(), tmp_path / "a.txt"), tmp_path / "a.txt", tmp_path / ".hidden.txt"]
    for other in others[1:]:
        other.touch()
    remove_asides(tmp_path)
    assert not [path for path in (*dead, folder) if path.exists()]
    assert all(other.exists() for other in others)


def test_what_was_left_of_one_file_is_removed_and_of_its_neighbours_not(tmp_path: Path):
    mine, other = (left_by(NO_PROCESS, tmp_path / name) for name in ("a [1].txt", "a 1.txt"))
    remove_asides(tmp_path / "a [1].txt")
    assert (mine.exists(), other.exists()) == (False, True)


def test_json_keeps_letters_as_they_are(tmp_path: Path):
    publish_json(tmp_path / "a.json", {"name": "Dämmerung", "path": Path("x")})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "Dämmerung",\n  "path": "x"\n}\n'


def test_the_lengths_of_files_are_read_back_and_a_manifest_without_them_is_named(tmp_path: Path):
    path = write_manifest(
        tmp_path / "m.parquet", make_table(ROWS, SCHEMA), LINEAGE, {"a.mp4": 3, "gone.mp4": None}
    ).path
    assert read_lengths(path) == {"a.mp4": 3, "gone.mp4": None}
    pq.write_table(make_table(ROWS, SCHEMA).replace_schema_metadata(make_metadata(LINEAGE, "d")), path)
    with pytest.raises(BadManifest, match=r"m\.parquet: does not record the sizes of its files\."):
        read_lengths(path)


def test_a_manifest_of_forty_million_rows_in_a_hundred_kilobytes_is_refused(tmp_path: Path):
    word = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["a"])
    pq.write_table(pa.table({"clip_id": word}), tmp_path / "m.parquet", compression="zstd")
    assert (tmp_path / "m.parquet").stat().st_size < 10_000
    for read in (read_manifest, read_rows):
        with pytest.raises(BadManifest, match=r"m\.parquet: stands for 200000 rows, which no run writes so small"):
            read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("facts", "read"),
    [
        ({b"reelmill.lineage": b"[]", b"reelmill.digest": b"d"}, read_lineage),
        ({b"reelmill.lineage": b"{}", b"reelmill.digest": b"d", b"reelmill.lengths": b"[1]"}, read_lengths),
        ({b"reelmill.lineage": b"{}", b"reelmill.digest": b"d", b"reelmill.lengths": b'{"a": 1e999}'}, read_lengths),
    ],
)
def test_a_tampered_footer_is_one_sentence(tmp_path: Path, facts: dict[bytes, bytes], read: Callable[[Path], object]):
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(facts), tmp_path / "m.parquet")
    with pytest.raises(BadManifest, match=r"m\.parquet: its .* cannot be read"):
        read(tmp_path / "m.parquet")


def test_a_value_that_no_text_is_is_one_sentence(tmp_path: Path):
    odd = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"a": odd}), tmp_path / "m.parquet")
    with pytest.raises(BadManifest, match=r"m\.parquet: has a value that cannot be read"):
        read_rows(tmp_path / "m.parquet")


@settings(max_examples=150, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_manifest_with_any_bytes_changed_is_rows_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]]
):
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    write_manifest(path, make_table(ROWS, SCHEMA), LINEAGE)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[place % len(content)] = value
    path.write_bytes(content)
    for read in (read_rows, read_lineage, read_manifest_ref):
        try:
            read(path)
        except BadManifest as error:
            said = str(error)
            assert "\n" not in said
