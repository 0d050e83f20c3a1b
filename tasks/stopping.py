"""A wish to stop, that every step of this process sees: work that has begun is finished or saved, none is begun."""

import threading

_ASKED = threading.Event()


def ask_to_stop() -> None:
    """Ask all work of this process to stop."""
    _ASKED.set()


def forget_to_stop() -> None:
    """Let work begin again."""
    _ASKED.clear()


def is_asked_to_stop() -> bool:
    """Say whether work is asked to stop."""
    return _ASKED.is_set()


def check_stopped() -> None:
    """Raise KeyboardInterrupt where work is asked to stop."""
    if _ASKED.is_set():
        raise KeyboardInterrupt
