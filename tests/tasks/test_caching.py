"""The cache: every way in which a cache can be wrong, as a test of its own."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from models.errors import BadManifest
from tasks.caching import Step, count_attempts, find, find_or_compute, make_key, make_lineage, set_aside, supersede
from tasks.ledger import mark, read_ledger
from tasks.manifest import ERROR_FIELDS, Lineage, ManifestRef, digest_file, make_table, read_lineage, read_rows

SCHEMA = pa.schema([("value", pa.string()), ("picture", pa.string()), ("attempt", pa.int32())])
STEP = Step("measure", 1, SCHEMA, files=("picture",))


class Config(BaseModel):
    """Parameters of the step under test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = 2.0
    names: tuple[str, ...] = ("a",)


class Counted:
    """A step's work that counts how often it runs and writes one file."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, 0

    def __call__(self, key: str) -> pa.Table:
        self.runs += 1
        picture = Path("pictures") / f"{key[:8]}.txt"
        (self.root / picture).parent.mkdir(parents=True, exist_ok=True)
        (self.root / picture).write_text(key)
        return make_table([{"value": "v", "picture": str(picture), "attempt": 1}, {"value": "w"}], SCHEMA)


@pytest.fixture
def work(tmp_path: Path) -> Counted:
    return Counted(tmp_path)


def run(work: Counted, inputs: tuple[Any, ...] = ("d1",), config: Config | None = None, **options: Any) -> ManifestRef:
    return find_or_compute(options.pop("step", STEP), work.root, config or Config(), inputs, work, **options)


def test_the_same_call_runs_once(work: Counted):
    first, second = run(work), run(work)
    assert work.runs == 1
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})


def test_the_same_path_with_new_content_runs_again(work: Counted, tmp_path: Path):
    film = tmp_path / "film.mp4"
    for content in (b"one", b"two", b"one"):
        film.write_bytes(content)
        run(work, (digest_file(film),))
    assert work.runs == 2


def test_another_path_with_the_same_content_is_found(work: Counted, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"one")
        run(work, (digest_file(tmp_path / name),))
    assert work.runs == 1


def test_a_raised_version_runs_again(work: Counted):
    run(work)
    run(work, step=Step("measure", 2, SCHEMA))
    assert work.runs == 2


def test_a_changed_parameter_runs_again_and_the_old_value_is_still_found(work: Counted):
    for rate in (2.0, 3.0, 2.0, 3.0):
        run(work, config=Config(rate=rate))
    assert work.runs == 2


def test_another_revision_of_the_model_runs_again(work: Counted):
    for revision in (None, "r1", "r2", "r1"):
        run(work, revision=revision)
    assert work.runs == 3


def test_a_deleted_output_file_runs_again(work: Counted):
    first = run(work)
    (work.root / read_rows(first)[0]["picture"]).unlink()
    assert not run(work).cached
    assert work.runs == 2
    assert run(work).cached


@pytest.mark.parametrize("left", [0, 3])
def test_an_output_file_that_was_cut_runs_again_and_is_named(
    work: Counted, left: int, caplog: pytest.LogCaptureFixture
):
    name = read_rows(run(work))[0]["picture"]
    whole = (work.root / name).read_bytes()
    (work.root / name).write_bytes(whole[:left])
    assert not run(work).cached
    assert f"{name}: has {left} bytes, but {len(whole)} were written." in caplog.text
    assert (work.root / name).read_bytes() == whole
    assert run(work).cached


class InFolders(Counted):
    """The same, where what it writes is a folder of two files."""

    def __call__(self, key: str) -> pa.Table:
        self.runs += 1
        folder = self.root / "pictures"
        folder.mkdir(exist_ok=True)
        for name in ("1.txt", "2.txt"):
            (folder / name).write_text(key)
        return make_table([{"value": "v", "picture": "pictures", "attempt": 1}], SCHEMA)


def test_a_folder_is_whole_when_each_of_its_files_is_whatever_else_is_there(tmp_path: Path):
    work = InFolders(tmp_path)
    run(work)
    (tmp_path / "pictures" / ".DS_Store").write_bytes(b"of another")
    assert run(work).cached
    (tmp_path / "pictures" / "2.txt").write_bytes(b"")
    assert not run(work).cached
    (tmp_path / "pictures" / "1.txt").unlink()
    assert not run(work).cached
    assert run(work).cached


def test_a_file_that_was_empty_from_the_start_is_as_it_was(tmp_path: Path):
    """A source may be empty; that is its row's matter."""
    (tmp_path / "empty.mp4").write_bytes(b"")

    def compute(_: str) -> pa.Table:
        return make_table([{"value": "v", "picture": str(tmp_path / "empty.mp4"), "attempt": 1}], SCHEMA)

    assert [find_or_compute(STEP, tmp_path / "root", None, ["d"], compute).cached for _ in range(2)] == [False, True]


def test_a_file_that_was_never_there_is_looked_for_again(tmp_path: Path):
    def compute(_: str) -> pa.Table:
        return make_table([{"value": "v", "picture": "gone.txt", "attempt": 1}], SCHEMA)

    assert not any(find_or_compute(STEP, tmp_path, None, ["d"], compute).cached for _ in range(2))


def test_a_deleted_manifest_runs_again(work: Counted):
    run(work).path.unlink()
    run(work)
    assert work.runs == 2


def test_a_second_data_root_is_filled_by_itself(work: Counted, tmp_path: Path):
    run(work)
    other = Counted(tmp_path / "other")
    made = run(other)
    assert other.runs == 1
    assert made.path.is_relative_to(other.root)
    assert (other.root / read_rows(made)[0]["picture"]).is_file()


def test_a_copied_data_root_needs_nothing_new(work: Counted, tmp_path: Path):
    run(work)
    moved = Counted(tmp_path.with_name(tmp_path.name + "-moved"))
    tmp_path.rename(moved.root)
    assert run(moved).cached


IN_ANOTHER_PROCESS = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
import importlib.util
spec = importlib.util.spec_from_file_location("steps", sys.argv[1])
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)
work = steps.Counted(Path(sys.argv[2]))
made = steps.run(work)
print(made.cached, work.runs, made.path.stem)
"""


@pytest.mark.slow
def test_a_second_run_in_another_process_finds_what_the_first_made(tmp_path: Path, repository: Path):
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, __file__, str(tmp_path)]
    outputs = [
        subprocess.run(
            command, capture_output=True, text=True, cwd=repository, check=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    first, second = (output.stdout.split() for output in outputs)
    assert (first[:2], second[:2]) == (["False", "1"], ["True", "0"])
    assert first[2] == second[2]


def test_upstream_rows_that_come_out_the_same_let_what_follows_be_found(work: Counted, tmp_path: Path):
    upstream = Step("upstream", 1, pa.schema([("cut", pa.int64())]))

    def cuts(rate: float) -> ManifestRef:
        table = make_table([{"cut": 40}], upstream.schema)
        return find_or_compute(upstream, tmp_path, Config(rate=rate), (), lambda _: table)

    run(work, (cuts(2.0),))
    run(work, (cuts(3.0),))
    assert work.runs == 1


def test_work_that_fails_leaves_no_manifest(tmp_path: Path):
    def fail(_: str) -> pa.Table:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        find_or_compute(STEP, tmp_path, Config(), ("d1",), fail)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_rows_that_are_not_the_declared_schema_are_refused(tmp_path: Path):
    with pytest.raises(BadManifest, match=r"measure: its rows have \['value'\], its schema says"):
        find_or_compute(STEP, tmp_path, Config(), (), lambda _: pa.table({"value": ["v"]}))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b"x" * len(b)])
def test_a_damaged_manifest_is_made_again_and_said_so(
    work: Counted, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
):
    path = run(work).path
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, logger="reelmill"):
        assert not run(work).cached
    assert work.runs == 2
    assert "It is made again." in caplog.text


def test_a_manifest_carries_what_made_it(work: Counted):
    made = run(work, ("d1", "d2"), Config(rate=3.0), revision="r1")
    lineage = read_lineage(made.path)
    assert (lineage.step, lineage.version, lineage.inputs, lineage.model_revision) == ("measure", 1, ("d1", "d2"), "r1")
    assert lineage.parameters == {"rate": 3.0, "names": ["a"]}
    assert make_key(lineage) == made.path.stem


def test_a_manifest_lies_below_its_step(work: Counted):
    made = run(work)
    assert made.path == work.root / "manifests" / "measure" / made.path.name
    assert find(STEP, work.root, made.path.stem) == made.model_copy(update={"cached": True})


def test_what_failed_counts_its_attempts_and_what_had_succeeded_keeps_its_own(tmp_path: Path):
    step = Step("try", 1, pa.schema([("item", pa.string()), *ERROR_FIELDS]))
    good = {"item": "a", "attempt": 1}
    bad = {"item": "b", "attempt": 1, "error_code": "bad_media"}
    found = []
    for second in (bad, bad, good | {"item": "b"}):
        made = find_or_compute(step, tmp_path, None, (), lambda _, row=second: make_table([good, row], step.schema))
        found.append([row["attempt"] for row in read_rows(made)])
        set_aside(made.path)
    assert found == [[1, 1], [1, 2], [1, 3]]
    assert count_attempts(made.path) == 3


def test_the_ledger_names_no_manifest_that_was_set_aside_and_forgotten(work: Counted, tmp_path: Path):
    mark(tmp_path, "curate", "1")
    for _ in range(3):
        set_aside(run(work).path)
    run(work)
    assert [name for name in read_ledger(tmp_path) if not (tmp_path / name).exists()] == []


def test_a_step_without_attempts_can_be_set_aside_too(tmp_path: Path):
    step = Step("plain", 1, pa.schema([("cut", pa.int64())]))
    made = find_or_compute(step, tmp_path, None, (), lambda _: make_table([{"cut": 1}], step.schema))
    set_aside(made.path)
    assert find_or_compute(step, tmp_path, None, (), lambda _: make_table([{"cut": 2}], step.schema)).rows == 1


@pytest.mark.slow
@given(
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
)
@example([], [], float("inf"), float("-inf"))
def test_keys_are_equal_exactly_when_inputs_and_parameters_are(a: list[str], b: list[str], x: float, y: float):
    keys = [make_key(make_lineage(STEP, Config(rate=rate), digests)) for digests, rate in ((a, x), (b, y))]
    assert (keys[0] == keys[1]) == ((a, repr(x)) == (b, repr(y)))


def test_the_order_of_inputs_means_something(work: Counted):
    run(work, ("d1", "d2"))
    run(work, ("d2", "d1"))
    assert work.runs == 2


def test_what_is_superseded_runs_again_and_other_steps_do_not(tmp_path: Path):
    other = Step("other", 1, STEP.schema)
    for step in (STEP, other):
        find_or_compute(step, tmp_path, None, ["a"], lambda _: make_table([], STEP.schema))
    supersede(STEP, tmp_path)
    made = [
        find_or_compute(step, tmp_path, None, ["a"], lambda _: make_table([], STEP.schema)) for step in (STEP, other)
    ]
    assert [manifest.cached for manifest in made] == [False, True]


def test_a_key_is_the_same_in_every_version_so_that_an_upgrade_recomputes_nothing():
    """The digest of {"inputs":["d1","d2"],"model_revision":"r1","parameters":{"names":["x"],"rate":2.0},"step":"scan",
    "version":3}, as `sha256sum` gives it."""
    lineage = Lineage(
        step="scan", version=3, parameters={"rate": 2.0, "names": ["x"]}, inputs=("d1", "d2"), model_revision="r1"
    )
    assert make_key(lineage) == "6d6e4a6aced4363d35e055a430e1cb0c"


def test_a_manifest_that_does_not_say_how_long_its_files_were_is_made_again_and_said_so(
    work: Counted, caplog: pytest.LogCaptureFixture
):
    path = run(work).path
    table = pq.read_table(path)
    facts = {name: value for name, value in (table.schema.metadata or {}).items() if name != b"reelmill.lengths"}
    pq.write_table(table.replace_schema_metadata(facts), path)
    assert not run(work).cached
    assert f"{path}: does not record the sizes of its files. It is made again." in caplog.text
    assert run(work).cached


def test_a_manifest_with_a_flipped_byte_is_made_again_wherever_the_byte_is(
    tmp_path: Path, work: Counted, caplog: pytest.LogCaptureFixture
):
    mark(tmp_path, "curate", "1")
    path = run(work).path
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 8]) + whole[position + 1 :])
        assert not run(work).cached, position
        assert path.read_bytes() == whole
        assert f"{path}: has other bytes than were written. It is made again." in caplog.text
        caplog.clear()
    assert run(work).cached
