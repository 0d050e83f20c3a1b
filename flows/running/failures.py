"""What failed, read from the tables of an output folder: the item and the reason."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tasks.manifest import read_column_names, read_rows
from tasks.media.video import name_clip

REASONS = ("error_message", "error")
"""The columns that say why an item failed."""

PUT_OFF, DUPLICATE = "waiting", "duplicate"
"""The states of items that are not done and did not fail."""

NAMES = ("job", "source", "clip_id", "name", "picture")
"""The columns that name an item; the first that a table has is used. Jobs have numbers: many may share a picture."""


class Failure(NamedTuple):
    """An item and why it failed."""

    item: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.item in self.reason else f"{self.item}: {self.reason}"


def count_states(table: Path) -> Counter[str]:
    """Count the rows of a table by state; an empty counter where it has no states."""
    if "status" not in read_column_names(table):
        return Counter()
    return Counter(row["status"] for row in read_rows(table, ("status",)))


def list_tables(folder: Path) -> list[Path]:
    """Return the tables of an output folder."""
    return sorted(folder.glob("[!.]*.parquet"))


def list_failures(table: Path) -> list[Failure]:
    """Return each failed row of a table; not those of waiting and duplicate items."""
    columns = read_column_names(table)
    reason = next((name for name in REASONS if name in columns), None)
    item = next((name for name in NAMES if name in columns), None)
    if reason is None:
        return []
    wanted = ("status", "take", *(("start_s", "end_s") if item == "source" else ()))
    beside = [name for name in wanted if name in columns]
    rows = read_rows(table, (reason, *([item] if item else []), *beside))
    return [
        Failure(_name_item(row, item), row[reason])
        for row in rows
        if row[reason] and row.get("status") not in (PUT_OFF, DUPLICATE)
    ]


def _name_item(row: Mapping[str, Any], item: str | None) -> str:
    if item == "job":
        return f"job {row[item]}" + ("" if row.get("take") is None else f" take {row['take']}")
    named = str(row[item]) if item and row[item] else ""
    return name_clip(named, row["start_s"], row["end_s"]) if row.get("end_s") is not None else named
