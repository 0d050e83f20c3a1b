"""Tables as people make them: CSV, Excel, JSON lines and Parquet, read as rows of named values.

pandas reads CSV and Excel, every cell as text, so that 007, NA and 2^53+1 stay what they are; JSON lines and Parquet
keep their own types. A header's names are read whatever their case; blank rows are left out, and an empty cell is no
value. What is large, packed or binary is read in a child process, within limits of memory and processor time.
"""

import csv
import io
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from models.errors import BadInput, DecodeCrash, DecodeLimit, DecodeTimeout
from models.given_files import Unreadable, parse_json, read_text
from tasks.child_process import limit_this_process, run_in_child

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("reelmill")

DELIMITERS = (",", ";", "\t")
"""What separates the values of a CSV table: spreadsheets of many countries write semicolons."""

STATED = "sep="
"""How the first line of a spreadsheet's CSV begins that says what separates the values: `sep=;`."""

SMALL_BYTES = 1 << 20
"""A text of up to a megabyte needs no child: it has no more than a million cells."""

LARGEST_BYTES = 1 << 28

MOST_ROWS, MOST_COLUMNS, MOST_CELLS = 1_000_000, 1_000, 5_000_000

MOST_WRONG = 100_000
"""Lines of a JSON lines table that may be wrong, each a row with its problem; past that it is another kind of file."""

MEMORY_BYTES = 700_000_000
"""What reading a table in a child may take beside what the child begins with."""

CPU_S, CPU_S_PER_MB, WALL_S = 4, 2.0, 300.0
"""Processor time for reading a table, and more for each megabyte of its file; and the time on the clock."""


@dataclass(frozen=True)
class TableRow:
    """One row: its values by column, without the empty ones; or what is wrong with the row. `further` are the values
    that say nothing here, and are kept."""

    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


Read = tuple[list[TableRow], str | None]
"""The rows of a table, and what is to be said of it."""


def read_table(path: Path) -> list[TableRow]:
    """Read the rows of a table, in order; the suffix tells its kind. Raises BadInput when it cannot be read."""
    kind = path.suffix.lower()
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise Unreadable(f"it is larger than {LARGEST_BYTES / 1e6:.0f} MB")
        if kind in TEXTS and size <= SMALL_BYTES:
            rows, note = READERS[kind](path)
        else:
            limit_s = CPU_S + int(size / 1e6 * CPU_S_PER_MB)
            rows, note = run_in_child(read_within, path, MEMORY_BYTES, limit_s, limit_s=WALL_S)
    except (Unreadable, OSError, DecodeCrash, DecodeLimit, DecodeTimeout) as error:
        raise BadInput(_explain(path, error)) from error
    if note:
        log.warning("%s: %s", path, note)
    return rows


def read_within(path: Path, memory: int, cpu_s: int) -> Read:
    """Read a table in this process, which may take so much more memory and processor time; raises BadInput."""
    limit_this_process(memory, cpu_s)
    try:
        return READERS[path.suffix.lower()](path)
    except MemoryError:
        raise BadInput(_explain(path, f"it takes more than {memory / 1e6:.0f} MB of memory")) from None
    except Exception as error:
        # openpyxl and pyarrow raise whatever a damaged file leads them to.
        if isinstance(error, BadInput):
            raise
        raise BadInput(_explain(path, error)) from error


def _explain(path: Path, reason: Exception | str) -> str:
    said = " ".join(str(reason).removeprefix(f"{path}: ").split()).rstrip(".") or type(reason).__name__
    advice = " Save it as UTF-8." if "UTF" in said else ""
    return f"{path}: cannot be read as a {path.suffix.lower()[1:]} table ({said}).{advice}"


def match_columns(found: Collection[str], known: Sequence[str]) -> dict[str, str]:
    """Return the known column that each of those `found` is meant as, whatever its case; others are left out.

    A column whose name is exactly known goes before one that differs in case; of two that do, none is taken for it.
    """
    meant = {name: name for name in found if name in known}
    for wanted in known:
        alike = [name for name in found if name not in known and name.strip().casefold() == wanted.casefold()]
        if wanted not in meant.values() and len(alike) == 1:
            meant[alike[0]] = wanted
    return meant


def rename_columns(rows: list[TableRow], known: Sequence[str]) -> list[TableRow]:
    """Return the rows with the known columns under their own names, whatever the case of a table's header."""
    found = dict.fromkeys(name for row in rows for name in row.values)
    meant = {name: own for name, own in match_columns(found, known).items() if name != own}
    if not meant:
        return rows
    return [replace(row, values={meant.get(name, name): value for name, value in row.values.items()}) for row in rows]


def _read_csv(path: Path) -> Read:
    import pandas as pd

    text = read_text(path, LARGEST_BYTES)
    delimiter, text, above = _find_delimiter(text)
    options: Mapping[str, Any] = {"delimiter": delimiter, "skipinitialspace": True}
    try:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True, **options)
        widths, ends = [], []
        for line in lines:
            widths.append(len(line))
            ends.append(above + lines.line_num)
        width = max(widths, default=0)
        _check_size(len(widths), width)
        if not width:
            return [], None
        names: Any = range(width)
        frame = pd.read_csv(
            io.StringIO(text, newline=""),
            header=None,
            names=names,
            index_col=False,
            dtype=str,
            na_filter=False,
            keep_default_na=False,
            engine="python",
            skip_blank_lines=False,
            **options,
        )
    except (csv.Error, pd.errors.ParserError) as error:
        raise Unreadable(str(error)) from error
    return _make_rows(path, frame, ends), None


def _find_delimiter(text: str) -> tuple[str, str, int]:
    """Return what separates the values, the text below the line that says so, and the number of lines above that.

    Unless that line is there, it is the one of DELIMITERS that splits the header into the most columns.
    """
    first, end, rest = text.partition("\n")
    stated = first.strip().strip('"')
    if stated[:-1].lower() == STATED and not stated[-1].isalnum() and end:
        return stated[-1], rest, 1
    if stated.lower() == STATED and end:
        return "\t", rest, 1
    header = next((line for line in io.StringIO(text, newline="") if line.strip(" \t\r\n,;")), "")
    return max(DELIMITERS, key=lambda delimiter: _count_columns(header, delimiter)), text, 0


def _count_columns(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], strict=True, skipinitialspace=True, delimiter=delimiter), ()))
    except csv.Error:
        return 0


def _read_excel(path: Path) -> Read:
    import pandas as pd

    options: Mapping[str, Any] = {"header": None, "dtype": str, "na_filter": False, "keep_default_na": False}
    with pd.ExcelFile(path, engine="openpyxl") as book:
        sheet, *others = [str(name) for name in book.sheet_names]
        frame: Any = book.parse(sheet, nrows=MOST_ROWS + 1, **options)
    _check_size(*frame.shape)
    rows = _make_rows(path, frame, range(1, len(frame) + 1), dict(_find_unread_cells(path, frame)))
    note = f"only its first sheet is read, {sheet}, not {', '.join(others)}." if others else None
    return rows, note


def _find_unread_cells(path: Path, frame: "pd.DataFrame") -> Iterator[tuple[int, str]]:
    """Yield the lines of a sheet with a cell whose value is an error, or a formula's that was never worked out."""
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    try:
        lines = zip(book.worksheets[0].iter_rows(), frame.to_numpy(dtype=object).tolist(), strict=False)
        for number, (cells, values) in enumerate(lines, start=1):
            for cell, value in zip(cells, values, strict=False):
                if not isinstance(value, str):
                    yield number, f"line {number} has an error in its cell {cell.coordinate}."
                elif not value and cell.data_type == "f":
                    said = f"line {number} has a formula without its value in its cell {cell.coordinate}; open the"
                    yield number, f"{said} table in a spreadsheet and save it."
    finally:
        book.close()


def _make_rows(
    path: Path, frame: "pd.DataFrame", numbers: Sequence[int], problems: Mapping[int, str] | None = None
) -> list[TableRow]:
    """Return the rows below the first that is not blank, which has the columns' names; `numbers` are their lines.

    A cell that a row lacks is no text; one past the header's last is the row's problem, beside `problems` by line.
    """
    cells = frame.to_numpy(dtype=object).tolist()
    lines = [[cell.strip() if isinstance(cell, str) else None for cell in line] for line in cells]
    start = next((place for place, line in enumerate(lines) if any(line)), len(lines))
    columns = [cell for cell in lines[start] if cell is not None] if lines[start:] else []
    check_columns(path, columns)
    rows = []
    for line, number in zip(lines[start + 1 :], numbers[start + 1 :], strict=True):
        problem = (problems or {}).get(number)
        if any(cell is not None for cell in line[len(columns) :]):
            problem = f"line {number} has more fields than the header."
        if problem or any(line):
            values = {} if problem else _drop_empty(dict(zip(columns, line, strict=False)))
            rows.append(TableRow(values, problem))
    return rows


def _read_json_lines(path: Path) -> Read:
    lines = [(n, line) for n, line in enumerate(split_lines(read_text(path, LARGEST_BYTES)), start=1) if line.strip()]
    _check_size(len(lines), 1)
    rows: list[TableRow] = []
    wrong = 0
    for number, line in lines:
        rows.append(_read_json_line(number, line))
        wrong += rows[-1].problem is not None
        if wrong > MOST_WRONG:
            raise Unreadable(f"more than {MOST_WRONG:,} of its lines are no JSON objects, line {number} for one")
    if rows and wrong == len(rows):
        raise Unreadable(str(rows[0].problem).rstrip("."))
    return rows, None


def _read_json_line(number: int, line: str) -> TableRow:
    try:
        values = parse_json(line)
    except Unreadable as error:
        return TableRow(problem=f"line {number} is not JSON ({error}).")
    if not isinstance(values, dict):
        return TableRow(problem=f"line {number} is not a JSON object.")
    return TableRow(_drop_empty(values))


def split_lines(text: str) -> list[str]:
    """Split a text at line feeds only: str.splitlines() would also split inside names and JSON."""
    return text.split("\n")


def _read_parquet(path: Path) -> Read:
    with pq.ParquetFile(path) as file:
        check_columns(path, file.schema_arrow.names)
        _check_footer(file.metadata)
        return list(_read_batches(file)), None


def _read_batches(file: pq.ParquetFile) -> Iterator[TableRow]:
    for batch in file.iter_batches(batch_size=1000):
        yield from (TableRow(_drop_empty(values)) for values in batch.to_pylist())


def _check_footer(footer: pq.FileMetaData) -> None:
    """Raise Unreadable for more values than a table has that people make: a hundred kilobytes can stand for forty
    million rows."""
    _check_size(footer.num_rows, footer.num_columns)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    if values > MOST_CELLS:
        raise Unreadable(f"it has {values} values, more than {MOST_CELLS}")


def _check_size(rows: int, columns: int) -> None:
    if rows > MOST_ROWS or columns > MOST_COLUMNS or rows * columns > MOST_CELLS:
        most = f"{MOST_ROWS} rows, {MOST_COLUMNS} columns or {MOST_CELLS} cells"
        raise Unreadable(f"it has {rows} rows of {columns} columns, more than {most}")


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise BadInput where a column name is repeated: which of its values is meant is unknown."""
    repeated = sorted(name for name, count in Counter(columns).items() if name and count > 1)
    if repeated:
        raise BadInput(f"{path}: duplicate column {', '.join(repeated)}.")


def _drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


READERS: Mapping[str, Callable[[Path], Read]] = {
    ".csv": _read_csv,
    ".xlsx": _read_excel,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}

TEXTS = (".csv", ".jsonl", ".ndjson")

TABLE_SUFFIXES = tuple(READERS)
