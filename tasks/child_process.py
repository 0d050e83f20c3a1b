"""Child processes: functions that run in one with limits of time, memory and processor time, so that a file that
crashes or hangs the decoder, or makes it take too much, fails alone; and programs. Beside tasks/services.py, no other
module starts a process or asks about one.

A child is made by a fork server with the heavy libraries loaded, in about 20 ms, however many threads the caller has;
or started afresh, where one child serves many calls that need few libraries.
"""

import logging
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast

from models.errors import DecodeCrash, DecodeLimit, DecodeTimeout, ReelmillError, is_of_the_disk
from tasks.limits import LONGEST_LIMIT_S, Limits, get_limits, set_limits

START_LIMIT_S = 120.0
"""The longest time a child may take to start; the first one waits for the fork server to load its libraries."""

END_LIMIT_S = 5.0
"""The longest time a child may take to end after it has answered."""

ORPHAN_GRACE_S = 10.0
"""How long past its limit a child lives when its parent is gone."""

T = TypeVar("T")

log = logging.getLogger("reelmill")

_fork_server = multiprocessing.get_context("forkserver")
_fork_server.set_forkserver_preload(["av", "cv2", "ffmpeg", "pandas", "prefect.flows", "pyarrow.parquet"])
_starting = threading.Lock()


class _Call(NamedTuple):
    """What a child is asked to do, the seconds and the limits it has for it, and the level it logs at."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    limit_s: float
    limits: Limits
    level: int


class Child:
    """A child process for one call after the other. It starts with the first; after a call that killed it, the next one
    has a new process."""

    def __init__(self, made_by: Literal["forkserver", "spawn"] = "spawn") -> None:
        self._context = _fork_server if made_by == "forkserver" else multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, function: Callable[..., T], *args: Any, limit_s: float, item: str | None = None) -> T:
        """Call a module-level function in the child and return its value; `item` and the errors are those of
        `run_in_child`."""
        item = item or str(args[0] if args else function.__name__)
        limit_s = min(limit_s, LONGEST_LIMIT_S)
        try:
            if self._process is None:
                self._start(item)
            assert self._pipe
            self._pipe.send(_Call(function, args, limit_s, get_limits(), log.getEffectiveLevel()))
            word, value = self._wait(limit_s, item)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise self._explain_end(limit_s, item) from error
        except BaseException:
            self._kill()
            raise
        return _read_answer(word, value, item)

    def close(self) -> None:
        """End the child, which may not take long."""
        if self._pipe:
            self._pipe.close()
        if self._process and self._process.pid is not None:
            self._process.join(END_LIMIT_S)
        self._kill()

    def _start(self, item: str) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        try:
            _start(self._process)
        finally:
            theirs.close()
        self._wait(START_LIMIT_S, item)

    def _wait(self, limit_s: float, item: str) -> tuple[str, Any]:
        """Return the child's next answer, and log what it logs before."""
        assert self._pipe
        end = time.monotonic() + limit_s
        while self._pipe.poll(max(0.0, end - time.monotonic())):
            word, value = self._pipe.recv()
            if word != "log":
                return word, value
            log.handle(value)
        raise DecodeTimeout(f"{item}: not done after {limit_s:g} s, so it was stopped. Retry it with a higher limit.")

    def _explain_end(self, limit_s: float, item: str) -> DecodeCrash | DecodeLimit:
        assert self._process
        self._process.join(END_LIMIT_S)
        code = self._process.exitcode
        self._kill()
        if code == -signal.SIGXCPU:
            most = limit_s * get_limits().processor_share
            return DecodeLimit(
                f"{item}: takes more than {most:g} s of processor time. If it should, raise --limits.processor-share."
            )
        return DecodeCrash(f"{item}: its process died ({describe_end(code)}). The file may be damaged.")

    def _kill(self) -> None:
        if self._pipe:
            self._pipe.close()
        if self._process and self._process.pid is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._pipe = None


def run_in_child(function: Callable[..., T], *args: Any, limit_s: float, item: str | None = None) -> T:
    """Call a module-level function in a process of its own and return its value.

    `item` names the work in messages, by default the first argument. Raises DecodeTimeout when the call takes longer
    than `limit_s` seconds, DecodeLimit when it takes more than this process' limits allow (tasks/limits.py), and
    DecodeCrash when its process dies or raises another exception than ReelmillError. The function's own ReelmillError
    is raised unchanged, and so is an OSError of a disk that is full or read-only. What it logs is logged here.
    """
    with Child("forkserver") as child:
        return child.run(function, *args, limit_s=limit_s, item=item)


def _read_answer(word: str, value: Any, item: str) -> Any:
    if word == "value":
        return value
    if word == "error":
        raise value
    if word == "memory":
        most = get_limits().memory_mb
        raise DecodeLimit(f"{item}: takes more than {most} MB of memory. If it should, raise --limits.memory-mb.")
    unexpected = DecodeCrash(f"{item}: {value.strip().splitlines()[-1]}")
    unexpected.add_note(value)
    raise unexpected


def describe_end(exitcode: int | None) -> str:
    """Return how a process ended, for people."""
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


class _Relay(QueueHandler):
    """A handler that sends what a child logs to its parent, tracebacks as text."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(SimpleQueue())
        self._pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record."""
        with suppress(BrokenPipeError):
            self._pipe.send(("log", record))


def _serve(pipe: Connection) -> None:
    """Answer the calls that come through a pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log.addHandler(_Relay(pipe))
    log.propagate = False
    with suppress(BrokenPipeError, ConnectionResetError, EOFError):
        pipe.send(("started", None))
        while True:
            call = pipe.recv()
            log.setLevel(call.level)
            set_limits(call.limits)
            _limit_this_process(call)
            answer = _answer(call)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(answer)


def _answer(call: _Call) -> tuple[str, Any]:
    try:
        return "value", call.function(*call.args)
    except ReelmillError as error:
        return "error", error
    except MemoryError:
        return "memory", None
    except Exception as error:
        return ("error", error) if is_of_the_disk(error) else ("unexpected", traceback.format_exc())


def _limit_this_process(call: _Call) -> None:
    """Set the limits of one call: of wall time where the parent is gone, of processor time and of memory."""
    signal.setitimer(signal.ITIMER_REAL, call.limit_s + ORPHAN_GRACE_S)
    spent = time.process_time()
    _limit(resource.RLIMIT_CPU, math.ceil(spent + call.limit_s * call.limits.processor_share))
    _limit(resource.RLIMIT_DATA, call.limits.memory_mb * 1_000_000)


def _limit(kind: int, most: int) -> None:
    """Lower this process' own limit to `most`, where its caller's is not lower already."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


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
    limits: Limits | None = None,
) -> Ended:
    """Run a program to its end, with `environment` added to this process's, and within `limits` where they are given.
    Raises TimeoutError after `limit_s`, and OSError where the program cannot run."""
    pipe, added = subprocess.PIPE, {**os.environ, **(environment or {})}
    source = None if stdin is None else pipe
    with subprocess.Popen(command, stdin=source, stdout=pipe, stderr=pipe, env=added) as program:
        if limits:
            _limit_program(program.pid, limit_s, limits)
        try:
            output, messages = program.communicate(cast(bytes, stdin), limit_s)
        except BaseException as error:
            program.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"not done after {limit_s:g} s") from error
            raise
    return Ended(program.returncode, output, messages, program.returncode == -signal.SIGKILL)


def _limit_program(pid: int, limit_s: float | None, limits: Limits) -> None:
    """Limit the processor time and the memory of a program that has just started; one that has ended needs none."""
    spend = math.ceil((limit_s or LONGEST_LIMIT_S) * limits.processor_share)
    for kind, most in ((resource.RLIMIT_CPU, spend), (resource.RLIMIT_DATA, limits.memory_mb * 1_000_000)):
        with suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (most, most))


def name_descriptor(descriptor: int) -> Path | None:
    """Return the name by which this process and its children open an open file again; None where there is none."""
    name = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    return name if name.exists() else None


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def limit_this_process(memory: int, cpu_s: int) -> None:
    """Let this process take `memory` more bytes than it has, and `cpu_s` seconds of processor time in all."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    most = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData")) + memory
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
