"""The base of every flow's config and outcome, and settings as YAML or TOML: read, merged and written."""

import logging
import re
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from flows.running.layers import LayeredConfig, Settings
from models.errors import BadInput
from models.given_files import DEEPEST, LARGEST_BYTES, Unreadable, check_depth, read_text
from tasks.ledger import is_whole
from tasks.limits import Limits

log = logging.getLogger("reelmill")

CALLED_FROM = "# called from "
"""The start of the first line of the settings that a run keeps."""

LARGEST_TOML = 1 << 19
"""Half a megabyte: Python's reader of TOML takes its time."""

MOST_VALUES = 200_000
"""Values in a file of settings, those that its aliases repeat included."""

MOST_PARTS = 32
"""Names in a dotted key of TOML, whose reader takes memory with the square of their number."""

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""

_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MOST_PARTS}}}")


class FlowConfig(LayeredConfig):
    """The base of every flow's config: it is frozen, refuses unknown fields, and says where the work runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    last: ClassVar[tuple[str, ...]] = ("workers", "runner", "limits")

    workers: int | None = Field(
        default=None, ge=1, description="Chunks that run at the same time; by default one for each core."
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        default="threads", description="Where chunks run: threads of this machine, a Dask or a Ray cluster."
    )
    limits: Limits = Field(default_factory=Limits, description="What reading a film or a picture may take.")

    @property
    def gpu(self) -> int | None:
        """Return the number of the GPU that the run works on; None where it works on none."""
        name = self.works_on
        if name is None:
            return None
        from models.device import find_gpu

        return find_gpu(name)

    @property
    def works_on(self) -> str | None:
        """Return the name of the device that the run's networks work on; None where it has none."""
        return getattr(self, "device", None)


class Tally(BaseModel):
    """How many items a run was asked for, and how many of them are done and wait; `said`: why those that are not done
    are not, in a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int
    done: int
    waiting: int = 0
    said: str | None = None


class Outcome(BaseModel):
    """The result of a flow: what it made, and how many items failed; printed as one line for each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int = 0
    tally: Tally | None = Field(default=None, repr=False)

    @property
    def ending(self) -> str | None:
        """Return how the run ended, where not all is done: "27 of 30, 3 failed", or "Waiting, 9 of 24"."""
        if not self.failed:
            return None
        waiting = self.tally.waiting if self.tally else 0
        parts = [f"{self.tally.done} of {self.tally.items}"] if self.tally else []
        parts += [f"{self.failed - waiting} failed"] if self.failed > waiting else []
        return ", ".join(["Waiting", *parts] if waiting else parts)

    @property
    def is_nothing_made(self) -> bool:
        """Say whether items failed and none is done."""
        return self.tally is not None and not self.tally.done and self.failed > self.tally.waiting

    @property
    def exit_code(self) -> int:
        """Return the exit code of the command: 0 all done, 1 some items failed or wait."""
        return int(self.ending is not None)

    def __str__(self) -> str:
        shown = [(name, value) for name, value in self if name != "tally" and (name != "failed" or value)]
        return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in shown)


class Checked(Outcome):
    """What a dry run prints: the settings as a file for `--config`, and each item that would fail as a comment."""

    settings: str
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.settings + "".join(f"# would fail: {' '.join(each.split())}\n" for each in self.problems)


def read_settings(path: Path) -> Settings:
    """Read the settings in a YAML or TOML file; raises BadInput when it is missing, neither, or past any use."""
    toml = path.suffix == ".toml"
    try:
        value = _read_toml(read_text(path, LARGEST_TOML)) if toml else _read_yaml(read_text(path, LARGEST_BYTES))
        check_depth(value)
    except OSError as error:
        raise BadInput(f"{path}: the config file cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        kind = "TOML" if toml else "YAML"
        raise BadInput(f"{path}: not valid {kind}: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict | None):
        raise BadInput(f"{path}: a config file has `name: value` lines, this one has a {type(value).__name__}.")
    return {str(name): inner for name, inner in (value or {}).items()}


def read_written_settings(path: Path) -> Settings:
    """Read the settings that a run wrote into its folder, as `read_settings`; say where they were changed since."""
    if not is_whole(path):
        log.warning("%s: has other bytes than were written. Its settings are used as they stand there now.", path)
    return read_settings(path)


def _read_toml(text: str) -> Any:
    if _LONG_KEY.search(text):
        raise Unreadable(f"it has a key of more than {MOST_PARTS} names")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise Unreadable(f"it is more than {DEEPEST} levels deep") from error


def _read_yaml(text: str) -> Any:
    _check_events(text)
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _check_events(text: str) -> None:
    """Raise Unreadable for YAML that is too deep, contains itself, or has too many values once its aliases stand for
    what they repeat."""
    sizes: dict[str, int] = {}
    open_groups = [("", 0)]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        anchor, size = getattr(event, "anchor", None) or "", 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_groups.append((anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_groups.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes and any(anchor == name for name, _ in open_groups):
                raise Unreadable(f"what the anchor {anchor} names contains itself")
            size = sizes.get(anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        name, before = open_groups[-1]
        open_groups[-1] = (name, before + size)
        sizes |= {anchor: size} if anchor and size else {}
        if before + size > MOST_VALUES:
            raise Unreadable(f"it has more than {MOST_VALUES} values")
        if len(open_groups) > DEEPEST:
            raise Unreadable(f"it is more than {DEEPEST} levels deep")


def dump(config: BaseModel) -> str:
    """Format the resolved configuration as YAML for `--config`."""
    settings = config.model_dump(mode="json")
    return yaml.safe_dump(
        {name: settings[name] for name in order_fields(type(config))}, sort_keys=False, allow_unicode=True, width=120
    )


def dump_kept(config: BaseModel) -> str:
    """Format the configuration as a run keeps it: as YAML, with the folder that its relative paths start from."""
    return f"{CALLED_FROM}{Path.cwd()}\n{dump(config)}"


def read_calling_folder(file: Path) -> Path:
    """Return the folder that relative paths in kept settings start from, else the current one."""
    first, *_ = file.read_text(encoding="utf-8").split("\n")
    folder = Path(first.removeprefix(CALLED_FROM))
    return folder if first.startswith(CALLED_FROM) and folder.is_dir() else Path.cwd()


def order_fields(config: type[BaseModel]) -> list[str]:
    """List a config's own fields, then those that every flow has."""
    return sorted(config.model_fields, key=lambda name: name in FlowConfig.model_fields)
