"""A watched folder: pictures that arrive in it become videos, round after round, until the run is stopped.

A picture that is still being written is left for a later round: its size and time must be equal in two listings.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from stat import S_ISDIR
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from flows.running.guard import Guard, wait
from flows.running.run import exclusive
from models.errors import BadInput
from models.pictures import PICTURE_SUFFIXES
from tasks.left_out import is_picture_file

log = logging.getLogger("reelmill")

FolderLook = dict[str, tuple[int, int]]
"""A listing of a folder: the size and time of each picture, by name."""


class WatchConfig(BaseModel):
    """The settings that say whether and how often a folder is listed for new pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: bool = Field(default=False, description="Keep running for pictures that arrive in the folder, until stopped")
    poll_s: float = Field(default=5.0, ge=0.2, le=3600, description="Seconds between two listings of a watched folder")


def list_pictures(folder: Path) -> FolderLook:
    """List the pictures in a folder as they are now; raises BadInput when it no longer exists."""
    found: FolderLook = {}
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise BadInput(
            f"{folder}: can no longer be watched ({error.strerror}). Run the same command to resume."
        ) from error
    for path in paths:
        if is_picture_file(path, PICTURE_SUFFIXES):
            try:
                facts = path.stat()
            except OSError:
                continue
            if not S_ISDIR(facts.st_mode):
                found[path.name] = facts.st_size, facts.st_mtime_ns
    return found


def list_first_pictures(folder: Path) -> FolderLook:
    """List the pictures in a folder that is to be watched; raises BadInput when it is no folder."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: --watch needs a folder of pictures.")
    return list_pictures(folder)


def find_settled(before: FolderLook, now: FolderLook) -> FolderLook:
    """Return the pictures that were equal, and not empty, in both listings."""
    return {name: facts for name, facts in now.items() if facts[0] and before.get(name) == facts}


class Round(Protocol):
    """The outcome of a round of a watched folder."""

    @property
    def clips(self) -> int:
        """Return the number of clips."""
        ...

    @property
    def failed(self) -> int:
        """Return the number of items that failed."""
        ...

    @property
    def stopped(self) -> str | None:
        """Return why the round ended before its work was done, if it did."""
        ...


R = TypeVar("R", bound=Round)


def keep_watching(
    folder: Path, out: Path, poll_s: float, guard: Guard, make: Callable[[tuple[str, ...], datetime | None], R]
) -> R:
    """Call `make` with the names of the settled pictures in `folder` and the deadline whenever they differ from the
    round before, until the guard ends it; return the outcome of the last round.

    No other run works in `out` meanwhile. Raises BadInput where there is no folder to watch, or no picture in time.
    """
    before, made, outcome = list_first_pictures(folder), FolderLook(), None
    with exclusive(out):
        while wait(poll_s, guard):
            now = list_pictures(folder)
            ready, before = find_settled(before, now), now
            if ready and ready != made:
                outcome = make(tuple(sorted(ready)), guard.deadline)
                made, guard.reason = ready, outcome.stopped
                log.info("watching %s: %d clips, %d failed", folder, outcome.clips, outcome.failed)
    if outcome is None:
        raise BadInput(f"{folder}: no picture arrived before {guard.reason}.")
    return outcome
