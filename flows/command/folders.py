"""The commands on an output folder: its state and failures, another attempt at what failed, and its page."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from flows.command.flags import validate_layers
from flows.command.foreign_settings import take_as_data
from flows.command.main import COMMANDS, Command, make_interface
from flows.running.config import Outcome, read_calling_folder, read_settings
from flows.running.failures import DUPLICATE, PUT_OFF, count_states, list_failures, list_tables
from flows.running.lock import find_holder
from models.errors import BadInput
from tasks.caching import set_aside
from tasks.ledger import move
from tasks.manifest import ManifestRef, read_column_names, read_manifest, read_manifest_ref, read_rows

COPIES = (PUT_OFF, "drawn")
"""The steps whose rows repeat what others say of their items."""

IDENTITIES = ("job", "source", "clip_id", "item_key", "video_id", "drawing")
"""The columns that tell items of a step apart; the first that a manifest has is used."""


class ResultsConfig(BaseModel):
    """The choice of an output folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="A folder that a flow wrote: a dataset, a training run, generated videos.")


class StatusOutcome(Outcome):
    """A folder's flow, the process that works in it, its steps' manifests, and its tables with their failures."""

    path: Path
    flow: str
    at_work: str | None
    steps: dict[str, str]
    tables: dict[str, str]
    waiting: int = 0
    failures: tuple[str, ...]

    def __str__(self) -> str:
        state = f"running (process {self.at_work})" if self.at_work else "idle"
        steps = [f"  {name:<10} {text}" for name, text in self.steps.items()]
        tables = [f"{name}: {text}" for name, text in self.tables.items()] or [
            "no table yet: run the same command to resume"
        ]
        waiting = [f"{self.waiting} pending: run the same command to resume"] if self.waiting else []
        failures = map("  {}".format, self.failures)
        return "\n".join([f"{self.path}: {self.flow}, {state}", *steps, *tables, *waiting, *failures])


class RetryOutcome(Outcome):
    """The number of failed items that were tried again, such as clips or files, and the flow's own result."""

    retried: int
    result: str

    def __str__(self) -> str:
        return f"retried: {self.retried}\n{self.result}" if self.retried else self.result


class ReportOutcome(Outcome):
    """The path of the page."""

    page: Path


def status(config: ResultsConfig) -> StatusOutcome:
    """Describe what is done in a folder, what failed and why."""
    path = config.path
    flows = find_commands(path)
    tables = {table.name: _describe_table(table) for table in list_tables(path)}
    failures = tuple(dict.fromkeys(str(each) for table in list_tables(path) for each in list_failures(table)))
    waiting = sum(count_states(table)[PUT_OFF] for table in list_tables(path))
    return StatusOutcome(
        failed=len(failures) + waiting,
        waiting=waiting,
        path=path,
        flow=" and ".join(command.name for command in flows),
        at_work=find_holder(path),
        steps=_describe_steps(path),
        tables=tables,
        failures=failures,
    )


def retry(config: ResultsConfig) -> RetryOutcome:
    """Set the manifests with failed rows aside, and run the folder's flow again; everything else is found."""
    from flows.running.run import exclusive, run_flow

    command, path = find_commands(config.path)[-1], config.path.resolve()
    with exclusive(path):
        restore_set_aside(path)
        failed = list_failed_manifests(path)
        items = count_items_to_retry(path, failed)
        if not failed and not items:
            return RetryOutcome(retried=0, result=f"{config.path}: nothing failed.")
        module = importlib.import_module(command.module)
        with chdir(read_calling_folder(path / f"{command.name}.yaml")):
            settings = take_as_data(path, command.name, read_kept_settings(path, command, module))
            with out_of_the_cache(failed):
                result: Outcome = run_flow(getattr(module, command.flow), settings)
    return RetryOutcome(failed=result.failed, retried=items, result=str(result))


def check_retry(config: ResultsConfig) -> list[str]:
    """Return nothing: what fails again is known when it is tried. Raises BadInput where nothing can be run again."""
    command, path = find_commands(config.path)[-1], config.path.resolve()
    read_kept_settings(path, command, importlib.import_module(command.module))
    return []


def read_kept_settings(path: Path, command: Command, module: ModuleType) -> BaseModel:
    """Read the settings of a command's run in a folder, which may have moved; raises BadInput when they are wrong."""
    file = path / f"{command.name}.yaml"
    settings = read_settings(file)
    moved = {"out": path} if "out" in settings else {}
    return validate_layers(make_interface(command, module), [settings, moved, {}], file)


@contextmanager
def out_of_the_cache(manifests: Iterable[Path]) -> Iterator[None]:
    """Set manifests aside during a block; when it is interrupted, restore those that were not made again, so that the
    failures are still known."""
    aside = {path: set_aside(path) for path in manifests}
    try:
        yield
    except BaseException:
        for path, place in aside.items():
            if not path.exists():
                move(place, path)
        raise


def restore_set_aside(path: Path) -> None:
    """Restore the failed manifests that an earlier retry set aside and, killed, did not make again."""
    aside = sorted(path.glob("manifests/*/[!.]*.failed"), key=_read_attempt)
    latest = {file.with_suffix("").with_suffix(".parquet"): file for file in aside}
    for manifest, file in latest.items():
        if not manifest.exists():
            move(file, manifest)


def _read_attempt(file: Path) -> int:
    number = file.with_suffix("").suffix.removeprefix(".")
    return int(number) if number.isdecimal() else 0


def report(config: ResultsConfig) -> ReportOutcome:
    """Write the page of a dataset, or of generated videos, from the tables as they are now."""
    from tasks.curate.report import ReportConfig, write_report
    from tasks.generate.gallery import write_gallery

    path, table = config.path, find_shown_table(config.path)
    if table.path.name == "outputs.parquet":
        return ReportOutcome(page=write_gallery.fn(path, table))
    settings = read_settings(path / "curate.yaml").get("report", {}) if (path / "curate.yaml").is_file() else {}
    return ReportOutcome(page=write_report.fn(path, ReportConfig.model_validate(settings), table))


def check_report(config: ResultsConfig) -> list[str]:
    """Return nothing; raises BadInput or BadManifest where there is nothing to show."""
    find_shown_table(config.path)
    return []


def find_shown_table(path: Path) -> ManifestRef:
    """Return the table that a folder's page shows; raises BadInput when it has none."""
    tables = (path / "clips.parquet", path / "outputs.parquet")
    for table in tables:
        if table.is_file():
            return read_manifest_ref(table)
    raise BadInput(
        f"{path}: nothing to show, it has neither clips.parquet nor outputs.parquet. Name a dataset or a folder of "
        "generated videos."
    )


def find_commands(path: Path) -> list[Command]:
    """Return the commands that wrote into `path`, the latest last; raises BadInput when none did."""
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder. Name one that a command wrote with --out.")
    written = [(path / f"{command.name}.yaml", command) for command in COMMANDS]
    known = [(file.stat().st_mtime_ns, command) for file, command in written if file.is_file()]
    if not known:
        raise BadInput(
            f"{path}: not an output folder, it has no settings of a command. Name one that a command wrote with --out."
        )
    return [command for _, command in sorted(known, key=lambda pair: pair[0])]


def list_failed_manifests(path: Path) -> list[Path]:
    """List the steps' manifests in which a row failed."""
    return [file for file in sorted(path.glob("manifests/*/[!.]*.parquet")) if _read_error_codes(file)]


def count_items_to_retry(path: Path, manifests: Iterable[Path]) -> int:
    """Return how many clips of a table of outputs are not done; in other folders, how many rows of manifests failed."""
    outputs = path / "outputs.parquet"
    if outputs.is_file():
        states = count_states(outputs)
        return states["failed"] + states[PUT_OFF]
    return sum(len(_read_error_codes(manifest)) for manifest in manifests)


def _read_error_codes(manifest: Path) -> list[str]:
    """Return the error codes of a manifest's failed rows; duplicates are not failures."""
    if "error_code" not in read_column_names(manifest):
        return []
    codes = read_manifest(manifest, ("error_code",))["error_code"].to_pylist()
    return [code for code in codes if code not in (None, DUPLICATE)]


def _describe_steps(path: Path) -> dict[str, str]:
    manifests: dict[str, list[Path]] = {}
    for file in sorted(path.glob("manifests/*/[!.]*.parquet"), key=lambda file: file.stat().st_mtime_ns):
        manifests.setdefault(file.parent.name, []).append(file)
    failed = {name: 0 if name in COPIES else _count_failures(files) for name, files in manifests.items()}
    return {
        name: f"{len(files)} manifest{'s' if len(files) > 1 else ''}"
        + (f", {failed[name]} failed rows" if failed[name] else "")
        for name, files in manifests.items()
    }


def _count_failures(manifests: Sequence[Path]) -> int:
    """Count the items that failed by a step's manifests, the latest last: each item once, by the last that lists it. A
    list of jobs replaces the one before."""
    last: dict[Any, str | None] = {}
    for file in manifests:
        columns = read_column_names(file)
        item = next((name for name in IDENTITIES if name in columns), None)
        if item is None or "error_code" not in columns:
            continue
        if item == "job":
            last.clear()
        beside = ("take",) if "take" in columns else ()
        for row in read_rows(file, (item, *beside, "error_code")):
            last[row[item], row.get("take")] = row["error_code"]
    return sum(code not in (None, DUPLICATE) for code in last.values())


def _describe_table(table: Path) -> str:
    columns = read_column_names(table)
    rows = pq.read_metadata(table).num_rows
    if "keep" in columns:
        return f"{rows} rows, {sum(row['keep'] for row in read_rows(table, ('keep',)))} kept"
    states = ", ".join(f"{count} {state}" for state, count in sorted(count_states(table).items()))
    return f"{rows} rows{f': {states}' if states else ''}"
