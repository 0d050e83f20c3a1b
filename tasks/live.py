"""How far long work is, for those who watch: steps say it, whoever runs them shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int], None]

_listeners: dict[str, Listener] = {}


@contextmanager
def listening(work: str, listener: Listener) -> Iterator[None]:
    """Call `listener(done, total)` whenever the work of that name says how far it is, for the length of a block."""
    _listeners[work] = listener
    try:
        yield
    finally:
        _listeners.pop(work, None)


def tell(work: str, done: int, total: int) -> None:
    """Say that `done` of `total` parts of the work of that name are done."""
    if work in _listeners:
        _listeners[work](done, total)
