"""Ctrl-C and SIGTERM that stop a run everywhere: in its other threads, and where a library swallows the exception.

Python raises KeyboardInterrupt in whatever code the main thread runs. In a finalizer, or inside a bare `except`, it is
lost, and the run would continue; and the steps work in other threads (tasks/stopping.py).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.stopping import ask_to_stop, forget_to_stop


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the process to end."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt during a block in the main thread, and all work stop after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forget_to_stop()
    before = {each: signal.signal(each, _stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(number: int, _: FrameType | None) -> None:
    ask_to_stop()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
