"""The files that the sources of a dataset mean: files, folders, globs, URLs, and lists of those."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from models.errors import BadInput
from tasks.curate.source_fetch import expand_url, is_url
from tasks.further_columns import pack
from tasks.item_lists import LIST_SUFFIXES, read_names

NAME_COLUMNS = ("source", "path", "url")
"""The column of a table that names the sources: the first of these that it has."""


@dataclass(frozen=True)
class Entry:
    """One source: an absolute path or a URL, its problem when that is known without opening it, and what the further
    columns of its list say."""

    source: str
    problem: str | None = None
    further: str | None = None


def expand_sources(sources: Sequence[str], suffixes: Sequence[str], exclude: Path | None = None) -> list[Entry]:
    """Return the files that `sources` name, each once, ordered by name.

    A source is a file (whatever its suffix), a folder (searched with all its subfolders), a glob, a URL, or a list: a
    text or a table of sources, relative to itself. Hidden files and everything below `exclude` are left out. Raises
    BadInput for a source that names no video; within a list that is an entry with its problem.
    """
    files = [file for source in sources for file in _find_files(source, tuple(suffixes), exclude)]
    if not files:
        raise BadInput("No source is given. Name a video file, a folder of them, a glob, a URL or a list of those.")
    return sorted({file.source: file for file in files}.values(), key=lambda file: file.source)


def _find_files(source: str, suffixes: tuple[str, ...], exclude: Path | None, nested: bool = False) -> list[Entry]:
    if source.startswith("file://"):
        source = url2pathname(urlsplit(source).path)
    if is_url(source):
        return [Entry(url) for url in expand_url(source, suffixes)]
    path = Path(source).expanduser()
    if path.is_file():
        is_list = not nested and path.suffix.lower() in LIST_SUFFIXES
        return _read_list(path, suffixes, exclude) if is_list else [_make_entry(path)]
    if path.is_dir():
        found = list(_find_videos(path, suffixes, exclude))
        if exclude and path.absolute().is_relative_to(exclude.absolute()):
            raise BadInput(f"{source}: is inside the dataset folder. Choose another folder for --out.")
        if not found:
            raise BadInput(f"{source}: no video in this folder. Files ending in {', '.join(suffixes)} are taken.")
        return found
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise BadInput(f"{source}: no such file or folder. Check the path.")
    found = [file for match in matches for file in _find_videos(match, suffixes, exclude)]
    if not found:
        raise BadInput(f"{source}: no video among its {len(matches)} matches. Check the pattern.")
    return found


def _read_list(path: Path, suffixes: tuple[str, ...], exclude: Path | None) -> list[Entry]:
    """Return the files that a list names; a problem with one of its rows is that entry's problem."""
    found = []
    for number, row in enumerate(read_names(path, NAME_COLUMNS), start=1):
        name = row.values.get(NAME_COLUMNS[0], "")
        source = name if is_url(name) else str(path.parent / Path(name).expanduser())
        try:
            if row.problem:
                raise BadInput(f"{path}: {row.problem}")
            further = pack(row.further)
            found += [replace(e, further=further) for e in _find_files(source, suffixes, exclude, nested=True)]
        except (BadInput, OSError, ValueError) as error:
            found.append(
                Entry(source if name else f"{path.absolute()} row {number}", f"{error} It is listed in {path}.")
            )
    if not found:
        raise BadInput(f"{path}: lists no files. Write one per line.")
    return found


def _find_videos(
    path: Path, suffixes: tuple[str, ...], exclude: Path | None, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Entry]:
    """Yield the videos in a folder and its subfolders. A link back to a folder `above` is not followed; a folder that
    cannot be listed is an entry with its problem."""
    if exclude and path.absolute().is_relative_to(exclude.absolute()):
        return
    if not path.is_dir():
        yield from [_make_entry(path)] if path.suffix.lower() in suffixes else []
        return
    try:
        here = path.stat()
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        yield _make_entry(path, f"{path}: cannot be listed ({error.strerror}). Check its permissions.")
        return
    inode = (here.st_dev, here.st_ino)
    for entry in entries if inode not in above else ():
        yield from _find_videos(entry, suffixes, exclude, above | {inode})


def _make_entry(path: Path, problem: str | None = None) -> Entry:
    absolute = os.path.abspath(path)
    shown = absolute.encode("utf-8", "backslashreplace").decode()
    return Entry(shown, problem if shown == absolute else f"{shown}: its name is not UTF-8. Rename it.")
