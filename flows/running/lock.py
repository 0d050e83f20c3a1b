"""One run at a time in a folder: a lock that ends with its process, and needs no Prefect."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from models.errors import BadInput

LOCK = ".reelmill.lock"

_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raises BadInput while another run holds it.

    The lock ends with the process, however that ends. A flow called inside the block may take it again.
    """
    folder = folder.resolve()
    if folder in _held.get():
        yield
        return
    with _open_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise make_busy_error(folder, holder) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        token = _held.set(_held.get() | {folder})
        try:
            yield
        finally:
            _held.reset(token)


def make_busy_error(folder: Path, holder: str) -> BadInput:
    """Return the error of a folder in which another process works."""
    return BadInput(f"{folder}: another run (process {holder}) is working in this folder. Wait for it, or stop it.")


def find_holder(folder: Path) -> str | None:
    """Return the number of the process that works in a folder; None where no process does."""
    if not (folder / LOCK).is_file():
        return None
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
    return None


def _open_lock(folder: Path) -> IO[str]:
    """Open a folder's lock to read and write, and not what it names where it is a link."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        if (folder / LOCK).is_symlink():
            raise BadInput(f"{folder / LOCK}: is a link, so this folder cannot be locked. Remove it.") from error
        reason = f"{folder}: the output folder cannot be created ({error.strerror}). Choose another --out."
        raise BadInput(reason) from error
