"""Markdown for Prefect's UI: whatever a file, a prompt or a folder is called, it stays text in its place."""

import re
from collections.abc import Iterable, Sequence

from flows.running.messages import escape

_MEANT = re.compile(r"[!-/:-@\[-`{-~]")
"""Every ASCII character that Markdown, its tables, its automatic links or HTML could take for a sign."""


def escape_markdown(text: str, longest: int = 200) -> str:
    """Return a text of one line that Markdown shows as it is: no markup, no link, no HTML, no end of a table's cell.

    Each sign has a backslash before it (Prefect's UI shows character references as they are); control characters become
    their numbers, and of more than `longest` characters the middle is left out.
    """
    line = " ".join(escape(text.replace("\n", " ")).split())
    if len(line) > longest:
        line = f"{line[: longest * 2 // 3]} … {line[-longest // 3 :]}"
    return _MEANT.sub(lambda found: f"\\{found.group()}", line)


def make_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; the head is ours, the cells are anybody's."""
    lines = [list(head), ["---"] * len(head), *([escape_markdown(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
