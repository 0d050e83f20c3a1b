"""What is shown to a person: no control characters of a name reach a terminal, and no line is longer than is read."""

import re

LONGEST = 400
"""Characters of a line; of a longer one the middle is left out."""

LONGEST_COMMAND = 2000
"""The same of a line with a command in backquotes: half a command is worse than none."""

_COMMAND = re.compile(r"`(reelmill|hf|uv|python|mkdir) [^`]+`")

_END = 150

_UNSHOWN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
"""Control characters, halves of characters, and what turns the direction of a text or hides a part of it; line feeds
are apart."""


def make_line(text: str) -> str:
    """Return a message as one line that can be shown: of one sentence, whatever the names in it."""
    return make_lines(text.strip().replace("\n", "\\n"))


def make_lines(text: str) -> str:
    """Return a text of several lines as it can be shown, each line cut to LONGEST characters, or LONGEST_COMMAND."""
    return "\n".join(map(_shorten, escape(text).split("\n")))


def escape(text: str) -> str:
    """Return a text with what cannot be shown written as Python does, by its number."""
    return _UNSHOWN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def _shorten(line: str) -> str:
    most = LONGEST_COMMAND if _COMMAND.search(line) else LONGEST
    return line if len(line) <= most else f"{line[: most - _END - 3]} … {line[-_END:]}"
