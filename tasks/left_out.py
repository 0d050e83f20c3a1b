"""What a folder holds and is not taken: counted, named and said once, so that no file vanishes without a word."""

import logging
import os
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from models.file_kinds import is_picture, read_kind

log = logging.getLogger("reelmill")

LeftOut = tuple[tuple[str, str], ...]
"""The names of files that are not taken, each with the reason, "" where nothing is known of it."""

LONGEST = 300
"""Characters of names in a message; the files past that are counted."""

UNFINISHED = frozenset((".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp"))
"""Suffixes that programs give to a file for as long as they write it."""

_OF_THE_SYSTEM = frozenset((".DS_Store", ".directory", ".localized", "Thumbs.db", "desktop.ini"))


def is_of_the_system(name: str) -> bool:
    """Say whether a file is one that file managers leave in every folder: nobody misses it."""
    return name in _OF_THE_SYSTEM or name.startswith("._")


def list_pictures(folder: Path, suffixes: Collection[str]) -> tuple[list[str], LeftOut]:
    """List the pictures of a folder by name: what ends in one of `suffixes`, so that a damaged one is not passed over,
    or is a picture by its content; and what else is in it and in its subfolders."""
    held = sorted(path for path in folder.iterdir() if not is_of_the_system(path.name))
    taken = {path.name: is_picture_file(path, suffixes) for path in held}
    left = [(path.name, explain_left_out(path)) for path in held if not taken[path.name] and not path.is_dir()]
    return [name for name in taken if taken[name]], (*left, *_list_below(folder))


def is_picture_file(path: Path, suffixes: Collection[str]) -> bool:
    """Say whether a file of a folder is taken as a picture, by its suffix or by its content."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or path.is_dir():
        return False
    return suffix in suffixes or (suffix not in UNFINISHED and is_picture(path))


def _list_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files in the subfolders, but for those that a flow made: its manifests are beside them."""
    for path, folders, names in os.walk(folder):
        here = Path(path)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not (here / n / "manifests").is_dir())
        if here != folder:
            below = here.relative_to(folder).as_posix()
            yield from ((f"{below}/{name}", "in a subfolder") for name in sorted(names) if not is_of_the_system(name))


def explain_left_out(path: Path) -> str:
    """Return in a word or two why a file that was found is not taken; "" where nothing is known of it."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if path.suffix.lower() in UNFINISHED:
        return "not complete"
    kind = read_kind(path)
    return kind.name if kind else ""


def describe_left_out(left: LeftOut) -> str:
    """Return the number of files and the names of the first, each with its reason: `3 files: a.heic (HEIC), ...`."""
    words = [f"{name} ({why})" if why else name for name, why in left]
    shown = [word for i, word in enumerate(words) if not i or sum(map(len, words[: i + 1])) <= LONGEST]
    shown[0] = shown[0][:LONGEST]
    more = f" and {len(left) - len(shown)} more" if len(left) > len(shown) else ""
    return f"{len(left)} file{'s' if len(left) > 1 else ''}: {', '.join(shown)}{more}"


@cache
def say_left_out(place: str, left: LeftOut) -> None:
    """Warn of the files in a folder that are not taken, as names and reasons; once, however often it is listed."""
    if left:
        log.warning("%s: not taken, %s.", place, describe_left_out(left))
