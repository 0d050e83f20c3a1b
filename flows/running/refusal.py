"""What a run is refused for before any work, and the folder that a refused run leaves behind: none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from flows.running.claim import check_claim
from flows.running.config import FlowConfig
from flows.running.lock import find_holder, make_busy_error
from models.errors import BadInput, ReelmillError

PREPARED = ("manifests/jobs/", "pictures/")
"""Where a run keeps what it read before it may still be refused; the same command reads it again in seconds."""


def check_start(config: BaseModel, flow: str | None) -> None:
    """Raise BadInput where a run cannot start: its runner is not installed, or its output folder is in use, cannot be
    written, or is not one that `flow` may write into. Nothing is written."""
    if isinstance(config, FlowConfig):
        from flows.running.run import make_runner

        make_runner(config)
    if isinstance(out := getattr(config, "out", None), Path):
        _check_folder(out)
        if flow:
            check_claim(out, flow)


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and (holder := find_holder(folder)):
        raise make_busy_error(folder.resolve(), holder)
    there = _find_existing(folder)
    reason = "Not a directory" if not there.is_dir() else "" if os.access(there, os.W_OK | os.X_OK) else "No permission"
    if reason:
        raise BadInput(f"{folder}: the output folder cannot be created ({reason}). Choose another --out.")


@contextmanager
def leave_nothing(folder: Path | None) -> Iterator[None]:
    """Remove the folder that the block made when it ends in a ReelmillError before it did any work.

    A folder that was there before stays as it is, and so does one in which a step has finished.
    """
    before = _find_existing(folder) if folder else None
    try:
        yield
    except ReelmillError:
        if folder and before and before != folder.absolute() and folder.is_dir() and _is_unworked(folder):
            shutil.rmtree(folder)
            _remove_empty(folder.absolute().parent, before)
        raise


def _find_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _is_unworked(folder: Path) -> bool:
    """Return whether a folder has nothing but settings, marks of its own and what was read of the request."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return all(name.startswith(PREPARED) or name.endswith(".yaml") or Path(name).name.startswith(".") for name in names)


def _remove_empty(folder: Path, above: Path) -> None:
    """Remove a folder and those above it, up to `above`, which stays."""
    while folder != above and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
