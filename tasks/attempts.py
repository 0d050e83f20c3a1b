"""Work that failed is a row: the word and the sentence of the error that stopped it, and how often it was tried.

Whatever an item raises, in any library, is that item's row, and the traceback is in the log of `--debug`. What is no
Exception (Ctrl-C, a signal to stop) stops the run. `tried` is the boundary of items whose row is kept as a result, for
`reelmill retry` to try again: there, a disk that is full or read-only stops the run as well. `ItemCall` is that of
items that every run tries again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel

from models.errors import ReelmillError, is_of_the_disk, is_out_of_memory
from tasks.caching import Step, find, find_or_compute, make_key, make_lineage
from tasks.ledger import remove
from tasks.manifest import Lineage, ManifestRef, make_table, read_rows, write_manifest

LONGEST = 300
"""Characters of a library's message that are kept."""

SPEAKING = (RuntimeError, ValueError, OSError)
"""Errors of libraries whose messages are sentences as a rule; others are named by their class."""

log = logging.getLogger("reelmill")

T = TypeVar("T")


def caught(call: Callable[[], T], work: str) -> T | Exception:
    """Return what `call` returns, or the exception that it raises, whose traceback is logged as that of `work`.

    This is the one place that stops an error of any kind: `tried` and `ItemCall` make it an item's row.
    """
    try:
        return call()
    except Exception as error:
        log.debug("%s failed", work, exc_info=error)
        return error


def tried(call: Callable[[], T], failed: Callable[[dict[str, str]], T], doing: str, name: str | None = None) -> T:
    """Return what `call` returns; where it raises, what `failed` makes of the error's columns.

    `doing` ("scanning") and `name`, the item's, are those of `failure_of`.
    """
    made = caught(call, f"{name or 'an item'}: {doing}")
    if not isinstance(made, Exception):
        return made
    if is_of_the_disk(made):
        raise made
    return failed(failure_of(made, name, doing))


@dataclass(frozen=True)
class ItemCall:
    """The call of a step for one item, with a manifest of its own.

    Where it fails, a row says why. That is kept apart, as a manifest of `STEP_failed`: it counts attempts, and the next
    run tries again. Its name is the key of the manifest that the item lacks, or one made of its own lineage.
    """

    step: Step
    root: Path
    settings: BaseModel
    inputs: tuple[str, ...]
    revision: str | None
    failure_has_own_key: bool = False

    @property
    def key(self) -> str:
        """Return the key of the item's manifest."""
        return make_key(self._lineage(self.step))

    def made(self, compute: Callable[[str], pa.Table]) -> ManifestRef:
        """Return the item's manifest, found or computed as by `cached`, and forget that it failed before."""
        made = find_or_compute(self.step, self.root, self.settings, self.inputs, compute, self.revision)
        remove(self._failed_at)
        return made

    def failed(self, row: Mapping[str, Any]) -> ManifestRef:
        """Write the row of an item that failed, with its attempt: one more than in the row that was kept before."""
        before = find(self._failed, self.root, self._failed_at.stem)
        attempt = read_rows(before)[0]["attempt"] + 1 if before else 1
        table = make_table([{**row, "attempt": attempt}], self.step.schema)
        return write_manifest(self._failed_at, table, self._lineage(self._failed))

    def tried(
        self, compute: Callable[[str], pa.Table], row_of: Callable[[Exception], Mapping[str, Any]]
    ) -> ManifestRef:
        """Return the item's manifest, or where it fails that of its failure, a row made by `row_of`."""
        made = caught(lambda: self.made(compute), self.step.name)
        return self.failed(row_of(made)) if isinstance(made, Exception) else made

    @property
    def _failed(self) -> Step:
        return Step(f"{self.step.name}_failed", self.step.version, self.step.schema)

    @property
    def _failed_at(self) -> Path:
        named_by = self._failed if self.failure_has_own_key else self.step
        return self._failed.path(self.root, make_key(self._lineage(named_by)))

    def _lineage(self, step: Step) -> Lineage:
        return make_lineage(step, self.settings, self.inputs, self.revision)


def failure_of(error: BaseException, name: str | None, doing: str) -> dict[str, str]:
    """Return `error_code` and `error_message` of an item that a step was `doing` ("sampling") when it failed; `name` is
    the item's, where the row's other columns do not name it.

    Where memory was too small, even for the plan that takes the least, torch's own text gives no advice.
    """
    if isinstance(error, ReelmillError):
        return error_columns(error)
    if is_out_of_memory(error):
        advice = "ask for a smaller size or fewer frames, or choose another --device"
        code, said = "out_of_memory", f"{doing} ran out of memory, however little it took at a time; {advice}."
    else:
        code, said = f"{doing.replace(' ', '_')}_failed", f"{doing} failed ({_describe(error)})."
    return {"error_code": code, "error_message": f"{name}: {said}" if name else said}


def error_columns(error: ReelmillError, item: str | None = None) -> dict[str, str]:
    """Return the columns `error_code` and `error_message` of a row whose item failed; `item` names it before the
    sentence, where the error does not."""
    return {"error_code": error.code, "error_message": f"{item}: {error}" if item else str(error)}


def _describe(error: BaseException) -> str:
    said, name = shorten(str(error), LONGEST, placeholder=" ..."), type(error).__name__
    if isinstance(error, SPEAKING) and said:
        return said
    return f"{name}: {said}" if said else name
