"""Whose an output folder is: a flow writes only into a folder that is new, empty, or its own.

A folder of an earlier version has no marker. It is known by its settings file and by the lineage of its manifests, and
gets a marker and a ledger of what these name.
"""

import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from flows.running.lock import LOCK
from models.errors import BadInput, BadManifest
from tasks.ledger import ASIDE, LEDGER, MARKER, is_whole, mark, read_marker, record
from tasks.manifest import read_lengths, read_lineage

NAMED_BY_KEY = re.compile(r"[0-9a-f]{32}(\.\d+)?\.\w+")
"""The names of files that are cached by what they depend on."""

SHOWN = ("report/index.html", "run.json", "lora.safetensors", "model", "calibration.json")
"""What a flow writes under a fixed name, besides its settings and tables, and no manifest names."""


def check_claim(folder: Path, flow: str) -> None:
    """Raise BadInput where `flow` may not write into `folder`: it has files of others, or is another flow's."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file. Choose a folder for --out.")
    if os.path.lexists(folder / MARKER):
        _check_marker(folder, flow)
    elif list_others(folder) and not is_earlier(folder, flow):
        raise BadInput(
            f"{folder}: has files that Reelmill did not write, such as {list_others(folder)[0]}. Choose an empty or a "
            "new folder for --out."
        )


def claim(folder: Path, flow: str) -> None:
    """Make `folder`, which exists and is locked, an output folder of `flow`; raises BadInput as `check_claim`."""
    check_claim(folder, flow)
    if (folder / MARKER).exists():
        return
    earlier = list(_list_earlier_files(folder, flow)) if list_others(folder) else []
    mark(folder, flow, version("reelmill"))
    for path in earlier:
        record(path, path)


def list_others(folder: Path) -> list[str]:
    """Return the names in a folder, in order, but for those by which it is locked and marked, and unfinished files."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name not in (LOCK, LEDGER) and not ASIDE.fullmatch(name)]


def is_earlier(folder: Path, flow: str) -> bool:
    """Say whether an earlier version's run of `flow` wrote a folder, by its settings and its manifests' lineage."""
    settings = folder / f"{flow}.yaml"
    if settings.is_symlink() or not settings.is_file():
        return False
    return list_others(folder) == [settings.name] or any(True for _ in _list_manifests(folder))


def _check_marker(folder: Path, flow: str) -> None:
    marker = read_marker(folder)
    if marker is None or not is_whole(folder / MARKER):
        wrong = "cannot be read" if marker is None else "has other bytes than were written"
        raise BadInput(
            f"{folder / MARKER}: {wrong}, so nothing is written here. Restore it from a copy, or choose another --out."
        )
    if marker.flow != flow:
        raise BadInput(f"{folder}: is the output of `reelmill {marker.flow}`. Choose another folder for --out.")


def _list_manifests(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that have the lineage of a step."""
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("manifests/*/*.parquet")]):
        if not path.is_symlink() and _has_lineage(path):
            yield path


def _has_lineage(path: Path) -> bool:
    try:
        return bool(read_lineage(path).step)
    except (BadManifest, ValueError):
        return False


def _list_earlier_files(folder: Path, flow: str) -> Iterator[Path]:
    """Yield the files that an earlier version's run of `flow` left in a folder."""
    shown = [*SHOWN, f"{flow}.yaml", *(["index.html"] if flow == "demo" else [])]
    found = {folder / name for name in shown} | set(_list_manifests(folder))
    found |= {path for path in folder.rglob("*") if NAMED_BY_KEY.fullmatch(path.name)}
    for manifest in _list_manifests(folder):
        try:
            found |= {folder / name for name in read_lengths(manifest)}
        except BadManifest:
            continue
    yield from (path for path in sorted(found) if _is_inside(path, folder) and (path.is_file() or path.is_symlink()))


def _is_inside(path: Path, folder: Path) -> bool:
    """Say whether a path stays in a folder, without links on the way."""
    return path.parent.resolve().is_relative_to(folder.resolve()) and ".." not in path.parts
