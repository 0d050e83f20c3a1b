"""Writes help.txt anew from the config class of every command (`make help-table`)."""

import importlib

from flows.command.flags import make_parser
from flows.command.help_table import TABLE, describe_parser
from flows.command.main import COMMANDS, Command, make_interface


def describe_command(command: Command) -> str:
    """Return the section of a command, as its config class says now."""
    return describe_parser(make_parser(make_interface(command, importlib.import_module(command.module))))


def write_table() -> None:
    """Write the sections of all commands."""
    sections = [f"== {command.name}\n{describe_command(command)}" for command in COMMANDS]
    TABLE.write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    write_table()
