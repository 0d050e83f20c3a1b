"""Lists of items as people give them: a folder of files, one file, a text with a name on each line, or a table that
names files.

A table (tasks/table_files.py) has columns that say something, whatever the case of their names; what further ones say
is kept with the item. The files that a table of jobs names are below its own folder; a list of sources may name any
file.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from models.errors import BadInput
from models.given_files import read_text
from tasks.left_out import describe_left_out, is_picture_file, list_pictures, say_left_out
from tasks.table_files import (
    LARGEST_BYTES,
    MOST_ROWS,
    TABLE_SUFFIXES,
    TableRow,
    read_table,
    rename_columns,
    split_lines,
)

log = logging.getLogger("reelmill")

TEXT_SUFFIX = ".txt"

LIST_SUFFIXES = (TEXT_SUFFIX, *TABLE_SUFFIXES)

MOST_FURTHER, LONGEST_NAME = 100, 100
"""Further columns of a table, and characters of a column's name."""


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
    rows = rename_columns(rows, tuple(columns))
    found = list(dict.fromkeys(name for row in rows for name in row.values))
    further = [name for name in found if name not in columns]
    wrong = [name or "without a name" for name in further if not name or _is_misspelt(name, {*columns} - {*found})]
    if wrong:
        raise BadInput(f"{path}: unknown column {', '.join(wrong)}. Known: {', '.join(columns)}.")
    if column not in found and instead not in found:
        other = f", or '{instead}'" if instead else ""
        raise BadInput(f"{path}: the table needs a column '{column}' with the files' paths{other}.")
    if further:
        log.info("%s: what its further columns say is kept with each clip: %s.", path, ", ".join(further))
    return _set_apart(path, rows, further)


def _is_misspelt(name: str, missing: Iterable[str]) -> bool:
    """Return whether a column's name is a known one that the table lacks, but for a letter or two that changed
    places."""
    plain = name.casefold().replace(" ", "_").replace("-", "_")
    return any(plain == known or _differs_by_one(plain, known) for known in missing if len(known) > 3)


def _differs_by_one(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) == 1:
        return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
    if len(long) != len(short):
        return False
    apart = [place for place in range(len(long)) if long[place] != short[place]]
    swapped = len(apart) == 2 and apart[1] == apart[0] + 1 and long[apart[0]] == short[apart[1]]
    return len(apart) == 1 or (swapped and long[apart[1]] == short[apart[0]])


def _set_apart(path: Path, rows: list[TableRow], further: Sequence[str]) -> list[TableRow]:
    """Return the rows with the values of the `further` columns apart; raises BadInput where they cannot be kept."""
    if len(further) > MOST_FURTHER:
        raise BadInput(f"{path}: has {len(further)} further columns; up to {MOST_FURTHER} are kept. Remove the others.")
    odd = next((name for name in further if len(name) > LONGEST_NAME or not name.isprintable()), None)
    if odd is not None:
        raise BadInput(f"{path}: a column cannot be named {odd!r}; give it up to {LONGEST_NAME} letters of one line.")
    names = {*further}
    return [
        replace(
            row,
            values={name: value for name, value in row.values.items() if name not in names},
            further={name: value for name, value in row.values.items() if name in names},
        )
        for row in rows
    ]


def locate(folder: Path, name: str) -> Path:
    """Return the path of a file that a list in `folder` names, in whatever form of Unicode its letters are on the disk;
    raises BadInput when it is missing or not in there."""
    try:
        spelled = dict.fromkeys([name, normalize("NFC", name), normalize("NFD", name)])
        paths, home = [(folder / each).resolve() for each in spelled], folder.resolve()
        inside, found = paths[0].is_relative_to(home), next((path for path in paths if path.is_file()), None)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name!r}: not a usable path ({error}).") from error
    if not inside or (found and not found.is_relative_to(home)):
        raise BadInput(f"{name}: is outside {folder}; move it into that folder.")
    if found is None:
        raise BadInput(f"{name}: no such file in {folder}.")
    return found


def read_names(path: Path, columns: Sequence[str]) -> list[TableRow]:
    """Read the names in a list as rows with one value under the first of `columns`: the lines of a text, or a table's
    values in the first of `columns` that it has. What its further columns say is kept.

    In a text, blank lines, lines that begin with # and spaces around a name are ignored; `./#1.mp4` is a name. Raises
    BadInput when it is not a list, or has no such column.
    """
    if path.suffix.lower() == TEXT_SUFFIX:
        lines = [line for line in map(str.strip, _read_lines(path)) if line and not line.startswith("#")]
        if len(lines) > MOST_ROWS:
            raise BadInput(f"{path}: has {len(lines)} lines, more than {MOST_ROWS} are not read. Give several lists.")
        return [TableRow({columns[0]: line}) for line in lines]
    rows = rename_columns(read_table(path), columns)
    column = next((name for name in columns if any(name in row.values for row in rows)), None)
    if column is None:
        raise BadInput(f"{path}: the table needs a column of files, named {', '.join(columns[:-1])} or {columns[-1]}.")
    others = list(dict.fromkeys(name for row in rows for name in row.values if name not in (column, "")))
    if others:
        log.warning(
            "%s: only the column %s is read, not %s. Each file is used in full. What they say is kept with its clips.",
            path,
            column,
            ", ".join(others),
        )
    rows = _set_apart(path, rows, others)
    return [_read_name(row, number, column, columns[0]) for number, row in enumerate(rows, start=1)]


def _read_lines(path: Path) -> list[str]:
    try:
        return split_lines(read_text(path, LARGEST_BYTES))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a list, one entry to a line ({error}).") from error


def _read_name(row: TableRow, number: int, column: str, wanted: str) -> TableRow:
    value = row.values.get(column)
    if row.problem or (isinstance(value, str) and value):
        return TableRow({wanted: value} if value else {}, row.problem, row.further)
    return TableRow(problem=f"row {number} names no file under {column}.")
