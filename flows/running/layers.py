"""Settings in layers, the same for the command line, a file, Prefect's form and Python.

Lowest first: the defaults; what the config itself puts below, as a preset or what a folder was last run with; what is
given. A group of which a part is given keeps its own defaults for the rest. In Prefect's form, a setting that lies over
such a layer has no default: a form sends its defaults, and they would hide the layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, cast

from pydantic import BaseModel, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

Settings = dict[str, Any]

Preset = Callable[[], Mapping[str, Any]]
"""A named set of settings: the fields it sets, as values or as (nested) config objects."""


class LayeredConfig(BaseModel):
    """A config whose settings lie in layers. `last` names the fields that are shown last."""

    last: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return what lies below the settings that are given, lowest first."""
        return ()

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return the settings, dotted, that `list_layers` may set."""
        return set()

    @model_validator(mode="before")
    @classmethod
    def _lie_over(cls, given: Any) -> Any:
        """Lay what is given over the layers below; a config object that is given for a group is whole."""
        if not isinstance(given, Mapping):
            return given
        given = cast(Mapping[str, Any], given)
        whole = {name: value for name, value in given.items() if isinstance(value, BaseModel)}
        below = merge_layers([*cls.list_layers(given), {n: v for n, v in given.items() if n not in whole}])
        defaults = {name: default for name, default in _list_groups(cls) if isinstance(below.get(name), dict)}
        return merge_layers([{name: each.model_dump() for name, each in defaults.items()}, below]) | whole

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of a form: a group shows its own defaults, what is needed stands first, groups last."""
        schema = handler(core_schema)
        own, properties = handler.resolve_ref_schema(schema), dict[str, Any]()
        layered, groups = cls.list_layered(), dict(_list_groups(cls))
        for name in sorted(own["properties"], key=cls._find_place):
            shown = own["properties"][name]
            inner = {path.removeprefix(f"{name}.") for path in layered if path.startswith(f"{name}.")}
            if name in groups:
                shown = _show_group(shown, groups[name], inner, handler)
            elif name in layered:
                shown = {key: value for key, value in shown.items() if key != "default"}
            properties[name] = shown | {"position": len(properties)}
        own["properties"] = properties
        return schema

    @classmethod
    def _find_place(cls, name: str) -> tuple[bool, bool, bool]:
        field = cls.model_fields[name]
        return not field.is_required(), name in dict(_list_groups(cls)), name in cls.last


def find_preset(presets: Mapping[str, Preset], name: Any) -> Mapping[str, Any]:
    """Return the settings of a preset; of a name that is not known, none: its field refuses it."""
    return presets[name]() if isinstance(name, str) and name in presets else {}


def list_preset_leaves(presets: Mapping[str, Preset]) -> set[str]:
    """Return the settings, dotted, that one of the presets sets."""
    return {leaf for preset in presets.values() for leaf in list_leaves(preset())}


def list_leaves(layer: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the settings that a layer sets, dotted."""
    for name, value in layer.items():
        inner = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        if isinstance(inner, Mapping):
            yield from list_leaves(cast(Settings, inner), f"{above}{name}.")
        else:
            yield f"{above}{name}"


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


def read_given(given: Mapping[str, Any], *path: str) -> Any:
    """Return a value that is given, in a group that may be a config object; None where it is not given."""
    value: Any = given
    for name in path:
        inner = value if isinstance(value, Mapping) else dict(value) if isinstance(value, BaseModel) else {}
        value = inner.get(name)
    return value


def _list_groups(config: type[BaseModel]) -> Iterator[tuple[str, BaseModel]]:
    """Yield the fields of a config that are groups, each with its default."""
    for name, field in config.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield name, default


def _show_group(
    shown: Mapping[str, Any], default: BaseModel, layered: set[str], handler: GetJsonSchemaHandler
) -> dict[str, Any]:
    """Return the schema of a group with the defaults that this config gives it, written out in place."""
    reference = shown["allOf"][0] if "allOf" in shown else {"$ref": shown["$ref"]} if "$ref" in shown else shown
    group = deepcopy(handler.resolve_ref_schema(cast(Any, reference)))
    own = default.model_dump(mode="json")
    for name, inner in group["properties"].items():
        if name in layered:
            inner.pop("default", None)
        elif not isinstance(getattr(default, name), BaseModel):
            inner["default"] = own[name]
    return group | {key: value for key, value in shown.items() if key not in ("$ref", "allOf", "default")}
