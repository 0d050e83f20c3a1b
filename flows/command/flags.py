"""From a flow's config class to its command line: flags and a file of settings, for the same fields.

Precedence, lowest first: the layers of flows/running/layers.py, a file, flags. pydantic-settings makes the flags, each
dotted and in kebab case, one for a field (`--split.min-clip-s 1.5`). Every mistake raises BadInput with one sentence.
"""

import difflib
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from flows.command.help_table import describe_parser, wrap_help
from flows.running.config import order_fields, read_settings
from flows.running.layers import Settings, merge_layers
from models.errors import BadInput

NAMED_SETTINGS = ("preset", "recipe")
"""The fields that name a set of settings."""


@dataclass(frozen=True)
class Interface:
    """The command line of a config class.

    `positional` is the field given without a flag, if there is one. `shortcuts` maps dotted fields to extra flags.
    """

    prog: str
    config: type[BaseModel]
    positional: str | None = None
    shortcuts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Invocation:
    """A parsed command line."""

    config: BaseModel
    dry_run: bool = False
    debug: bool = False


def parse_command_line(interface: Interface, argv: Sequence[str]) -> Invocation:
    """Parse a command line; raises BadInput with one sentence, or SystemExit(0) after `--help`."""
    flags = _parse_flags(interface, argv)
    file, dry_run, debug = flags.pop("config", None), flags.pop("dry_run", False), flags.pop("debug", False)
    layers = [read_settings(Path(file)) if file else {}, flags]
    config = validate_layers(interface, layers, Path(file) if file else None)
    return Invocation(config, dry_run=dry_run, debug=debug)


def validate_layers(interface: Interface, layers: Sequence[Mapping[str, Any]], file: Path | None) -> BaseModel:
    """Return the config object of merged layers, the last are the flags; raises BadInput for the first error."""
    try:
        return interface.config.model_validate(merge_layers(layers))
    except ValidationError as error:
        raise BadInput(_explain_error(interface, error.errors()[0], layers[-1], file)) from error


def list_options(config: type[BaseModel], prefix: str = "") -> list[str]:
    """List every field of a config and of its nested configs, dotted: `out`, `split.min_clip_s`."""
    names: list[str] = []
    for name, info in config.model_fields.items():
        inner = info.annotation
        is_group = isinstance(inner, type) and issubclass(inner, BaseModel)
        names += list_options(inner, f"{prefix}{name}.") if is_group else [f"{prefix}{name}"]  # pyright: ignore[reportArgumentType]
    return names


class _Parser(ArgumentParser):
    def format_help(self) -> str:
        return wrap_help(describe_parser(self))

    def error(self, message: str) -> NoReturn:
        command = f"See `{self.prog} --help`."
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise BadInput(f"{message[0].upper()}{message[1:].rstrip('.')}. {command}")
        flag = unknown.split()[0].split("=")[0]
        close = find_nearest(flag, self._option_string_actions)
        raise BadInput(f"Unknown option {flag}{f': did you mean {close}?' if close else '.'} {command}")


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` probably means: the closest one, or one with a similar last part, else None."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    leaf = name.lstrip("-").rpartition(".")[2]
    leaves = {n.lstrip("-").rpartition(".")[2]: n for n in names}
    alike = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    return close[0] if close else leaves[alike[0]] if alike else None


def make_parser(interface: Interface) -> ArgumentParser:
    """Return the parser of a command's flags, with the help of each."""
    return _make_parser(interface)[0]


def _make_parser(interface: Interface) -> tuple[_Parser, CliSettingsSource[BaseSettings]]:
    """Return the parser, and the source that turns what it finds into nested settings."""
    parser = _Parser(prog=interface.prog, description=interface.config.__doc__, allow_abbrev=False)
    if place := interface.positional:
        about = interface.config.model_fields[place].description
        parser.add_argument(place, nargs="*" if _is_many(interface) else "?", metavar=_shout(interface), help=about)
    source = CliSettingsSource(
        _make_arguments(interface),
        cli_prog_name=interface.prog,
        root_parser=parser,
        parse_args_method=ArgumentParser.parse_intermixed_args,
        cli_parse_none_str="none",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_use_class_docs_for_groups=True,
        cli_shortcuts=interface.shortcuts,
        formatter_class=parser.formatter_class,
    )
    _tidy(parser, interface)
    return parser, source


def _parse_flags(interface: Interface, argv: Sequence[str]) -> Settings:
    """Return what the command line sets, nested; the config's own types convert strings."""
    parser, source = _make_parser(interface)
    place = interface.positional
    namespace = parser.parse_intermixed_args(list(argv))
    given = {place: vars(namespace).pop(place)} if place else {}
    try:
        flags = dict(source(parsed_args=namespace)())
    except SettingsError as error:
        raise BadInput(f"A list or group could not be read: {error}. See `{interface.prog} --help`.") from error
    return flags | {name: value for name, value in given.items() if value}


def _make_arguments(interface: Interface) -> type[BaseSettings]:
    """Return the config's fields except the positional one, and the options that every command has."""
    known = interface.config.model_fields
    names = [name for name in order_fields(interface.config) if name != interface.positional]
    fields: dict[str, Any] = {name: (known[name].annotation, known[name]) for name in names}
    for name, annotation, text in SHARED:
        if name in fields:
            raise TypeError(f"{interface.config.__name__}.{name} hides the option --{name} that every command has.")
        fields[name] = (annotation, Field(default=False if annotation is bool else None, description=text))
    return create_model("Arguments", __base__=BaseSettings, __config__=None, **fields)


SHARED: tuple[tuple[str, Any, str], ...] = (
    ("config", Path | None, "YAML or TOML file with any of these settings."),
    ("dry_run", bool, "Check, print the resolved settings or the plan, and stop."),
    ("debug", bool, "Show tracebacks and every log line."),
)
"""The options that every command has."""


def _tidy(parser: _Parser, interface: Interface) -> None:
    """Remove from the help what is of no use: empty defaults, `--no-` forms outside the flag's column, a long usage."""
    required = [n for n, info in interface.config.model_fields.items() if info.is_required()]
    flags = "".join(f" --{n.replace('_', '-')} {n.upper()}" for n in required if n != interface.positional)
    first = f" {_shout(interface)}" if interface.positional else ""
    parser.usage = f"{interface.prog}{first}{'...' if _is_many(interface) else ''}{flags} [options]"
    for action in parser._actions:
        if action.help:
            action.help = action.help.removesuffix(" (default: none)").removesuffix(" (default: False)")


def _is_many(interface: Interface) -> bool:
    place = interface.positional
    return place is not None and get_origin(interface.config.model_fields[place].annotation) in (tuple, list)


def _shout(interface: Interface) -> str:
    name = (interface.positional or "").upper()
    return name.removesuffix("S") if _is_many(interface) else name


def _explain_unknown_name(name: str, error: ErrorDetails, interface: Interface) -> str:
    known = list_names(interface.config, name)
    close = find_nearest(str(error["input"]), known)
    hint = f": did you mean {close}?" if close else "."
    return f"Unknown {name} '{error['input']}'{hint} Known: {', '.join(known)}."


def list_names(config: type[BaseModel], name: str) -> list[str]:
    """List the words that a field may have, which is one of a set of names or none."""
    annotation = config.model_fields[name].annotation
    parts = [part for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal]
    return [str(word) for part in parts for word in get_args(part)]


def _explain_error(interface: Interface, error: ErrorDetails, flags: Mapping[str, Any], file: Path | None) -> str:
    place = [str(part) for part in error["loc"] if not isinstance(part, int)]
    name = ".".join(place)
    if error["type"] == "missing":
        return _explain_missing(interface, name) if isinstance(error["loc"][-1], str) else _explain_too_few(name, error)
    if error["type"] == "literal_error" and name in NAMED_SETTINGS:
        return _explain_unknown_name(name, error, interface)
    if error["type"] == "extra_forbidden":
        close = find_nearest(name, list_options(interface.config))
        return f"{file or interface.prog}: unknown setting '{name}'{f': did you mean {close!r}?' if close else '.'}"
    from_flags = _reaches(flags, place)
    what = f"--{name.replace('_', '-')}" if from_flags and name != interface.positional else name
    where = "" if from_flags or file is None else f"{file}: "
    reason = error["msg"].removeprefix("Value error, ").rstrip(".")
    given = "" if isinstance(error["input"], Mapping) else f", not {error['input']!r}"
    return f"{where}{what}: {reason[0].lower()}{reason[1:]}{given}."


def _explain_missing(interface: Interface, name: str) -> str:
    asked = _shout(interface) if name == interface.positional else None
    flag = f"--{name.replace('_', '-')} {name.rpartition('.')[2].upper()}"
    return f"{asked or flag} is missing. See `{interface.prog} --help`."


def _explain_too_few(name: str, error: ErrorDetails) -> str:
    """Return the message for a value of several parts that lacks some."""
    given = ",".join(map(str, error["input"]))
    return f"--{name.replace('_', '-')}: {given} has too few values; give all of them, separated by commas."


def _reaches(flags: Mapping[str, Any], place: Sequence[str]) -> bool:
    inner: Any = flags
    for part in place:
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        inner = inner[part]
    return True
