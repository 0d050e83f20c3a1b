"""What Reelmill wrote into a folder: a marker says whose the folder is, a ledger names every file with its digest.

Only a file that the ledger names is ever replaced or removed, and nothing is written through a link. The ledger is
appended to: a line before a file appears, or after it is removed. Each line carries its own checksum, so that a damaged
ledger is seen too. Folders inside a marked folder belong to it, unless they have a marker of their own.
"""

import errno
import hashlib
import json
import logging
import os
import re
import threading
import zlib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import BadInput, BadManifest

log = logging.getLogger("reelmill")

MARKER = ".reelmill.json"
LEDGER = ".reelmill.ledger"

ASIDE = re.compile(r"\..+\.(?P<pid>\d+)-[0-9a-f]{8}(\.\w+)?")
"""The names of files and folders that are being written: their process is in them."""

_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
_LINK = -1
"""The size in the entry of a symbolic link; its digest is that of the path it names."""


class Marker(BaseModel):
    """Whose an output folder is: its id, the flow that writes it, and the version of Reelmill that made it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    flow: str
    version: str


class Entry(NamedTuple):
    """A file as it was written: the SHA-256 of its bytes, and how many they are."""

    sha256: str
    size: int


def mark(folder: Path, flow: str, version: str) -> Marker:
    """Make `folder` an output folder of `flow`, with an empty ledger and an id of its own."""
    marker = Marker(id=uuid4().hex, flow=flow, version=version)
    text = marker.model_dump_json(indent=2) + "\n"
    aside = folder / f".{MARKER}.{os.getpid()}-{os.urandom(4).hex()}"
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as file:
        file.write(text)
    _append(folder, MARKER, digest_path(aside))
    aside.replace(folder / MARKER)
    return marker


def read_marker(folder: Path) -> Marker | None:
    """Read a folder's marker; None where it has none, or none that can be read."""
    try:
        with os.fdopen(os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            return Marker.model_validate_json(file.read(10_000))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def find_root(path: Path) -> Path | None:
    """Return the nearest marked folder that `path` lies in; None where there is none."""
    above = path.absolute().parent
    return next((folder for folder in (above, *above.parents) if (folder / MARKER).is_file()), None)


def check_place(path: Path) -> None:
    """Raise BadInput where nothing may be written at `path`: another's file is there, or a link leads elsewhere.

    Outside of marked folders everything may be written.
    """
    if (found := _locate(path)) is None:
        return
    root, name = found
    for place in [root / folder for folder in Path(name).parents][:-1]:
        if place.is_symlink():
            raise BadInput(f"{place}: is a link, and nothing is written through links. Replace it by a folder.")
    if os.path.lexists(path) and name not in read_ledger(root):
        raise BadInput(f"{path}: Reelmill did not write this file, so it stays. Move it, or choose another --out.")


def record(path: Path, written: Path) -> None:
    """Note that the content of `written` is about to appear at `path`, where that lies in a marked folder."""
    if found := _locate(path):
        _append(*found, digest_path(written))


def remove(path: Path) -> None:
    """Delete a file, unless it lies in a marked folder whose ledger does not name it."""
    found = _locate(path)
    if found is None:
        path.unlink(missing_ok=True)
    elif found[1] in read_ledger(found[0]):
        path.unlink(missing_ok=True)
        _append(*found, None)


def move(path: Path, target: Path) -> Path:
    """Rename a file inside its folder; return `target`."""
    check_place(target)
    record(target, path)
    path.replace(target)
    if found := _locate(path):
        _append(*found, None)
    return target


def list_ours(folder: Path) -> list[Path]:
    """Return the files below `folder`, which lies in a marked folder, that the ledger names; by paths that begin as
    `folder` does, relative or absolute."""
    root = find_root(folder / "any")
    if root is None:
        return []
    inside = folder.absolute().relative_to(root).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    return [folder / name.removeprefix(prefix) for name in sorted(read_ledger(root)) if name.startswith(prefix)]


def digest_path(path: Path) -> Entry:
    """Return the digest and the size of a file's bytes, or of the path that a link names."""
    if path.is_symlink():
        return Entry(hashlib.sha256(os.fsencode(path.readlink())).hexdigest(), _LINK)
    with path.open("rb") as file:
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def resolve_inside(root: Path, name: str) -> Path:
    """Return the path of a file that a table of the folder `root` names; raises BadManifest where it is outside of it,
    by `..`, by a link, or by its full path. A table from a stranger can name any file."""
    path = root / name
    if not name or ".." in Path(name).parts or not path.resolve().is_relative_to(root.resolve()):
        raise BadManifest(f"{name!r}: is outside of {root}, so it is not read. Make its table again.")
    return path


def is_whole(path: Path) -> bool:
    """Say whether a file has the bytes that were written, by its digest; true also where no ledger names it."""
    found = _locate(path)
    entry = read_ledger(found[0]).get(found[1]) if found else None
    if entry is None:
        return True
    try:
        now = path.lstat()
        return _digest_once(path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == entry
    except OSError:
        return False


def check_whole(path: Path) -> None:
    """Raise BadManifest where a table that is handed on has other bytes than were written; a changed byte may read
    well, and say something else."""
    if not is_whole(path):
        raise BadManifest(f"{path}: has other bytes than were written. Run the command that made it again.")


def drop_damaged(folder: Path) -> list[Path]:
    """Remove the files below `folder` that have other bytes than were written, so that they are made again; return
    them."""
    damaged = [path for path in list_ours(folder) if path.is_file() and not is_whole(path)]
    for path in damaged:
        log.warning("%s: has other bytes than were written. It is made again.", path)
        remove(path)
    return damaged


def read_ledger(root: Path) -> Mapping[str, Entry]:
    """Return what is recorded of every file that Reelmill wrote below `root`, by its path there."""
    return _ledger(root.resolve()).read()


def find_damaged_lines(root: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of a ledger that do not have the checksum they carry."""
    lines = (root / LEDGER).read_bytes().split(b"\n")
    wrong = [number for number, line in enumerate(lines[:-1], start=1) if _parse_line(line) is None]
    return wrong + ([len(lines)] if lines[-1] else [])


def _locate(path: Path) -> tuple[Path, str] | None:
    """Return the marked folder that a path lies in, and its name there; None outside of one, and in unfinished
    folders."""
    root = find_root(path)
    if root is None:
        return None
    name = path.absolute().relative_to(root)
    return None if any(ASIDE.fullmatch(part) for part in name.parts) else (root, name.as_posix())


class _Ledger:
    """A ledger in memory, which reads what other processes appended since it last looked."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._inode, self._lines = path, 0, 0, 0
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def read(self) -> Mapping[str, Entry]:
        """Return the entries by name as they are now."""
        with self._lock:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return {}
            with os.fdopen(descriptor, "rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._inode or now.st_size < self._read:
                    self._entries, self._read, self._inode, self._lines = {}, 0, now.st_ino, 0
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.split(b"\n")[:-1]:
                self._lines += 1
                if (parsed := _parse_line(line)) is None:
                    self._warn()
                    continue
                name, entry = parsed
                if entry is None:
                    self._entries.pop(name, None)
                else:
                    self._entries[name] = entry
            return self._entries

    def _warn(self) -> None:
        log.warning(
            "%s: line %d is damaged. The file that it names cannot be checked, and is not replaced: see `reelmill "
            "check %s`.",
            self._path,
            self._lines,
            self._path.parent,
        )


@lru_cache(maxsize=4096)
def _digest_once(path: Path, *_: int) -> Entry:
    """Return the digest of a file that has not changed since it was last asked for, by what tells it from another."""
    return digest_path(path)


_ledger = cache(lambda root: _Ledger(root / LEDGER))


def _append(root: Path, name: str, entry: Entry | None) -> None:
    """Append a line: that `name` is about to be as in `entry`, or where that is None, that it was removed."""
    sha256, size = entry or ("-", 0)
    said = f"{sha256} {size} {json.dumps(name)}".encode()
    line = b"%08x %b\n" % (zlib.crc32(said), said)
    descriptor = os.open(root / LEDGER, _APPENDING, 0o644)
    try:
        if (written := os.write(descriptor, line)) < len(line):
            # A disk that became full: half a line would make one damaged line of the next.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / LEDGER))
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _parse_line(line: bytes) -> tuple[str, Entry | None] | None:
    """Return the name and the entry in a line; None for one that is damaged or empty."""
    checksum, _, said = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(said):
        return None
    sha256, size, name = said.decode().split(" ", 2)
    return json.loads(name), None if sha256 == "-" else Entry(sha256, int(size))
