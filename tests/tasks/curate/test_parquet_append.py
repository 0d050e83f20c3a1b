"""A file that got columns reads like one that was written with them, whatever reads it."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadManifest
from tasks.curate.parquet_append import encode_struct, extend_manifest, graft, read_footer
from tasks.manifest import Lineage, digest_table, read_lineage, read_manifest, read_manifest_ref, write_manifest

MEASURED = pa.schema(
    [("name", pa.string()), ("score", pa.float32()), ("hashes", pa.list_(pa.string())), ("n", pa.int64())]
)

KEEP = pa.schema([("keep", pa.bool_()), ("reasons", pa.list_(pa.string()))])


def measured(count: int) -> pa.Table:
    rows = [
        {"name": f"clip {i}" if i % 5 else None, "score": i / 7, "hashes": ["a"] * (i % 3), "n": -i}
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, MEASURED)


def verdicts(count: int, every: int = 2) -> pa.Table:
    rows = [{"keep": i % every == 0, "reasons": ["short"] * (i % every)} for i in range(count)]
    return pa.Table.from_pylist(rows, KEEP)


def whole(count: int, every: int = 2) -> pa.Table:
    table = measured(count)
    for name, column in zip(KEEP.names, verdicts(count, every).columns, strict=True):
        table = table.append_column(KEEP.field(name), column)
    return table


@pytest.mark.parametrize("rows_per_group", [1, 7, 1000])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_columns_are_added_to_a_file_of_any_length_in_any_number_of_groups(
    tmp_path: Path, count: int, rows_per_group: int
):
    source, target = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(measured(count), source, row_group_size=rows_per_group)
    before = source.read_bytes()
    graft(target, source, verdicts(count), whole(0).schema)
    assert pq.read_table(target).equals(whole(count))
    assert pd.read_parquet(target).equals(whole(count).to_pandas())
    assert source.read_bytes() == before
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.parquet", "b.parquet"]


def test_columns_replace_those_added_before_and_the_file_does_not_grow(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(measured(300), path)
    graft(path, path, verdicts(300), whole(0).schema)
    first = path.read_bytes()
    for every in (3, 5, 2):
        graft(path, path, verdicts(300, every), whole(0).schema)
        assert pq.read_table(path).equals(whole(300, every))
    assert path.read_bytes() == first


def test_only_some_columns_of_some_rows_can_be_read(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(measured(100), path, row_group_size=30)
    graft(path, path, verdicts(100), whole(0).schema)
    found = pq.read_table(path, columns=["keep", "n"], filters=[("n", "<=", -70), ("keep", "=", True)])
    assert found["n"].to_pylist() == list(range(-70, -100, -2))


@pytest.mark.parametrize("options", [{"write_page_index": True}, {"compression": "none"}, {"use_dictionary": False}])
def test_files_written_otherwise_are_extended_too(tmp_path: Path, options: dict[str, Any]):
    path = tmp_path / "a.parquet"
    pq.write_table(measured(50), path, **options)
    graft(path, path, verdicts(50), whole(0).schema)
    assert pq.read_table(path).equals(whole(50))


def test_a_manifest_keeps_digest_and_lineage(tmp_path: Path):
    lineage = Lineage(step="select", version=1, parameters={"min": 1.0}, inputs=("x",))
    source = write_manifest(tmp_path / "a.parquet", measured(9), Lineage(step="join", version=1))
    made = extend_manifest(tmp_path / "b.parquet", source.path, source.digest, verdicts(9), lineage, MEASURED)
    assert read_manifest_ref(made.path) == made
    assert read_lineage(made.path) == lineage
    assert read_manifest(made).equals(whole(9))
    assert made.digest not in (source.digest, digest_table(verdicts(9)))
    again = extend_manifest(made.path, made.path, source.digest, verdicts(9), lineage, MEASURED)
    assert again == made


def test_too_few_verdicts_are_refused_and_nothing_is_written(tmp_path: Path):
    pq.write_table(measured(5), tmp_path / "a.parquet")
    with pytest.raises(BadManifest, match="has 5 rows, but there are 4 verdicts"):
        graft(tmp_path / "b.parquet", tmp_path / "a.parquet", verdicts(4), whole(0).schema)
    assert not (tmp_path / "b.parquet").exists()


def test_what_is_no_parquet_file_is_named(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"not a table at all")
    with pytest.raises(BadManifest, match=r"a\.parquet: not a complete Parquet file"):
        graft(tmp_path / "b.parquet", tmp_path / "a.parquet", verdicts(4), whole(0).schema)


integers = st.integers(-(2**63), 2**63 - 1)
values = st.recursive(
    st.tuples(st.just(6), integers)
    | st.tuples(st.just(8), st.binary(max_size=20))
    | st.tuples(st.just(1), st.just(True)),
    lambda inner: (
        st.tuples(st.just(12), st.dictionaries(st.integers(1, 40), inner, max_size=4))
        | st.lists(integers, max_size=20).map(lambda items: (9, (6, items)))
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.dictionaries(st.integers(1, 300), values, max_size=6))
def test_a_footer_is_read_as_it_was_written(fields: dict[int, tuple[int, Any]]):
    footer = encode_struct(fields)
    file = io.BytesIO(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert read_footer(file) == fields


def test_the_footer_that_pyarrow_writes_comes_back_byte_for_byte(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(measured(40), path, row_group_size=9)
    with path.open("rb") as file:
        footer = encode_struct(read_footer(file))
    assert path.read_bytes()[-8 - len(footer) : -8] == footer
