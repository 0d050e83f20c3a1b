"""Functions that run in a child process with a time limit, so that a file that crashes or hangs the decoder fails
alone.

A fork server with the heavy libraries loaded makes each child in about 20 ms, however many threads the caller has.
"""

import errno
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

from models.errors import DecodeCrash, DecodeTimeout, ReelmillError

START_LIMIT_S = 120.0
"""The longest time a child may take to start; the first one waits for the fork server to load its libraries."""

END_LIMIT_S = 5.0
"""The longest time a child may take to end after it has answered."""

ORPHAN_GRACE_S = 10.0
"""How long past its limit a child lives when its parent is gone."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the disk that is written to: they concern the whole run, not the file that a child works on."""

T = TypeVar("T")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["av", "cv2", "ffmpeg", "pandas", "prefect.flows", "pyarrow.parquet"])
_starting = threading.Lock()


def run_in_child(function: Callable[..., T], *args: Any, limit_s: float, item: str | None = None) -> T:
    """Call a module-level function in a process of its own and return its value.

    `item` names the work in messages, by default the first argument. Raises DecodeTimeout when the call takes longer
    than `limit_s` seconds, and DecodeCrash when its process dies or raises another exception than ReelmillError. The
    function's own ReelmillError is raised unchanged, and so is an OSError of a disk that is full or read-only.
    """
    item = item or str(args[0] if args else function.__name__)
    receiver, sender = _context.Pipe(duplex=False)
    child = _context.Process(target=_run_function, args=(sender, limit_s, function, args), daemon=True)
    try:
        _start(child)
        sender.close()
        return _wait_for_answer(receiver, child, limit_s, item)
    finally:
        receiver.close()
        _end(child)


def _wait_for_answer(receiver: Connection, child: BaseProcess, limit_s: float, item: str) -> Any:
    try:
        for limit in (START_LIMIT_S, limit_s):
            if not receiver.poll(limit):
                child.kill()
                raise DecodeTimeout(
                    f"{item}: not done after {limit:g} s, so it was stopped. Retry it with a higher limit."
                )
            word, value = receiver.recv()
    except EOFError as error:
        child.join(END_LIMIT_S)
        raise DecodeCrash(
            f"{item}: its process died ({_describe_end(child.exitcode)}). The file may be damaged."
        ) from error
    if word == "value":
        return value
    if word == "error":
        raise value
    unexpected = DecodeCrash(f"{item}: {value.strip().splitlines()[-1]}")
    unexpected.add_note(value)
    raise unexpected


def _describe_end(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.strsignal(-exitcode) or f"signal {-exitcode}"
    return f"exit code {exitcode}"


def _start(child: BaseProcess) -> None:
    """Start the child without importing the running program into it, whether that checks `__name__` or not."""
    with _starting:
        here = multiprocessing.current_process()
        if here.daemon:
            here.daemon = False  # Dask's workers are daemons, which may not have children.
        program = sys.modules["__main__"]
        sys.modules["__main__"] = _Program(program)
        try:
            child.start()
        finally:
            sys.modules["__main__"] = program


class _Program(ModuleType):
    """The running program as multiprocessing sees it: the same names, but no file and no spec to import."""

    def __init__(self, program: ModuleType) -> None:
        super().__init__("__main__")
        self._program = program

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":
            raise AttributeError(name)
        return getattr(self._program, name)


def _end(child: BaseProcess) -> None:
    if child.pid is None:
        return
    child.join(END_LIMIT_S)
    child.kill()
    child.join()
    child.close()


def _run_function(sender: Connection, limit_s: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s + ORPHAN_GRACE_S)
    with suppress(BrokenPipeError):
        sender.send(("started", None))
        try:
            sender.send(("value", function(*args)))
        except ReelmillError as error:
            sender.send(("error", error))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                sender.send(("error", error))
                return
            sender.send(("unexpected", traceback.format_exc()))
            raise SystemExit(1) from error
