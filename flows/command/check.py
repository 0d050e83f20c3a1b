"""`reelmill check`: whether every file of an output folder is as it was written, and what makes it again."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows.running.config import Outcome
from models.errors import BadInput
from tasks.ledger import LEDGER, MARKER, Entry, digest_path, find_damaged_lines, read_ledger, read_marker

SHOWN = 100
"""How many faults are listed; all are counted."""


class CheckConfig(BaseModel):
    """Which folder is checked, and how deep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="An output folder, or a folder of them.")
    read_data: bool = Field(default=False, description="Compare every byte, by its digest, not only sizes.")


class Fault(BaseModel):
    """A file that is not as it was written: what is wrong, and what to do."""

    model_config = ConfigDict(frozen=True)

    file: Path
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.wrong}. {self.remedy}"


class CheckOutcome(Outcome):
    """How many files were compared, and those that are not as they were written."""

    path: Path
    files: int
    read_data: bool
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        depth = "every byte" if self.read_data else "their sizes; --read-data compares every byte"
        more = [f"  and {len(self.faults) - SHOWN} more"] if len(self.faults) > SHOWN else []
        wrong = [f"wrong: {len(self.faults)}", *(f"  {fault}" for fault in self.faults[:SHOWN]), *more]
        return "\n".join([f"files: {self.files} ({depth})", *(wrong if self.faults else ["wrong: none"])])


def check(config: CheckConfig) -> CheckOutcome:
    """Compare the files of a folder, and of the output folders in it, with their ledgers; raises BadInput where there
    is none."""
    roots = list(_list_roots(config.path))
    if not roots:
        raise BadInput(
            f"{config.path}: has no ledger of its files. Name an output folder; one of an earlier version gets a "
            "ledger when its command runs again."
        )
    faults = [fault for root in roots for fault in find_faults(root, config.read_data)]
    files = sum(len(read_ledger(root)) for root in roots)
    return CheckOutcome(
        failed=len(faults), path=config.path, files=files, read_data=config.read_data, faults=tuple(faults)
    )


def find_faults(root: Path, read_data: bool) -> Iterator[Fault]:
    """Yield what is wrong with the files of one marked folder."""
    marker = read_marker(root)
    again = f"run `reelmill {marker.flow}` into this folder again" if marker else "run its command again"
    if not (root / LEDGER).is_file():
        yield Fault(file=root / LEDGER, wrong="is missing", remedy="Nothing here can be checked.")
        return
    for number in find_damaged_lines(root):
        yield Fault(
            file=root / LEDGER,
            wrong=f"line {number} is damaged",
            remedy="The file that it names cannot be checked, and is not replaced.",
        )
    for name, entry in sorted(read_ledger(root).items()):
        if wrong := describe_fault(root / name, entry, read_data):
            remedy = "Restore it from a copy." if name == MARKER else f"Delete it, if it is there, and {again}."
            yield Fault(file=root / name, wrong=wrong, remedy=remedy)


def describe_fault(path: Path, entry: Entry, read_data: bool) -> str | None:
    """Say how a file differs from what was recorded of it; None where it does not."""
    if not os.path.lexists(path):
        return "is missing"
    if path.is_symlink() != (entry.size < 0):
        return "is a link" if path.is_symlink() else "is no longer a link"
    if not path.is_symlink() and not path.is_file():
        return "is no file"
    if not path.is_symlink() and (size := path.stat().st_size) != entry.size:
        return f"has {size} bytes, and {entry.size} were written"
    try:
        differs = (read_data or path.is_symlink()) and digest_path(path) != entry
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "has other bytes than were written" if differs else None


def _list_roots(path: Path) -> Iterator[Path]:
    """Yield the marked folders at and below `path`."""
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder. Name one that a command wrote with --out.")
    for folder, names, files in os.walk(path):
        names.sort()
        if MARKER in files or LEDGER in files:
            yield Path(folder)
