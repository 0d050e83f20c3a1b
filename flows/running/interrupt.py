"""Ctrl-C that stops a run everywhere, also where a library or the interpreter itself swallows the exception.

Python raises KeyboardInterrupt in whatever code the main thread runs. In a finalizer, or inside a bare `except`, it is
lost, and the run would continue.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = threading.Event()


@contextmanager
def stoppable() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt during a block in the main thread, and `check_stopped` raise it after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _ASKED.clear()


def check_stopped() -> None:
    """Raise KeyboardInterrupt where Ctrl-C was pressed and the run continued."""
    if _ASKED.is_set():
        raise KeyboardInterrupt


def _stop(_: int, __: FrameType | None) -> None:
    _ASKED.set()
    raise KeyboardInterrupt
