"""Settings that nobody gave on this machine are data, not instruction: they may name no server, no key, and no file or
folder but sources whose bytes are those that were curated."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.running.given import list_not_given
from models.errors import BadInput, BadMedia
from tasks.curate.source_fetch import is_url
from tasks.further_columns import COLUMN as FURTHER
from tasks.manifest import read_rows
from tasks.source_files import digest_source


def take_as_data(folder: Path, flow: str, settings: BaseModel) -> BaseModel:
    """Return the settings that stand in a folder, with the sources that were curated where they name any that this user
    did not give. Raises BadInput where they name anything else that was not given, or a source has other bytes now."""
    has_sources = isinstance(getattr(settings, "sources", None), tuple)
    others = settings.model_copy(update={"sources": ()}) if has_sources else settings
    if not_given := list_not_given(folder, flow, others):
        raise _refuse(folder, flow, f"name {not_given[0]}")
    if not list_not_given(folder, flow, settings):
        return settings
    return settings.model_copy(update={"sources": tuple(_list_recorded_sources(folder, flow))})


def _list_recorded_sources(folder: Path, flow: str) -> Iterator[str]:
    if not (folder / "videos.parquet").is_file():
        raise _refuse(folder, flow, "name sources")
    for row in read_rows(folder / "videos.parquet"):
        if not _is_as_recorded(folder, row):
            raise _refuse(folder, flow, f"name {row['source']}, which is not a file as it was curated")
        yield row["source"]


def _is_as_recorded(folder: Path, row: Mapping[str, Any]) -> bool:
    """Say whether a source is a file of this machine with the bytes that were curated: nobody knows their digest who
    never had them."""
    if is_url(row["source"]) or not row["path"] or row.get(FURTHER):
        return False
    try:
        return digest_source(folder, Path(row["path"]))[1] == row["digest"]
    except BadMedia:
        return False


def _refuse(folder: Path, flow: str, named: str) -> BadInput:
    return BadInput(
        f"{folder}: its settings were not given by you on this machine, and they {named}. If you trust them, give them "
        f"yourself: `reelmill {flow} --config {folder / flow}.yaml --out {folder}`."
    )
