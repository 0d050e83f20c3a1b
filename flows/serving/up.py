"""`reelmill up`: Prefect's server with its UI, the deployments and a worker, in one command; `reelmill down` ends it.

The command opens the port and starts the two as children. One that ends unasked is started again; requests wait in the
port meanwhile. Children end with the command, even where that is killed.
"""

import json
import logging
import os
import socket
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows.running.config import Outcome
from flows.running.interrupt import stoppable
from flows.running.lock import exclusive
from flows.serving.auth import check_reach, is_loopback, read_auth
from flows.serving.home import Home, find_home
from flows.serving.settings import RUNS, SERVER
from flows.serving.unit import describe_unit
from models.errors import BadInput
from tasks.child_process import is_alive
from tasks.services import (
    Server,
    adopt_orphans,
    ask_to_end,
    end_orphans,
    end_service,
    start_detached,
    start_service,
)

log = logging.getLogger("reelmill")

START_S = 300.0
"""The longest time until all is up; a first start migrates the database."""

END_S = 45.0
"""The longest time that runs have to save what they have, when all is to end."""

POLL_S = 0.2

MOST_STARTS, WITHIN_S = 5, 60.0
"""A part that ends so often in so many seconds cannot run."""

SHOWN_LINES = 5

SECRET = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
"""Where the server, and where its clients look for the name and password."""


class UpConfig(BaseModel):
    """Where a served Reelmill listens, and where it keeps what it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(
        default=None,
        description="Folder of the database, the logs and the pages; ~/.local/state/reelmill/up by default",
    )
    folder: Path = Field(default=Path(), description="Folder that relative paths in forms start from")
    host: str = Field(default="127.0.0.1", description="Address to listen on; one that others reach needs --auth")
    port: int = Field(default=4200, ge=0, le=65535, description="Port to listen on; 0: any that is free")
    auth: Path | None = Field(
        default=None, description="File with USER:PASSWORD that only you can read; made where there is none"
    )
    database: str | None = Field(
        default=None,
        description="PostgreSQL's address, postgresql://USER@HOST/NAME, its password in ~/.pgpass; SQLite by default",
    )
    detach: bool = Field(default=False, description="Return when all is up; `reelmill down` ends it")
    unit: bool = Field(default=False, description="Print a systemd unit that runs this command, and do nothing else")


class DownConfig(BaseModel):
    """Which served Reelmill ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(default=None, description="Folder that `reelmill up` was given, if it was")


class Said(Outcome):
    """The outcome of a command that has a text to show."""

    text: str

    def __str__(self) -> str:
        return self.text


def check(config: UpConfig) -> list[str]:
    """Return nothing; raises BadInput where `up` would be refused."""
    check_reach(config.host, config.auth)
    if not config.folder.is_dir():
        raise BadInput(f"--folder {config.folder}: no such folder.")
    make_database_url(config.database)
    find_home(config.home).check_place()
    if not config.unit:
        find_home(config.home).check_free()
    return []


def up(config: UpConfig) -> Said:
    """Serve until Ctrl-C or SIGTERM; with --detach, until `reelmill down`."""
    check(config)
    if config.unit:
        return Said(text=describe_unit(make_command(config)))
    home = find_home(config.home)
    if config.auth:
        read_auth(config.auth)
    if config.detach:
        return Said(text=f"{detach(home, config)}\nIt goes on until `reelmill down`.")
    with _listen(config) as port:
        home.prepare()
        with exclusive(home.folder), stoppable():
            try:
                supervise(home, config, port)
            except KeyboardInterrupt:
                return Said(text="Reelmill is down.")
    raise AssertionError("supervise ends by an exception")


def down(config: DownConfig) -> Said:
    """Ask a served Reelmill to end, and wait until it has."""
    check_down(config)
    home = find_home(config.home)
    holder = home.find_holder()
    if holder is None:
        return Said(text=f"{home.folder}: Reelmill is not up.")
    ask_to_end(holder)
    until = time.monotonic() + 3 * END_S
    while is_alive(holder) and home.find_holder() == holder:
        if time.monotonic() > until:
            raise BadInput(f"{home.folder}: process {holder} has not ended. Its logs are in that folder.")
        time.sleep(POLL_S)
    return Said(text="Reelmill is down.")


def check_down(config: DownConfig) -> list[str]:
    """Return nothing; raises BadInput where there is no such home."""
    find_home(config.home).check_place()
    return []


def make_database_url(database: str | None) -> str | None:
    """Return the address of a database as Prefect takes it. Raises BadInput for one that is not PostgreSQL's."""
    if database is None:
        return None
    scheme, _, rest = database.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+asyncpg") or not rest:
        raise BadInput(f"--database {scheme}: must be postgresql://USER@HOST/NAME; without it, SQLite is used.")
    if ":" in rest.partition("@")[0] and "@" in rest:
        raise BadInput("--database: others can read a password in a command. Write it to ~/.pgpass instead.")
    return f"postgresql+asyncpg://{rest}"


def make_command(config: UpConfig) -> list[str]:
    """Return the command line of a setting, for another process that does not detach."""
    given = config.model_dump(exclude={"detach", "unit"}, exclude_none=True)
    absolute = {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}
    flags = [part for name, value in absolute.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "flows.command.main", "up", *flags]


def detach(home: Home, config: UpConfig) -> str:
    """Start the command again as a process of its own; return the address when all is up."""
    home.prepare()
    home.ready.unlink(missing_ok=True)
    file = home.begin_log("up")
    before = file.stat().st_size if file.is_file() else 0
    pid = start_detached(make_command(config), file)
    until = time.monotonic() + START_S
    while not (address := home.read_address()):
        if not is_alive(pid) or time.monotonic() > until:
            said = file.read_text(encoding="utf-8", errors="replace")[before:].strip().splitlines()
            raise BadInput(said[-1].removeprefix("reelmill: ") if said else f"{home.folder}: it did not start.")
        time.sleep(POLL_S)
    return address


class _Part:
    """The server or the worker: started again where it ends unasked, but not for ever."""

    def __init__(
        self, name: str, arguments: list[str], environment: dict[str, str], home: Home, port: socket.socket | None
    ) -> None:
        self.name, self._arguments, self._environment, self._home, self._port = name, arguments, environment, home, port
        self._starts: list[float] = []
        self.process = self._start()

    def _start(self) -> Server:
        now = time.monotonic()
        self._starts = [*(start for start in self._starts if now - start < WITHIN_S), now]
        file = self._home.begin_log(self.name)
        return start_service(f"flows.serving.{self.name}", self._arguments, self._environment, file, self._port)

    def keep(self) -> None:
        """Start it again where it has ended. Raises BadInput where that does not help."""
        code = self.process.poll()
        if code is None:
            return
        if len(self._starts) >= MOST_STARTS:
            raise BadInput(f"the {self.name} ends again and again: {_read_end(self._home.folder / f'{self.name}.log')}")
        log.warning("the %s ended by itself (%s); it is started again", self.name, code)
        self.process = self._start()


def supervise(home: Home, config: UpConfig, port: socket.socket) -> None:
    """Keep the server and the worker running until KeyboardInterrupt; then end the worker and its runs first."""
    address = make_address(config.host, port.getsockname()[1])
    adopt_orphans()
    home.ready.unlink(missing_ok=True)
    common = {**RUNS, "PREFECT_HOME": str(home.prefect), "REELMILL_UP": str(home.folder), "REELMILL_URL": address}
    common |= {"PREFECT_API_URL": f"{address}/api", "PREFECT_PROFILES_PATH": str(home.prefect / "profiles.toml")}
    secrets = dict.fromkeys(SECRET, read_auth(config.auth)) if config.auth else {}
    hosts = list_hosts(config.host, port.getsockname()[1])
    parts = [
        _Part(
            "server",
            [str(home.folder), json.dumps(hosts)],
            make_server_settings(home, config, address) | common | secrets,
            home,
            port,
        )
    ]
    try:
        parts.append(
            _Part("worker", [str(home.folder), address, str(config.folder.absolute())], common | secrets, home, None)
        )
        shown = False
        while True:
            for part in parts:
                part.keep()
            if not shown and home.ready.is_file():
                shown = True
                log.info("up at %s (logs, database: %s). Ctrl-C ends it.", address, home.folder)
            time.sleep(POLL_S)
    finally:
        home.ready.unlink(missing_ok=True)
        for part in reversed(parts):
            end_service(part.process, END_S)
        end_orphans(END_S)


def make_server_settings(home: Home, config: UpConfig, address: str) -> dict[str, str]:
    """Return what the server has in its environment, beside what all parts have."""
    url = make_database_url(config.database) or f"sqlite+aiosqlite:///{home.prefect / 'prefect.db'}"
    return {
        **SERVER,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
        "PREFECT_SERVER_UI_API_URL": "/api",
        # The newer UI asks the network for fonts and figures, and has advertisements.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Prefect copies its UI's files, by default into its own package.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home.folder / "ui"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
    }


def make_address(host: str, port: int) -> str:
    """Return the address at which this machine reaches the server."""
    own = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{own}:{port}"


def list_hosts(host: str, port: int) -> list[str]:
    """Return the names by which a server on loopback is asked; none, for any, where others reach it."""
    if not is_loopback(host):
        return []
    return [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", make_address(host, 0)[7:-2])]


def _listen(config: UpConfig) -> socket.socket:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise BadInput(
            f"{config.host}:{config.port}: cannot be listened on ({os.strerror(error.errno or 0).lower()}). Choose "
            "another --port, or end what listens there."
        ) from error


def _read_end(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-SHOWN_LINES:]) or "it says nothing"
