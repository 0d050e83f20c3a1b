"""What Python touches outside of given folders, by its audit events."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

OWN = (
    *(os.path.realpath(own) for own in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])),
    *("/proc", "/sys", "/dev", "/usr", "/lib"),
)
"""Where Python and its libraries read what is theirs."""

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree")  # fmt: skip

LISTS = ("os.listdir", "os.scandir")

PROGRAMS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.startfile", "socket.connect",
            "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen")  # fmt: skip

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Audit:
    """Within a block, every event that concerns a file outside of `roots`, a program or a connection is kept."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._inside = tuple(os.path.realpath(root) for root in roots)
        self._found: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    def __enter__(self) -> Self:
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False

    def take(self) -> list[str]:
        """Return what was kept since this was last asked for."""
        found, self._found = self._found, []
        return found

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or event not in ("open", *CHANGES, *LISTS, *PROGRAMS):
            return
        if event in PROGRAMS:
            local = event == "socket.connect" and isinstance(args[1], str | bytes)
            if not local:
                self._found.append(f"{event} {args!r}"[:200])
            return
        changed = event in CHANGES or (event == "open" and bool((args[2] or 0) & WRITING))
        for path in args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]:
            if isinstance(path, str | bytes | os.PathLike) and not self._is_inside(path, changed):
                self._found.append(f"{event} of {os.fsdecode(path)}"[:200])

    def _is_inside(self, path: str | bytes | os.PathLike[str], changed: bool) -> bool:
        real = os.path.realpath(os.fsdecode(path))
        return any(real == top or real.startswith(f"{top}/") for top in (*self._inside, *(() if changed else OWN)))
