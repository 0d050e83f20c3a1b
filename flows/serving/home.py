"""Where a served Reelmill keeps what it has: database, logs, pages, and who serves. Nothing is written elsewhere."""

import os
from dataclasses import dataclass
from pathlib import Path

from flows.running.lock import find_holder
from models.errors import BadInput
from tasks.manifest import publish_text

LOG_BYTES = 10_000_000
"""A log that is longer is put aside, in place of the one before, when it is next begun."""


@dataclass(frozen=True)
class Home:
    """The folder of one served Reelmill; `folder` is absolute."""

    folder: Path

    @property
    def prefect(self) -> Path:
        """Return Prefect's own home, with the database where that is SQLite."""
        return self.folder / "prefect"

    @property
    def pages(self) -> Path:
        """Return the folder with a link for each output folder whose pages are shown."""
        return self.folder / "pages"

    @property
    def ready(self) -> Path:
        """Return the file that is there while all is up; it has the address."""
        return self.folder / "address"

    def check_place(self) -> None:
        """Raise BadInput where the home is a file."""
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"--home {self.folder}: is a file. Choose a folder.")

    def prepare(self) -> None:
        """Make the folder, which only its user can read; raises BadInput where that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.prefect, self.pages):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise BadInput(f"{self.folder}: cannot be used ({error.strerror}). Choose another --home.") from error

    def begin_log(self, name: str) -> Path:
        """Return the log of a part, of which a long one is put aside."""
        path = self.folder / f"{name}.log"
        if path.is_file() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path

    def find_holder(self) -> int | None:
        """Return the number of the process that serves here, if one does."""
        holder = find_holder(self.folder) if self.folder.is_dir() else None
        return int(holder) if holder and holder.isdecimal() else None

    def read_address(self) -> str | None:
        """Return the address that is served, if all is up."""
        return self.ready.read_text(encoding="utf-8").strip() if self.ready.is_file() else None

    def write_address(self, address: str) -> None:
        """Note that all is up."""
        publish_text(self.ready, f"{address}\n")

    def check_free(self) -> None:
        """Raise BadInput where a process serves here already."""
        if holder := self.find_holder():
            address = self.read_address() or "it is starting"
            raise BadInput(
                f"{self.folder}: Reelmill is up already ({address}, process {holder}). `reelmill down` ends it."
            )


def find_home(folder: Path | None) -> Home:
    """Return the home in a folder; by default in this user's: reelmill/up in $XDG_STATE_HOME or in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Home((folder or Path(state) / "reelmill/up").absolute())
