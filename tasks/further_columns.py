"""What the further columns of a table say, which sets nothing here: kept with an item through every step as a JSON
object, and columns of their own in the tables that people open.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

COLUMN = "further"
"""The column of a manifest that has them, null where there are none."""

LONGEST_VALUE = 10_000
"""Characters of a value that are kept."""

GIVEN = "given_"
"""What goes before the name of a further column where a table has a column of that name already."""


def pack(values: Mapping[str, Any]) -> str | None:
    """Return the values of further columns as text; None where there are none."""
    texts = {name: _format(value)[:LONGEST_VALUE] for name, value in values.items()}
    return json.dumps(texts, sort_keys=True) if texts else None


def _format(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def append(table: pa.Table, packed: Sequence[str | None], taken: Collection[str] = ()) -> pa.Table:
    """Return a table with a column more for each further column that the `packed` texts of its rows have; none has the
    name of a column of the table or one of `taken`."""
    rows: list[Mapping[str, str]] = [json.loads(text) if text else {} for text in packed]
    for name in dict.fromkeys(name for row in rows for name in row):
        own = name
        while own in table.column_names or own in taken:
            own = f"{GIVEN}{own}"
        table = table.append_column(pa.field(own, pa.string()), pa.array([row.get(name) for row in rows], pa.string()))
    return table
