"""Unattended runs: the conditions that stop a run early and cleanly, so that the same command can resume it.

At a deadline, on a full disk, or when the same fault repeats, no new work starts, work that has begun is finished, and
the rest becomes rows with the reason.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as Clock
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from models.errors import BadInput
from tasks.manifest import ManifestRef, read_rows

_BUDGET = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

MEGABYTE = 1_000_000

LONGEST_BUDGET = timedelta(days=3650)


def parse_budget(value: Any) -> Any:
    """Parse a length of time such as 2h, 90m, 1h30m or 45s; return any other value unchanged, for pydantic."""
    found = _BUDGET.fullmatch(value.replace(" ", "").lower()) if isinstance(value, str) else None
    if not found:
        return value
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    try:
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError as error:
        raise ValueError("is too long") from error


def check_local_clock(value: Clock | None) -> Clock | None:
    """Return a time of day without a zone unchanged; raises ValueError for one with a zone."""
    if value is not None and value.tzinfo is not None:
        raise ValueError("must be a time of this machine's clock; remove its time zone")
    return value


class NightConfig(BaseModel):
    """The settings that say when a run starts no new work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: Annotated[Clock | None, AfterValidator(check_local_clock)] = Field(
        default=None,
        description="Time of day to stop at, as 06:00, in the schedule's zone where one starts the run; work that has "
        "begun is finished",
    )
    budget: Annotated[timedelta, BeforeValidator(parse_budget)] | None = Field(
        default=None,
        ge=timedelta(0),
        le=LONGEST_BUDGET,
        description="Time to stop after, as 2h or 1h30m; work that has begun is finished",
    )
    same_fault: int = Field(
        default=10, ge=0, description="Stop when this many clips in a row fail with the same fault; 0: never"
    )
    keep_free_mb: int = Field(
        default=500, ge=0, description="Megabytes of disk to keep free; the run stops before less is free"
    )


def read_local_time() -> datetime:
    """Return the local time, with its offset from UTC."""
    return datetime.now().astimezone()


def find_deadline(config: NightConfig, now: datetime, scheduled: datetime | None = None) -> datetime | None:
    """Return the earlier of the end of `budget`, from now, and the first time after `scheduled` (or now) that the clock
    of its zone shows `until`; None without either."""
    ends = [now + config.budget] if config.budget is not None else []
    if config.until is not None:
        start = scheduled or now
        days = (datetime.combine(start + timedelta(days=n), config.until) for n in (0, 1, 2))
        ends.append(next(end for day in days if (end := _place(day, start)).timestamp() > start.timestamp()))
    return min(ends, key=datetime.timestamp, default=None)


def _place(clock: datetime, start: datetime) -> datetime:
    """Return the time at which the clock shows this: of `start`'s zone, or of this machine where that has but an
    offset. The two may differ by an hour in a night that changes to or from daylight saving time."""
    if isinstance(start.tzinfo, ZoneInfo):
        return clock.replace(tzinfo=start.tzinfo)
    return clock.astimezone(start.tzinfo)


def measure_free_disk(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def check_space(
    folder: Path, needed: int, config: NightConfig, free: Callable[[Path], int] = measure_free_disk
) -> None:
    """Raise BadInput where `needed` bytes would leave less disk free than `config` keeps free."""
    there = free(folder)
    if there < needed + config.keep_free_mb * MEGABYTE:
        raise BadInput(
            f"{folder}: about {needed / MEGABYTE:.0f} MB will be written and {config.keep_free_mb} MB stay free, but "
            f"only {there / MEGABYTE:.0f} MB are left. Free some, choose another --out, or lower --keep-free-mb."
        )


@dataclass
class Guard:
    """A guard that says before each piece of work whether it may start, or the `reason` why not, and counts faults.

    `folder` is where the work is written. On a cluster each chunk has its own copy of the guard, so repeated faults are
    counted within a chunk.
    """

    folder: Path
    config: NightConfig
    deadline: datetime | None
    free: Callable[[Path], int] = measure_free_disk
    reason: str | None = None
    _fault: str | None = None
    _times: int = 0
    _broken: bool = False

    def may_start(self, begun: bool = False) -> bool:
        """Say whether work may start; work that finishes what has `begun` may also start after the deadline."""
        if not self._broken and self.free(self.folder) < self.config.keep_free_mb * MEGABYTE:
            self._stop(f"less than {self.config.keep_free_mb} MB are free on the disk of {self.folder}; free some")
        if self.reason is None and self.deadline is not None and read_local_time() >= self.deadline:
            self.reason = f"the time limit was reached at {self.deadline:%H:%M:%S}"
        return not self._broken if begun else self.reason is None

    def saw(self, manifests: Sequence[ManifestRef]) -> None:
        """Count the failed rows of work that was just done."""
        new = (ref for ref in manifests if not ref.cached)
        for row in (row for ref in new for row in read_rows(ref, ("error_code", "error_message"))):
            code = row["error_code"]
            self._times = self._times + 1 if code == self._fault else 1
            self._fault = code
            if code and self.config.same_fault and self._times >= self.config.same_fault and not self._broken:
                self._stop(f"{self._times} clips in a row failed with {code}, the last one: {row['error_message']}")

    def _stop(self, reason: str) -> None:
        self.reason, self._broken = reason, True


def wait(seconds: float, guard: Guard) -> bool:
    """Sleep, at most until the deadline, and say whether work may start after it."""
    left = (guard.deadline - read_local_time()).total_seconds() if guard.deadline else seconds
    time.sleep(max(0.0, min(seconds, left)))
    return guard.may_start()
