"""Lists of items as people give them: a folder of files, one file, a text with a name on each line, or a table that
names files.

A table is CSV (separated by commas, semicolons or tabs), JSON lines or Parquet. Its rows are named values; an empty
cell is no value. The files that a table of jobs names are below its own folder; a list of sources may name any file.
"""

import csv
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import BadInput
from tasks.left_out import describe_left_out, is_picture_file, list_pictures, say_left_out

log = logging.getLogger("reelmill")

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")

TEXT_SUFFIX = ".txt"

DELIMITERS = (",", ";", "\t")
"""What separates the values of a CSV table: spreadsheets of many countries write semicolons."""

LIST_SUFFIXES = (TEXT_SUFFIX, *TABLE_SUFFIXES)


@dataclass(frozen=True)
class TableRow:
    """One row: its values by column, without the empty ones; or what is wrong with the row."""

    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Listing:
    """The rows of a list, unchecked, and the folder that must contain the files they name."""

    folder: Path
    rows: list[TableRow]


def read_listing(
    path: Path, suffixes: Collection[str], column: str, columns: Collection[str], instead: str | None = None
) -> Listing:
    """Read the list at `path`: the pictures in a folder (by name), those with `suffixes` or by their content; one such
    file; or a table.

    `column` names a row's file; rows without a file may have the column `instead`, and the lines of a text are read as
    its values. `columns` are all the columns that a table may have. Raises BadInput.
    """
    if path.is_dir():
        names, left = list_pictures(path, suffixes)
        if not names:
            held = f"; not taken, {describe_left_out(left)}" if left else ""
            raise BadInput(f"{path}: no file of a known kind in this folder ({', '.join(sorted(suffixes))}){held}.")
        say_left_out(str(path), left)
        return Listing(path, [TableRow({column: name}) for name in names])
    if not path.is_file():
        raise BadInput(f"{path}: no such folder or file.")
    if is_picture_file(path, suffixes):
        return Listing(path.parent, [TableRow({column: path.name})])
    if instead and path.suffix.lower() == TEXT_SUFFIX:
        return Listing(path.parent, read_names(path, (instead,)))
    if path.suffix.lower() not in TABLE_SUFFIXES:
        kinds = ", ".join(sorted((*suffixes, *TABLE_SUFFIXES)))
        raise BadInput(f"{path}: neither a folder nor a file of a known kind ({kinds}).")
    return Listing(path.parent, _check_table(path, read_table(path), column, columns, instead))


def _check_table(
    path: Path, rows: list[TableRow], column: str, columns: Collection[str], instead: str | None
) -> list[TableRow]:
    if not rows:
        raise BadInput(f"{path}: the table has no rows.")
    found = {name for row in rows for name in row.values}
    unknown = sorted(str(name) or "without a name" for name in found - set(columns))
    if unknown:
        raise BadInput(f"{path}: unknown column {', '.join(unknown)}. Known: {', '.join(columns)}.")
    if column not in found and instead not in found:
        other = f", or '{instead}'" if instead else ""
        raise BadInput(f"{path}: the table needs a column '{column}' with the files' paths{other}.")
    return rows


def locate(folder: Path, name: str) -> Path:
    """Return the path of a file that a list in `folder` names; raises BadInput when it is missing or not in there."""
    try:
        path, home = (folder / name).resolve(), folder.resolve()
        inside, found = path.is_relative_to(home), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name!r}: not a usable path ({error}).") from error
    if not inside:
        raise BadInput(f"{name}: is outside {folder}; move it into that folder.")
    if not found:
        raise BadInput(f"{name}: no such file in {folder}.")
    return path


def read_names(path: Path, columns: Sequence[str]) -> list[TableRow]:
    """Read the names in a list as rows with one value under the first of `columns`: the lines of a text, or a table's
    values in the first of `columns` that it has. That its other columns are not read is logged.

    In a text, blank lines, lines that begin with # and spaces around a name are ignored; `./#1.mp4` is a name. Raises
    BadInput when it is not a list, or has no such column.
    """
    if path.suffix.lower() == TEXT_SUFFIX:
        lines = (line.strip() for line in _read_lines(path))
        return [TableRow({columns[0]: line}) for line in lines if line and not line.startswith("#")]
    rows = read_table(path)
    column = next((name for name in columns if any(name in row.values for row in rows)), None)
    if column is None:
        raise BadInput(f"{path}: the table needs a column of files, named {', '.join(columns[:-1])} or {columns[-1]}.")
    others = dict.fromkeys(str(name) for row in rows for name in row.values if name != column)
    if others:
        log.warning(
            "%s: only the column %s is read, not %s. Each file is used in full.", path, column, ", ".join(others)
        )
    return [_read_name(row, number, column, columns[0]) for number, row in enumerate(rows, start=1)]


def _read_lines(path: Path) -> list[str]:
    try:
        return _split(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a list, one entry to a line ({error}).") from error


def _split(text: str) -> list[str]:
    """Split a text at line feeds only: str.splitlines() would also split inside names and JSON."""
    return text.split("\n")


def _read_name(row: TableRow, number: int, column: str, wanted: str) -> TableRow:
    value = row.values.get(column)
    if row.problem or (isinstance(value, str) and value):
        return TableRow({wanted: value} if value else {}, row.problem)
    return TableRow(problem=f"row {number} names no file under {column}.")


def read_table(path: Path) -> list[TableRow]:
    """Read the rows of a table, in order; the suffix tells its kind. Raises BadInput when it cannot be read."""
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_json_lines, ".ndjson": _read_json_lines}
    try:
        return list(readers[path.suffix.lower()](path))
    except UnicodeDecodeError as error:
        kind = path.suffix[1:]
        raise BadInput(f"{path}: cannot be read as a {kind} table ({error}). Save it as UTF-8.") from error
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise BadInput(f"{path}: cannot be read as a {path.suffix[1:]} table ({error}).") from error


def _read_csv(path: Path) -> Iterator[TableRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = _find_delimiter(file.readline())
        file.seek(0)
        reader = csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=delimiter)
        columns = [name.strip() for name in reader.fieldnames or []]
        _check_columns(path, columns)
        reader.fieldnames = columns
        for row in reader:
            if None in row:
                yield TableRow(problem=f"line {reader.line_num} has more fields than the header.")
            else:
                yield TableRow(_drop_empty({name: (value or "").strip() for name, value in row.items()}))


def _find_delimiter(header: str) -> str:
    """Return the one of DELIMITERS that splits a header into the most columns; the first of equal ones."""
    return max(DELIMITERS, key=lambda delimiter: _count_columns(header, delimiter))


def _count_columns(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], strict=True, skipinitialspace=True, delimiter=delimiter), ()))
    except csv.Error:
        return 0


def _read_json_lines(path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(_split(path.read_text(encoding="utf-8-sig")), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield TableRow(problem=f"line {number} is not JSON ({error}).")
            continue
        if isinstance(values, dict):
            yield TableRow(_drop_empty(values))
        else:
            yield TableRow(problem=f"line {number} is not a JSON object.")


def _read_parquet(path: Path) -> Iterator[TableRow]:
    rows = pq.ParquetFile(path).read()
    _check_columns(path, rows.column_names)
    for values in rows.to_pylist():
        yield TableRow(_drop_empty(values))


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise BadInput where a column name is repeated: which of its values is meant is unknown."""
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise BadInput(f"{path}: duplicate column {', '.join(repeated)}.")


def _drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
