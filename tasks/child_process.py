"""Child processes: functions that run in one with a time limit, so that a file that crashes or hangs the decoder fails
alone; programs; and servers that end with their parent. No other module starts a process or asks about one.

A fork server with the heavy libraries loaded makes each child in about 20 ms, however many threads the caller has.
"""

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

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

Server = subprocess.Popen[bytes]
"""A server's process; the server ends when this is no longer referred to, since its standard input closes then."""

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


class Ended(NamedTuple):
    """How a program ended: its exit code, what it wrote, and whether the system killed it, as for lack of memory."""

    code: int
    output: bytes
    messages: bytes
    killed: bool


def run_program(
    command: Sequence[str],
    stdin: bytes | memoryview | None = None,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end, with `environment` added to this process's. Raises TimeoutError after `limit_s`, and
    OSError where the program cannot run."""
    added = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=limit_s, check=False, env=added)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not done after {limit_s:g} s") from error
    return Ended(done.returncode, done.stdout, done.stderr, done.returncode == -signal.SIGKILL)


def start_server(module: str, port: socket.socket, environment: Mapping[str, str]) -> Server:
    """Start `python -m module DESCRIPTOR`, which inherits an open port; it calls `end_with_parent`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, str(port.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[port.fileno()],
        env={**os.environ, **environment},
        start_new_session=True,
    )


def end_with_parent() -> None:
    """End this process, which `start_server` started, when its standard input closes: at the latest with its parent."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
