"""What further columns of a table say is kept as it was said, under names that no other column has."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.further_columns import LONGEST_VALUE, append, pack

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=4), min_size=1, max_size=5))
def test_every_value_comes_back_in_its_row(rows: list[dict[str, str]]):
    table = append(pa.table({"id": list(range(len(rows)))}), [pack(row) for row in rows], taken=["keep"])
    assert len(set(table.column_names)) == table.num_columns
    found = [sorted(v for n, v in row.items() if n != "id" and v is not None) for row in table.to_pylist()]
    assert found == [sorted(row.values()) for row in rows]
    assert "keep" not in table.column_names


def test_values_of_other_kinds_are_texts_and_long_ones_are_cut():
    assert pack({}) is None
    table = append(pa.table({"a": [1]}), [pack({"n": 7, "l": [1, "é"], "s": "\ud800", "x": "x" * 20_000, "a": "b"})])
    (row,) = table.to_pylist()
    assert (row["n"], row["l"], row["s"], row["given_a"]) == ("7", '[1, "é"]', "?", "b")
    assert len(row["x"]) == LONGEST_VALUE
