"""Which files are opened, read, written, made or removed below folders, by any process and any library, as the kernel
says (inotify)."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

READ, WRITTEN = 0x1 | 0x20, 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200
"""Events: a file was read or opened; it was changed, moved, made or removed."""

OF_FOLDER, OVERFLOWN = 0x40000000, 0x4000


class Event(NamedTuple):
    """A file, and whether it was written."""

    path: Path
    written: bool


class Watch:
    """A watch on the files in folders and all that are below them now."""

    def __init__(self, tops: Sequence[Path]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        for top in tops:
            for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())):
                number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), READ | WRITTEN)
                self._folders[number] = folder

    def take(self) -> list[Event]:
        """Return what happened since this was last asked for; that folders were listed is left out."""
        return list(self._read())

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def _read(self) -> Iterator[Event]:
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._descriptor, 1 << 20):
                at = 0
                while at < len(events):
                    watched, mask, _, length = struct.unpack_from("iIII", events, at)
                    if mask & OVERFLOWN:
                        raise RuntimeError("inotify lost events: raise fs.inotify.max_queued_events.")
                    name = os.fsdecode(events[at + 16 : at + 16 + length].rstrip(b"\0"))
                    if watched in self._folders and name and (mask & WRITTEN or not mask & OF_FOLDER):
                        yield Event(self._folders[watched] / name, bool(mask & WRITTEN))
                    at += 16 + length
