"""The log lines and progress bars of a running command, on standard error. Results go to standard output."""

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.running.messages import escape, make_line

CONSOLE = Console(stderr=True)


def show_log(debug: bool) -> None:
    """Send our log to standard error: coloured on a terminal, above the progress bars; plain lines anywhere else."""
    on_terminal = RichHandler(console=CONSOLE, show_time=False, show_path=debug, show_level=debug)
    handler = on_terminal if CONSOLE.is_terminal else logging.StreamHandler()
    handler.setFormatter(_Shown("%(message)s" if CONSOLE.is_terminal else "reelmill: %(message)s"))
    handler.name = "reelmill"
    log = logging.getLogger("reelmill")
    log.handlers = [other for other in log.handlers if other.name != "reelmill"]
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.addHandler(handler)
    log.propagate = False


class _Shown(logging.Formatter):
    """Formats what can be shown: a message as one line, and a traceback as it is but for its control characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = make_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


def progress() -> Progress:
    """Return progress bars with counts, time spent and time left; on a terminal only."""
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal)
