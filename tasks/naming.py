"""Texts from outside as what can be kept: a value of a table, a part of a file's name."""

import re


def printable(text: str) -> str:
    """Text that a table can hold: halves of characters, which JSON can write, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def safe_name(text: str) -> str:
    """Text as a part of a file name: letters, digits, '-', '_' and '.', at most 60, never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60].strip("-.") or "item"


def prefixed(prefix: str | None, stem: str) -> str:
    """A clip's name, from the prefix asked for and its picture's name, which the prefix may be or end with already."""
    name = safe_name(stem)
    if not prefix:
        return name
    return prefix if prefix == name or prefix.endswith(f"-{name}") else f"{prefix}-{stem}"
