"""The text of every command's `--help`, kept in help.txt so that no config class is imported to show it.

help.txt is generated from the config classes (`make help-table`), and a test holds it to them. It has a section for
each command, `== NAME`; in a section each paragraph is one line, and an option is two spaces, its flags, a tab and its
help. Lines are wrapped to the terminal when they are shown.
"""

import argparse
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

TABLE = Path(__file__).with_name("help.txt")

WIDEST = 120
"""The most columns of a help text."""

FLAGS_COLUMNS = 36
"""The columns that flags take; the help of longer ones begins on the next line."""


def read_help(command: str) -> str:
    """Return the section of a command in help.txt."""
    sections = TABLE.read_text(encoding="utf-8").split("== ")[1:]
    return dict(section.split("\n", 1) for section in sections)[command]


def wrap_help(text: str, width: int | None = None) -> str:
    """Return a section as it is shown, wrapped to `width` columns, by default the terminal's."""
    width = width or min(WIDEST, _find_terminal_width())
    return "\n".join(_wrap_line(line, width) for line in text.splitlines()) + "\n"


def describe_parser(parser: argparse.ArgumentParser) -> str:
    """Return a parser's help as a section of help.txt."""
    paragraphs = [" ".join(each.split()) for each in (parser.description or "").split("\n\n")]
    return "\n".join([f"usage: {parser.usage}", "", *"\n\n".join(paragraphs).split("\n"), *_list_groups(parser)]) + "\n"


def _list_groups(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if shown:
            yield from ["", f"{group.title}:", *([f"  {group.description}", ""] if group.description else [])]
        for action in shown:
            yield f"  {_format_flags(formatter, action)}\t{formatter._expand_help(action)}"


def _format_flags(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    """Return an option as it is typed, and the type of its value: `--steps, --train.steps int`."""
    default = action.dest if action.option_strings else str(action.metavar)
    value = formatter._format_args(action, default) if action.option_strings else default
    return " ".join(part for part in (", ".join(action.option_strings), value) if part)


def _wrap_line(line: str, width: int) -> str:
    flags, tab, text = line.partition("\t")
    if not tab:
        indent = " " * (len(line) - len(line.lstrip()))
        return textwrap.fill(line.strip(), width, initial_indent=indent, subsequent_indent=indent)
    indent = " " * FLAGS_COLUMNS
    wrapped = textwrap.fill(text, max(width, FLAGS_COLUMNS + 20), initial_indent=indent, subsequent_indent=indent)
    return f"{flags:<{FLAGS_COLUMNS}}{wrapped.lstrip()}" if len(flags) < FLAGS_COLUMNS - 1 else f"{flags}\n{wrapped}"


def _find_terminal_width() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 110
