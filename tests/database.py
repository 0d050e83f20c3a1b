"""A PostgreSQL server of one's own, of Debian's package; it is started as another user where this one is root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serving import free_port, wait_for


def find_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; `make test-ops` installs the package."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    assert program, "PostgreSQL is not installed: run `make test-ops`, which installs Debian's package."
    return program


class Database:
    """A cluster in a folder, on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.as_user = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
        folder.mkdir()
        if self.as_user:
            shutil.chown(folder, "nobody")
        self._call(
            "initdb", "--auth=trust", "--username=reelmill", "--encoding=UTF8", "--no-sync", "-D", folder / "data"
        )

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://reelmill@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._call("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def is_up(self) -> bool:
        command = [find_program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _call(self, program: str, *arguments: str | Path) -> None:
        command = [*self.as_user, find_program(program), *map(str, arguments)]
        # What it starts keeps its output open, so nothing is read from there.
        subprocess.run(command, cwd="/", check=True, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def running_database(folder: Path) -> Iterator[Database]:
    """A database that has started; it ends with the block."""
    database = Database(folder)
    database.start()
    wait_for(database.is_up, "PostgreSQL")
    try:
        yield database
    finally:
        if database.is_up():
            database.stop()
