"""The base of every flow's config and outcome, and settings as YAML or TOML: read, merged and written."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadInput
from tasks.limits import Limits

Settings = dict[str, Any]

CALLED_FROM = "# called from "
"""The start of the first line of the settings that a run keeps."""


class FlowConfig(BaseModel):
    """The base of every flow's config: it is frozen, refuses unknown fields, and says where the work runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(
        default=None, ge=1, description="Chunks that run at the same time; by default one for each core."
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        default="threads", description="Where chunks run: threads of this machine, a Dask or a Ray cluster."
    )
    limits: Limits = Field(default_factory=Limits, description="What reading a film or a picture may take.")


class Outcome(BaseModel):
    """The result of a flow: what it made, and how many items failed; printed as one line for each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int = 0

    def __str__(self) -> str:
        fields = [(name, value) for name, value in self if name != "failed" or value]
        return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in fields)


class Checked(Outcome):
    """What a dry run prints: the settings as a file for `--config`, and each item that would fail as a comment."""

    settings: str
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.settings + "".join(f"# would fail: {' '.join(each.split())}\n" for each in self.problems)


def read_settings(path: Path) -> Settings:
    """Read the settings in a YAML or TOML file; raises BadInput when it is missing or neither."""
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"{path}: the config file cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "YAML"
        raise BadInput(f"{path}: not valid {kind}: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict | None):
        raise BadInput(f"{path}: a config file has `name: value` lines, this one has a {type(value).__name__}.")
    return {str(name): inner for name, inner in (value or {}).items()}


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


def merge_layers(layers: Iterable[Mapping[str, Any]]) -> Settings:
    """Merge settings: later layers replace earlier ones, and nested groups are merged."""
    result: Settings = {}
    for layer in layers:
        for name, value in layer.items():
            above = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            below = result.get(name)
            both = isinstance(above, Mapping) and isinstance(below, Mapping)
            result[name] = merge_layers([cast(Settings, below), cast(Settings, above)]) if both else above
    return result
