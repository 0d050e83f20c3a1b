"""What Reelmill wrote into a folder: a marker says whose the folder is, a ledger names every file with its digest.

Only a file that the ledger names is ever replaced or removed, and nothing is written through a link. The ledger is
appended to: a line before a file appears, or after it is removed. Each line carries its own checksum, so that a damaged
ledger is seen too. Folders inside a marked folder belong to it, unless they have a marker of their own.
"""

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import BadInput

MARKER = ".reelmill.json"
LEDGER = ".reelmill.ledger"

_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
_LINK = -1
"""The size in the entry of a symbolic link; its digest is that of the path it names."""


class Marker(BaseModel):
    """Whose an output folder is: its id, the flow that writes it, and the version of Reelmill that made it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
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
    root = find_root(path)
    if root is None:
        return
    name = path.absolute().relative_to(root)
    for place in list(name.parents)[:-1]:
        if (root / place).is_symlink():
            raise BadInput(f"{root / place}: is a link, and nothing is written through links. Replace it by a folder.")
    if os.path.lexists(path) and not is_ours(path):
        raise BadInput(f"{path}: Reelmill did not write this file, so it stays. Move it, or choose another --out.")


def is_ours(path: Path) -> bool:
    """Say whether the ledger of the marked folder that `path` lies in names it."""
    root = find_root(path)
    return root is not None and find_entry(root, path.absolute().relative_to(root).as_posix()) is not None


def record(path: Path, written: Path) -> None:
    """Note that the content of `written` is about to appear at `path`, where that lies in a marked folder."""
    if root := find_root(path):
        _append(root, path.absolute().relative_to(root).as_posix(), digest_path(written))


def remove(path: Path) -> None:
    """Delete a file, unless it lies in a marked folder whose ledger does not name it."""
    root = find_root(path)
    if root is not None and not is_ours(path):
        return
    path.unlink(missing_ok=True)
    if root is not None:
        _append(root, path.absolute().relative_to(root).as_posix(), None)


def move(path: Path, target: Path) -> Path:
    """Rename a file inside its folder; return `target`."""
    check_place(target)
    record(target, path)
    path.replace(target)
    if root := find_root(path):
        _append(root, path.absolute().relative_to(root).as_posix(), None)
    return target


def digest_path(path: Path) -> Entry:
    """Return the digest and the size of a file's bytes, or of the path that a link names."""
    if path.is_symlink():
        return Entry(hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest(), _LINK)
    with path.open("rb") as file:
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def find_entry(root: Path, name: str) -> Entry | None:
    """Return what the ledger of `root` says of the file `name`; None where it does not name it."""
    return read_ledger(root).get(name)


def read_ledger(root: Path) -> Mapping[str, Entry]:
    """Return what is recorded of every file that Reelmill wrote below `root`, by its path there."""
    return _ledger(root.resolve()).read()


def find_damaged_lines(root: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of a ledger that do not have the checksum they carry."""
    return [number for number, parsed in enumerate(_parse((root / LEDGER).read_bytes()), start=1) if parsed is None]


class _Ledger:
    """A ledger in memory, which reads what other processes appended since it last looked."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._inode = path, 0, 0
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
                    self._entries, self._read, self._inode = {}, 0, now.st_ino
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for name, entry in filter(None, _parse(whole)):
                if entry is None:
                    self._entries.pop(name, None)
                else:
                    self._entries[name] = entry
            return self._entries


_ledger = cache(lambda root: _Ledger(root / LEDGER))


def _append(root: Path, name: str, entry: Entry | None) -> None:
    """Append a line: that `name` is about to be as in `entry`, or where that is None, that it was removed."""
    sha256, size = entry or ("-", 0)
    said = f"{sha256} {size} {json.dumps(name)}".encode()
    descriptor = os.open(root / LEDGER, _APPENDING, 0o644)
    try:
        os.write(descriptor, b"%08x %b\n" % (zlib.crc32(said), said))
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _parse(text: bytes) -> Iterator[tuple[str, Entry | None] | None]:
    """Yield the name and the entry of every line, None for a line that is damaged."""
    for line in text.split(b"\n")[:-1]:
        yield _parse_line(line)


def _parse_line(line: bytes) -> tuple[str, Entry | None] | None:
    checksum, _, said = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(said):
        return None
    sha256, size, name = said.decode().split(" ", 2)
    return json.loads(name), None if sha256 == "-" else Entry(sha256, int(size))
