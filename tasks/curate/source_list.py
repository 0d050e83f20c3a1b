"""The files that the sources of a dataset mean: files, folders, globs, URLs, and lists of those.

A file that is named is taken. Of a folder's files, those are taken that are films by their content or by their suffix,
so that a damaged film is not passed over; what else it holds is counted and named.
"""

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from models.errors import BadInput
from models.file_kinds import is_film
from tasks.curate.source_fetch import expand_url, is_url
from tasks.further_columns import pack
from tasks.item_lists import LIST_SUFFIXES, read_names
from tasks.left_out import UNFINISHED, describe_left_out, explain_left_out, is_of_the_system, say_left_out

NAME_COLUMNS = ("source", "path", "url")
"""The column of a table that names the sources: the first of these that it has."""

FILM_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
        *(".m2v", ".m1v", ".m2p", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".mxf", ".3gp", ".3g2", ".ogv", ".ogm"),
        *(".dv", ".dif", ".y4m", ".mjpeg", ".mjpg", ".mj2", ".h264", ".264", ".hevc", ".h265", ".265", ".ivf"),
        *(".obu", ".nut", ".rm", ".rmvb", ".wtv", ".gxf", ".bik", ".smk"),
    )
)
"""Suffixes that are given to films alone, in lower case."""


@dataclass(frozen=True)
class Entry:
    """One source: an absolute path or a URL, its problem when that is known without opening it, and what the further
    columns of its list say; or a file of a folder that is not taken, with the reason as `left_out`."""

    source: str
    problem: str | None = None
    left_out: str | None = None
    further: str | None = None


Suffixes = Collection[str] | None
"""The only suffixes that are taken of folders and globs; None: what is a film."""


def expand_sources(sources: Sequence[str], suffixes: Suffixes, exclude: Path | None = None) -> list[Entry]:
    """Return the files that `sources` name, each once, ordered by name.

    A source is a file (whatever it is), a folder (searched with all its subfolders), a glob, a URL, or a list: a text
    or a table of sources, relative to itself. Hidden files and everything below `exclude` are left out. Raises BadInput
    for a source that names no video; within a list that is an entry with its problem.
    """
    files = [file for source in sources for file in _find_files(source, suffixes, exclude)]
    if not files:
        raise BadInput("No source is given. Name a video file, a folder of them, a glob, a URL or a list of those.")
    return sorted({file.source: file for file in files}.values(), key=lambda file: file.source)


def _find_files(source: str, suffixes: Suffixes, exclude: Path | None, nested: bool = False) -> list[Entry]:
    if source.startswith("file://"):
        source = url2pathname(urlsplit(source).path)
    if is_url(source):
        return [Entry(url) for url in expand_url(source, FILM_SUFFIXES if suffixes is None else suffixes)]
    path = Path(source).expanduser()
    if path.is_file():
        is_list = not nested and path.suffix.lower() in LIST_SUFFIXES
        return _read_list(path, suffixes, exclude) if is_list else [_make_entry(path)]
    if path.is_dir():
        if exclude and path.absolute().is_relative_to(exclude.absolute()):
            raise BadInput(f"{source}: is inside the dataset folder. Choose another folder for --out.")
        return _take(source, "no video in this folder", _find_videos(path, suffixes, exclude))
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise BadInput(f"{source}: no such file or folder. Check the path.")
    found = (file for match in matches for file in _find_videos(match, suffixes, exclude))
    return _take(source, f"no video among its {len(matches)} matches", found)


def _take(source: str, nothing: str, found: Iterable[Entry]) -> list[Entry]:
    """Return the entries to use, and say which were left out; raises BadInput where `nothing` is left."""
    entries = {entry.source: entry for entry in found}.values()
    top = f"{os.path.abspath(source).rstrip('/')}/"
    left = tuple((e.source.removeprefix(top), e.left_out) for e in entries if e.left_out is not None)
    taken = [entry for entry in entries if entry.left_out is None]
    if not taken:
        held = f". Not taken, {describe_left_out(left)}" if left else ""
        raise BadInput(f"{source}: {nothing}{held}. Name a file itself to have it taken whatever it is.")
    say_left_out(source, left)
    return taken


def _read_list(path: Path, suffixes: Suffixes, exclude: Path | None) -> list[Entry]:
    """Return the files that a list names, each once; a problem with one of its rows is that entry's problem."""
    found: dict[str, Entry] = {}
    find = cache(partial(_find_listed, path, suffixes, exclude))
    for number, row in enumerate(read_names(path, NAME_COLUMNS), start=1):
        name = row.values.get(NAME_COLUMNS[0], "")
        made = find(name) if not row.problem else _make_problem(path, name, number, row.problem)
        if isinstance(made, Entry):
            found[made.source] = made
        else:
            further = pack(row.further)
            found |= {entry.source: replace(entry, further=further) if further else entry for entry in made}
    if not found:
        raise BadInput(f"{path}: lists no files. Write one per line.")
    return list(found.values())


def _find_listed(path: Path, suffixes: Suffixes, exclude: Path | None, name: str) -> list[Entry] | Entry:
    """Return the files that a name in a list means, or one entry with the problem."""
    source = _locate_listed(path, name)
    try:
        return _find_files(source, suffixes, exclude, nested=True)
    except (BadInput, OSError, ValueError) as error:
        return Entry(source, f"{error} It is listed in {path}.")


def _make_problem(path: Path, name: str, number: int, problem: str) -> Entry:
    shown = _locate_listed(path, name) if name else f"{path.absolute()} row {number}"
    return Entry(shown, f"{path}: {problem} It is listed in {path}.")


def _locate_listed(path: Path, name: str) -> str:
    return name if is_url(name) else str(path.parent / Path(name).expanduser())


def _find_videos(
    path: Path, suffixes: Suffixes, exclude: Path | None, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Entry]:
    """Yield the files in a folder and its subfolders, those that are no videos with the reason why they are left out. A
    link back to a folder `above` is not followed; a folder that cannot be listed is an entry with its problem."""
    if (exclude and path.absolute().is_relative_to(exclude.absolute())) or is_of_the_system(path.name):
        return
    if path.name.startswith(".") and above:
        yield _make_entry(path, left_out="hidden")
        return
    if not path.is_dir():
        taken = _is_taken(path, suffixes)
        yield _make_entry(path) if taken else _make_entry(path, left_out=explain_left_out(path))
        return
    try:
        here = path.stat()
        entries = sorted(path.iterdir())
    except OSError as error:
        yield _make_entry(path, f"{path}: cannot be listed ({error.strerror}). Check its permissions.")
        return
    inode = (here.st_dev, here.st_ino)
    for entry in entries if inode not in above else ():
        yield from _find_videos(entry, suffixes, exclude, above | {inode})


def _is_taken(path: Path, suffixes: Suffixes) -> bool:
    suffix = path.suffix.lower()
    if suffixes is not None:
        return suffix in suffixes
    return suffix in FILM_SUFFIXES or (suffix not in UNFINISHED and is_film(path))


def _make_entry(path: Path, problem: str | None = None, left_out: str | None = None) -> Entry:
    absolute = os.path.abspath(path)
    shown = absolute.encode("utf-8", "backslashreplace").decode()
    return Entry(shown, problem if shown == absolute else f"{shown}: its name is not UTF-8. Rename it.", left_out)
