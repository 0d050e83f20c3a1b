"""Services: programs that serve until they are asked to end, and end with the process that started them, also where
that is killed. What their children leave behind is found and ended.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

Server = subprocess.Popen[bytes]
"""A server's process; the server ends when this is no longer referred to, since its standard input closes then."""

Speaker = subprocess.Popen[str]
"""A program that says something while it runs."""

_SET_CHILD_SUBREAPER = 36
"""The number of Linux' PR_SET_CHILD_SUBREAPER."""


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


def start_service(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path, port: socket.socket | None = None
) -> Server:
    """Start `python -m module ARGUMENTS`, which writes what it says to the end of `log` and inherits an open port, if
    there is one, whose number is then its last argument; it calls `end_with_parent`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *([str(port.fileno())] if port else [])],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            pass_fds=[port.fileno()] if port else [],
            env={**os.environ, **environment},
            start_new_session=True,
        )


def start_detached(command: Sequence[str], log: Path) -> int:
    """Start a program that goes on when this one has ended, and writes what it says to the end of `log`; return its
    number."""
    with log.open("ab") as file:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    program.returncode = 0  # Nobody waits for it here, and Python warns of that.
    return program.pid


def end_service(service: Server, grace_s: float) -> None:
    """End a service, and kill it where it has not ended after `grace_s` seconds."""
    service.terminate()
    try:
        service.wait(grace_s)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()


def adopt_orphans() -> None:
    """Make this process the parent of what its services start and leave behind, so that `end_orphans` finds it."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(grace_s: float) -> None:
    """End every process that this one has as a child, and what that leaves; kill what has not ended after `grace_s`."""
    until, asked = time.monotonic() + grace_s, set[int]()
    while children := _list_children():
        for pid in children:
            with suppress(ProcessLookupError, ChildProcessError):
                late = time.monotonic() > until
                if late or pid not in asked:
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def _list_children() -> list[int]:
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text("ascii").split()]


def ask_to_end(pid: int) -> None:
    """Ask a process to end, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def start_speaker(command: Sequence[str], environment: Mapping[str, str]) -> Speaker:
    """Start a program whose output is read as text while it runs, in a group of its own, which Ctrl-C does not reach;
    `environment` is added to this process's."""
    pipe, added = subprocess.PIPE, {**os.environ, **environment}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=added, start_new_session=True)


def wait_for_end(program: Speaker, limit_s: float) -> int | None:
    """Return a program's exit code; None where it has not ended after `limit_s`."""
    try:
        return program.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


def end_at_once(program: Speaker) -> None:
    """Kill a program that `start_speaker` started, and what it started itself."""
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    if program.stdin:
        program.stdin.close()


def end_with_parent(at_once: bool = False) -> None:
    """End this process, which `start_server` or `start_speaker` started, when its standard input closes: at the latest
    with its parent. It may end in its own way, unless `at_once`."""

    def wait() -> None:
        # Not by sys.stdin: Python cannot end while a thread holds its lock.
        while os.read(0, 1024):
            continue
        os.kill(os.getpid(), signal.SIGKILL if at_once else signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
