"""What an output folder holds: its state, its failures, another attempt at those, and its page."""

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from flows.command.flags import validated
from flows.command.main import COMMANDS, Command, interface
from flows.running.config import Outcome, called_from, read_settings
from flows.running.lock import holder
from models.errors import BadInput
from tasks.caching import set_aside
from tasks.manifest import column_names, manifest_ref, read_manifest, read_rows

REASONS = ("error_message", "error")
"""Columns that say why an item failed."""

PUT_OFF, DUPLICATE = "waiting", "duplicate"
"""States of items that are not done and did not fail."""

NAMES = ("job", "source", "clip_id", "name", "picture")
"""Columns that name an item, the first that is there. Jobs have numbers, for many may have a picture in common."""


class ResultsConfig(BaseModel):
    """Which output folder is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="A folder that a flow wrote: a dataset, a training run, generated videos.")


class StatusOutcome(Outcome):
    """A folder's flow, who works in it, its steps' manifests, and its tables with their failures."""

    path: Path
    flow: str
    at_work: str | None
    steps: dict[str, str]
    tables: dict[str, str]
    waiting: int = 0
    failures: tuple[str, ...]

    def __str__(self) -> str:
        state = f"at work (process {self.at_work})" if self.at_work else "nobody at work"
        steps = [f"  {name:<10} {text}" for name, text in self.steps.items()]
        tables = [f"{name}: {text}" for name, text in self.tables.items()] or ["no table yet: the same command goes on"]
        waiting = [f"{self.waiting} wait: the same command goes on"] if self.waiting else []
        failures = map("  {}".format, self.failures)
        return "\n".join([f"{self.path}: {self.flow}, {state}", *steps, *tables, *waiting, *failures])


class RetryOutcome(Outcome):
    """What the flow said after what had failed was taken up again: so many items, as clips or files."""

    retried: int
    result: str

    def __str__(self) -> str:
        return f"retried: {self.retried}\n{self.result}" if self.retried else self.result


class ReportOutcome(Outcome):
    """Where the page is."""

    page: Path


def status(config: ResultsConfig) -> StatusOutcome:
    """What is done in a folder, what failed and why."""
    path = config.path
    flows = commands_of(path)
    tables = {table.name: _described(table) for table in sorted(path.glob("[!.]*.parquet"))}
    failures = [failure for table in sorted(path.glob("[!.]*.parquet")) for failure in failures_in(table)]
    waiting = sum(states_in(table)[PUT_OFF] for table in path.glob("[!.]*.parquet"))
    return StatusOutcome(
        failed=len(failures) + waiting,
        waiting=waiting,
        path=path,
        flow=" and ".join(command.name for command in flows),
        at_work=holder(path),
        steps=_steps(path),
        tables=tables,
        failures=tuple(failures),
    )


def retry(config: ResultsConfig) -> RetryOutcome:
    """Set the manifests with failed rows aside, and run the folder's flow again; all else is found."""
    from flows.running.run import exclusive, run_flow

    command, path = commands_of(config.path)[-1], config.path.resolve()
    failed = failed_manifests(path)
    items = items_to_retry(path, failed)
    if not failed and not items:
        return RetryOutcome(retried=0, result=f"{config.path}: nothing failed.")
    module = importlib.import_module(command.module)
    with chdir(called_from(path / f"{command.name}.yaml")):
        settings = kept_settings(path, command, module)
        with exclusive(path), out_of_the_cache(failed):
            result: Outcome = run_flow(getattr(module, command.flow), settings)
    return RetryOutcome(failed=result.failed, retried=items, result=str(result))


def kept_settings(path: Path, command: Command, module: ModuleType) -> BaseModel:
    """What a command was run with in a folder, which may have moved since; raises BadInput where that is broken."""
    file = path / f"{command.name}.yaml"
    settings = read_settings(file)
    moved = {"out": path} if "out" in settings else {}
    return validated(interface(command, module), [settings, moved, {}], file)


@contextmanager
def out_of_the_cache(manifests: Iterable[Path]) -> Iterator[None]:
    """Manifests set aside for the length of a block; those that were not made again are back where it was broken off,
    so that what failed is still known."""
    aside = {path: set_aside(path) for path in manifests}
    try:
        yield
    except BaseException:
        for path, place in aside.items():
            if not path.exists():
                place.rename(path)
        raise


def report(config: ResultsConfig) -> ReportOutcome:
    """Write the page of a dataset, or of generated videos, from the tables as they are now."""
    from tasks.curate.report import ReportConfig, write_report
    from tasks.generate.gallery import write_gallery

    path = config.path
    if (path / "clips.parquet").is_file():
        settings = read_settings(path / "curate.yaml").get("report", {}) if (path / "curate.yaml").is_file() else {}
        page = write_report.fn(path, ReportConfig.model_validate(settings), manifest_ref(path / "clips.parquet"))
    elif (path / "outputs.parquet").is_file():
        page = write_gallery.fn(path, manifest_ref(path / "outputs.parquet"))
    else:
        raise BadInput(f"{path}: nothing to show, it has neither clips.parquet nor outputs.parquet.")
    return ReportOutcome(page=page)


def commands_of(path: Path) -> list[Command]:
    """The commands that wrote into `path`, the last one last; raises BadInput when none did."""
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder. Name one that a command wrote with --out.")
    written = [(path / f"{command.name}.yaml", command) for command in COMMANDS]
    known = [(file.stat().st_mtime_ns, command) for file, command in written if file.is_file()]
    if not known:
        raise BadInput(f"{path}: no output folder, it has no settings of a command in it.")
    return [command for _, command in sorted(known, key=lambda pair: pair[0])]


def failed_manifests(path: Path) -> list[Path]:
    """The steps' manifests in which a row failed."""
    return [file for file in sorted(path.glob("manifests/*/[!.]*.parquet")) if _codes(file)]


def items_to_retry(path: Path, manifests: Iterable[Path]) -> int:
    """How many clips of a table of outputs are not done; elsewhere, how many rows of the manifests failed."""
    outputs = path / "outputs.parquet"
    if outputs.is_file():
        states = states_in(outputs)
        return states["failed"] + states[PUT_OFF]
    return sum(len(_codes(manifest)) for manifest in manifests)


def states_in(table: Path) -> Counter[str]:
    """How many rows of a table are in which state; none where it has no states."""
    if "status" not in column_names(table):
        return Counter()
    return Counter(row["status"] for row in read_rows(table, ("status",)))


def failures_in(table: Path) -> list[str]:
    """A line for each failed row of a table: the item and the reason. What waits, or is there twice, did not fail."""
    columns = column_names(table)
    reason = next((name for name in REASONS if name in columns), None)
    item = next((name for name in NAMES if name in columns), None)
    if reason is None:
        return []
    state = ["status"] if "status" in columns else []
    rows = read_rows(table, (reason, *([item] if item else []), *state))
    return [_line(row, item, reason) for row in rows if row[reason] and row.get("status") not in (PUT_OFF, DUPLICATE)]


def _line(row: dict[str, Any], item: str | None, reason: str) -> str:
    if item == "job":
        return f"job {row[item]}: {row[reason]}"
    named = str(row[item]) if item and row[item] else ""
    return row[reason] if named in row[reason] else f"{named}: {row[reason]}"


def _codes(manifest: Path) -> list[str]:
    """The error codes of a manifest's rows that failed: not of those that are there twice."""
    if "error_code" not in column_names(manifest):
        return []
    codes = read_manifest(manifest, ("error_code",))["error_code"].to_pylist()
    return [code for code in codes if code not in (None, DUPLICATE)]


def _steps(path: Path) -> dict[str, str]:
    manifests = sorted(path.glob("manifests/*/[!.]*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    made = Counter(file.parent.name for file in manifests)
    failed: Counter[str] = Counter()
    for file in manifests:
        failed[file.parent.name] += len(_codes(file)) if file.parent.name != PUT_OFF else 0
    return {
        name: f"{count} manifest{'s' if count > 1 else ''}" + (f", {failed[name]} failed rows" if failed[name] else "")
        for name, count in made.items()
    }


def _described(table: Path) -> str:
    columns = column_names(table)
    rows = pq.read_metadata(table).num_rows
    if "keep" in columns:
        return f"{rows} rows, {sum(row['keep'] for row in read_rows(table, ('keep',)))} kept"
    states = ", ".join(f"{count} {state}" for state, count in sorted(states_in(table).items()))
    return f"{rows} rows{f': {states}' if states else ''}"
