"""Texts from outside as what can be kept: a value of a table, a part of a file's name."""

import re


def printable(text: str) -> str:
    """Text that a table can hold: halves of characters, which JSON can write, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def prefixed(prefix: str | None, stem: str) -> str:
    """A clip's name, from the prefix asked for and its picture's name, which the prefix may end with already."""
    return prefix if prefix and prefix.endswith(stem) else f"{prefix}-{stem}" if prefix else stem


def safe_name(text: str) -> str:
    """Text as a part of a file name: letters, digits, '-', '_' and '.', at most 60, never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60].strip("-.") or "item"
