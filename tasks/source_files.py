"""Source files lie outside of the folders that Reelmill writes, so anyone may change, move or replace them at any time.

What was read of a file counts only if the file had, before and after, the bytes whose digest is recorded. Hashing is
spared where its identity (models/file_identity.py) is that of the last time: the user's own state keeps identities with
digests for each output folder. A file that changed within the last seconds is hashed again: clocks of file systems are
coarse.
"""

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from models.errors import BadMedia, ReelmillError, SourceChanged
from models.file_identity import Identity, identify
from tasks.child_process import name_descriptor
from tasks.ledger import read_marker, resolve_inside
from tasks.user_state import locate_state

COARSEST_NS = 2_000_000_000
"""How coarse the times of a file system may be."""


@contextmanager
def read_as(root: Path, path: Path, digest: str) -> Iterator[Path]:
    """Check that a file has the bytes of `digest` (SHA-256) when a block begins to read it and when it ends; yield a
    name of the very file that was checked, whatever takes its place meanwhile.

    `root` is the output folder that the file is read for. Raises SourceChanged where it has others, also instead of the
    error that reading a changing file ended with; BadMedia where it is not there.
    """
    before = _check_content(root, path, digest)
    with _hold(path, before) as held:
        try:
            yield held
        except Exception as error:
            _name_as_given(error, held, path)
            _check_again(root, path, held, digest, before)
            raise
        _check_again(root, path, held, digest, before)


def digest_source(root: Path, path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of a file, hashed only where its identity changed since the last time.

    Raises BadMedia for what is no regular file or cannot be read, SourceChanged while it is being written.
    """
    before = _identify(path)
    known = _open_memory(root).recall(path, before)
    if known:
        return before.size, known
    digest = _hash(path)
    if _identify(path) != before:
        raise SourceChanged(f"{path}: is being written. Run again when it is complete.")
    _open_memory(root).keep(path, before, digest)
    return before.size, digest


def find_source(root: Path, named: str, digest: str, moved_to: Path | None) -> Path:
    """Return where a source is now: the file of its name and its bytes below `moved_to`, or else where a table of the
    folder `root` says that it is. Raises BadManifest where that leads out of `root` by a relative path."""
    path = Path(named) if Path(named).is_absolute() else resolve_inside(root, named)
    if moved_to is None or not Path(named).is_absolute():
        return path
    return next((each for each in _list_by_name(moved_to).get(path.name, ()) if _has_bytes(root, each, digest)), path)


def _has_bytes(root: Path, path: Path, digest: str) -> bool:
    with suppress(BadMedia):
        return digest_source(root, path)[1] == digest
    return False


@cache
def _list_by_name(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for above, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(above) / name)
    return {name: sorted(paths) for name, paths in found.items()}


def _check_content(root: Path, path: Path, digest: str) -> Identity:
    """Return the identity of a file, with the bytes of `digest`."""
    identity = _identify(path)
    if digest_source(root, path)[1] != digest:
        raise _say_changed(path)
    return identity


def _check_again(root: Path, path: Path, held: Path, digest: str, before: Identity) -> None:
    if _identify(path) != before:
        _check_content(root, path, digest)
    if _identify(held) != before and _hash(held) != digest:
        raise _say_changed(path)


def _name_as_given(error: Exception, held: Path, path: Path) -> None:
    if isinstance(error, ReelmillError):
        said = str(error).replace(str(held), str(path))
        error.args = (path.name + said.removeprefix(held.name) if said.startswith(f"{held.name}: ") else said,)


def _say_changed(path: Path) -> SourceChanged:
    return SourceChanged(
        f"{path}: its content changed since it was listed. Run the command that listed it again (for a dataset, "
        "`reelmill curate`)."
    )


@contextmanager
def _hold(path: Path, checked: Identity) -> Iterator[Path]:
    """Open a file that was checked and yield the name by which this process and its children open it again."""
    with path.open("rb") as file:
        held = name_descriptor(file.fileno())
        if held is None:
            yield path
        elif _identify(held) != checked:
            raise _say_changed(path)
        else:
            yield held


def _identify(path: Path) -> Identity:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadMedia(f"{path}: is not a regular file, but a pipe, a device or a folder. Remove it.")
        return identify(path)
    except FileNotFoundError as error:
        raise BadMedia(f"{path}: is not there any more. Restore it, or say where it is now.") from error
    except OSError as error:
        raise BadMedia(f"{path}: cannot be opened ({error.strerror}). Check its permissions.") from error


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadMedia(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


class _Memory:
    """The digests of files by their identity, in memory and, for a folder that has a place there, in the user's
    state: lines of JSON, the last of a path counts."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._lock = file, threading.Lock()
        self._known: dict[str, tuple[Identity, str]] = dict(_read_lines(file)) if file else {}

    def recall(self, path: Path, identity: Identity) -> str | None:
        """Return the digest that the file had with this identity, if it is known."""
        kept = self._known.get(str(path.absolute()))
        return kept[1] if kept and kept[0] == identity else None

    def keep(self, path: Path, identity: Identity, digest: str) -> None:
        """Keep a digest, unless the file changed so lately that another change could leave its identity as it is."""
        if time.time_ns() - max(identity.mtime_ns, identity.ctime_ns) < COARSEST_NS:
            return
        name = str(path.absolute())
        self._known[name] = identity, digest
        if self._file is None:
            return
        line = json.dumps([name, *identity, digest]) + "\n"
        with self._lock, suppress(OSError):  # Where the user has no place for it, files are hashed again.
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line)


def _read_lines(file: Path) -> Iterator[tuple[str, tuple[Identity, str]]]:
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):  # A line that was cut short.
                name, *numbers, digest = json.loads(line)
                yield name, (Identity(*numbers), digest)


_open = cache(_Memory)


def _open_memory(root: Path) -> _Memory:
    marker = read_marker(root)
    return _open(locate_state(marker, "identities") if marker else None)
