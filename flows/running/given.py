"""What this user gave: the settings of a folder's run are known outside of it, so that those of a folder from a
stranger, or of one that was tampered with, are told from them."""

import hashlib
from contextlib import suppress
from pathlib import Path

from models.given_files import Unreadable, read_text
from tasks.ledger import read_marker
from tasks.manifest import publish_text
from tasks.user_state import locate_state

LARGEST = 1 << 24
"""Bytes of settings that are read."""


def keep_given(folder: Path, flow: str, settings: str) -> None:
    """Note in the user's own state the settings with which this user ran `flow` in a folder."""
    marker = read_marker(folder)
    if marker is not None:
        with suppress(OSError):  # Where the user has no place for it, a folder counts as a stranger's.
            publish_text(locate_state(marker, f"{flow}.given"), _digest(settings) + "\n")


def was_given(folder: Path, flow: str) -> bool:
    """Say whether the settings that stand in a folder are those with which this user last ran `flow` there."""
    marker = read_marker(folder)
    if marker is None:
        return False
    try:
        settings = read_text(folder / f"{flow}.yaml", LARGEST)
        return locate_state(marker, f"{flow}.given").read_text() == _digest(settings) + "\n"
    except (OSError, Unreadable):
        return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
