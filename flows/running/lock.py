"""One run at a time in a folder: a lock that ends with its process, and needs no Prefect."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

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
    with _make_lock_file(folder).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BadInput(
                f"{folder}: another run (process {holder}) is working in this folder. Wait for it, or stop it."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        token = _held.set(_held.get() | {folder})
        try:
            yield
        finally:
            _held.reset(token)


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


def _make_lock_file(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{folder}: the output folder cannot be created ({error.strerror}). Choose another --out."
        raise BadInput(reason) from error
    return folder / LOCK
