"""What a config declares, in words that a test writes down: a bound or a default that is lost is then seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt", MinLen: "min_length", MaxLen: "max_length"}
GENERAL = ("pattern", "allow_inf_nan")


def declared(config: type[BaseModel]) -> dict[str, str]:
    """Return each setting of a config with its default and bounds, and under "" how strict the config is.

    `steps: int = Field(default=15, ge=1)` is {"steps": "15, ge=1"}; settings that are inherited are their owner's.
    """
    inherited = {name for base in config.__mro__[1:] if issubclass(base, BaseModel) for name in base.model_fields}
    own = {name: _field(field) for name, field in config.model_fields.items() if name not in inherited}
    return {"": ", ".join(f"{name}={value!r}" for name, value in config.model_config.items())} | own


def _field(field: FieldInfo) -> str:
    default = "required" if field.is_required() else _said(field.get_default(call_default_factory=True))
    return ", ".join([default, *_bounds(field.metadata), *_inner(field.annotation)])


def _bounds(metadata: Any) -> Iterator[str]:
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _bounds(each.metadata)
        elif type(each) in BOUNDS:
            name = BOUNDS[type(each)]
            yield f"{name}={getattr(each, name)}"
        else:
            yield from (f"{name}={getattr(each, name)!r}" for name in GENERAL if getattr(each, name, None) is not None)


def _inner(annotation: Any) -> Iterator[str]:
    """Yield the bounds of what a setting holds, as of each number of a tuple."""
    if get_origin(annotation) is Annotated:
        yield from _bounds(annotation.__metadata__)
    for part in get_args(annotation):
        yield from _inner(part)


def _said(value: Any) -> str:
    """Return a default as it is written: of a config, what is given to it."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_said, value))})"
    if isinstance(value, BaseModel):
        given = (f"{name}={_said(inner)}" for name, inner in value if name in value.model_fields_set)
        return f"{type(value).__name__}({', '.join(given)})"
    return str(value) if isinstance(value, Path) else repr(value)
