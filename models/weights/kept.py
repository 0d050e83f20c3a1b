"""Models kept in memory: one that was loaded before is handed out again, as long as its files are the same."""

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from models.weights.hub_cache import read_stamp

P = ParamSpec("P")
T = TypeVar("T")

Loader = Callable[Concatenate[Path, P], T]


def kept_in_memory(most: int = 1) -> Callable[[Loader[P, T]], Loader[P, T]]:
    """Return a decorator of a function that loads a model from a file or a folder: the `most` last models stay in
    memory, and several threads load one at a time."""

    def keep(load: Loader[P, T]) -> Loader[P, T]:
        loading = threading.Lock()

        @lru_cache(maxsize=most)
        def of_stamp(stamp: object, path: Path, *args: P.args, **kwargs: P.kwargs) -> T:
            return load(path, *args, **kwargs)

        @wraps(load)
        def kept(path: Path, *args: P.args, **kwargs: P.kwargs) -> T:
            with loading:
                return of_stamp(read_stamp(path), path, *args, **kwargs)

        return kept

    return keep
