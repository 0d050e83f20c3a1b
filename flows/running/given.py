"""What this user gave: the files, folders and servers that a run's settings name are known outside of its folder, so
that those which a stranger wrote into it are told from them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from tasks.ledger import read_marker
from tasks.manifest import publish_json
from tasks.user_state import locate_state


def keep_given(folder: Path, flow: str, settings: BaseModel) -> None:
    """Note in the user's own state what the settings name with which this user ran `flow` in a folder."""
    marker = read_marker(folder)
    if marker is not None:
        with suppress(OSError):  # Where the user has no place for it, a folder counts as a stranger's.
            publish_json(locate_state(marker, f"{flow}.given"), sorted({*list_places(settings)}))


def list_not_given(folder: Path, flow: str, settings: BaseModel) -> list[str]:
    """Return what settings of a folder name that this user did not give when running `flow` there."""
    marker, given = read_marker(folder), list[str]()
    if marker is not None:
        with suppress(OSError, ValueError):
            given = json.loads(locate_state(marker, f"{flow}.given").read_text(encoding="utf-8"))
    return [place for place in list_places(settings) if place not in given]


def list_places(settings: BaseModel) -> Iterator[str]:
    """Yield what settings name outside of their folder, but for defaults: sources, files, folders, servers, keys."""
    for name, field in type(settings).model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        if name == "out" or value == (default.expanduser() if isinstance(default, Path) else default):
            continue
        if isinstance(value, BaseModel):
            yield from list_places(value)
        elif name == "sources" and isinstance(value, tuple):
            yield from map(str, value)
        elif value == "endpoint":
            yield f"the server {dict(settings)['endpoint'].base_url}"
        elif name == "key_env":
            yield f"the key {value}"
        elif isinstance(value, Path) or (isinstance(value, str) and (Path(value).is_absolute() or _exists(value))):
            yield str(value)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # A text too long, or with a zero, for a path.
        return False
