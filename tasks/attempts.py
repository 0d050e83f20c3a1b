"""Work that failed is a row: the word and the sentence of the error that stopped it, and how often it was tried."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from models.device import is_out_of_memory
from models.errors import ReelmillError
from tasks.caching import Step, find, find_or_compute, make_key, make_lineage
from tasks.ledger import remove
from tasks.manifest import Lineage, ManifestRef, make_table, read_rows, write_manifest

STOPPING = (ReelmillError, RuntimeError, ValueError, OSError, MemoryError)
"""What stops the work on one item and not that on the next."""


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
        """Return the item's manifest, or where it fails that of its failure, a row by `make_row` the error."""
        try:
            return self.made(compute)
        except STOPPING as error:
            return self.failed(row_of(error))

    @property
    def _failed(self) -> Step:
        return Step(f"{self.step.name}_failed", self.step.version, self.step.schema)

    @property
    def _failed_at(self) -> Path:
        named_by = self._failed if self.failure_has_own_key else self.step
        return self._failed.path(self.root, make_key(self._lineage(named_by)))

    def _lineage(self, step: Step) -> Lineage:
        return make_lineage(step, self.settings, self.inputs, self.revision)


def error_columns(error: ReelmillError, item: str | None = None) -> dict[str, str]:
    """Return the columns `error_code` and `error_message` of a row whose item failed; `item` names it before the
    sentence, where the error does not."""
    return {"error_code": error.code, "error_message": f"{item}: {error}" if item else str(error)}


def failure_of(error: BaseException, name: str, doing: str) -> dict[str, str]:
    """Return `error_code` and `error_message` of the clip `name`, which a step was `doing` ("sampling") when it failed.

    Where memory was too small, even for the plan that takes the least, torch's own text gives no advice.
    """
    if isinstance(error, ReelmillError):
        code, said = error.code, str(error)
    elif is_out_of_memory(error):
        advice = "ask for a smaller size or fewer frames, or choose another --device"
        code, said = "out_of_memory", f"{name}: {doing} ran out of memory, however little it took at a time; {advice}."
    else:
        code, said = f"{doing}_failed", f"{name}: {doing} failed ({str(error).strip() or type(error).__name__})."
    return {"error_code": code, "error_message": said}
