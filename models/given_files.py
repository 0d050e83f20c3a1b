"""Small files that people give, or that came from elsewhere: texts and JSON, read within limits of size, depth and
numbers.

What cannot be read raises Unreadable, a ValueError whose text is a reason to put after a file's name.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

LARGEST_BYTES = 1 << 23
"""The largest settings, workflow, calibration or note that is read: 8 MB; real ones have a few kilobytes."""

DEEPEST = 100
"""How many lists and groups may be inside one another."""

LONGEST_NUMBER = 300
"""Digits of a number: longer ones are no number that a computer's fractions can hold."""

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the mark that a text begins with; the longer marks first, where one begins with another."""


_COMMA, _THOUSANDS = re.compile(r"[+-]?\d*,\d+"), re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


class Unreadable(ValueError):
    """A file cannot be read; the text says why, without the file's name."""


def read_text(path: Path, most_bytes: int = LARGEST_BYTES) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 that begins with its mark; raises OSError and
    Unreadable."""
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise Unreadable(f"it is larger than {most_bytes / 1e6:.0f} MB")
    return decode(content)


def decode(content: bytes) -> str:
    """Return bytes as text; raises Unreadable with the likely encoding's name where it is not UTF-8 and has no mark."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8"):
            raise Unreadable(_describe_encoding(content, error.start)) from error
        raise Unreadable(f"it begins as {encoding.upper()} and is damaged at byte {error.start}") from error
    if "\0" in text[:200] and encoding == "utf-8":
        raise Unreadable("it has NUL characters, as UTF-16 without its mark has")
    return text


def _describe_encoding(content: bytes, place: int) -> str:
    line, byte = content.count(b"\n", 0, place) + 1, content[place]
    likely = "Windows-1252" if any(0x80 <= each < 0xA0 for each in content) else "Latin-1"
    return f"it is not UTF-8 but probably {likely}: byte 0x{byte:02X} in line {line}"


def read_json(path: Path, most_bytes: int = LARGEST_BYTES) -> Any:
    """Return the value of a JSON file; raises OSError and Unreadable."""
    return parse_json(read_text(path, most_bytes))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; raises Unreadable for what is not JSON, too deep, or has a number too large."""
    try:
        value = json.loads(text, parse_int=_parse_int, parse_float=_parse_float)
    except RecursionError as error:
        raise Unreadable(f"it is more than {DEEPEST} levels deep") from error
    except json.JSONDecodeError as error:
        raise Unreadable(str(error)) from error
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise Unreadable where lists and groups are more than DEEPEST levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _list_inner(each)]
        if not level:
            return
    raise Unreadable(f"it is more than {DEEPEST} levels deep")


def _list_inner(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [each for each in inner if isinstance(each, dict | list | tuple)]


def _parse_int(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise Unreadable(f"it has a number of {len(digits)} digits")
    return int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Unreadable(f"it has the number {digits[:30]}, which is too large")
    return number


def read_comma(value: Any) -> Any:
    """Return a number that a text has with a decimal comma as one with a point, and any other value as it is; raises
    ValueError where the comma may part thousands."""
    if not isinstance(value, str) or not _COMMA.fullmatch(value):
        return value
    if _THOUSANDS.fullmatch(value):
        raise ValueError("its comma may part thousands, so write it with a decimal point")
    return value.replace(",", ".")
