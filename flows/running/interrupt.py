"""Ctrl-C is heard wherever a run is: also where a library, or the interpreter itself, lets the exception go by.

Python raises KeyboardInterrupt in whatever the main thread is at. In a finalizer, or inside of a bare `except`, it is
lost, and the run would go on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = threading.Event()


@contextmanager
def stoppable() -> Iterator[None]:
    """For the length of a block in the main thread, Ctrl-C raises KeyboardInterrupt, and `check_stopped` after it."""
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
    """Raises KeyboardInterrupt where Ctrl-C was pressed and the run went on nevertheless."""
    if _ASKED.is_set():
        raise KeyboardInterrupt


def _stop(_: int, __: FrameType | None) -> None:
    _ASKED.set()
    raise KeyboardInterrupt
