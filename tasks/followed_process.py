"""A long program of ours that says how far it is: it is followed while it works, and asked to stop with its run.

It writes lines of JSON to its standard output. A line that names its `pid` says who takes SIGTERM as the wish to finish
its step, save and end; before that line there is nothing to save. A line within `quiet_s` is its sign of life.
"""

import json
import queue
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from models.errors import ProcessDied
from tasks.child_process import describe_end
from tasks.services import ask_to_end, end_at_once, start_speaker, wait_for_end
from tasks.stopping import is_asked_to_stop

POLL_S = 0.2

LAST_LINES = 200
"""Lines of its standard error in which the reason of its death is looked for."""

EXCEPTION = re.compile(r"(\[\w+\]: ?)?[\w.]+(Error|Exception|Died): ")

END_LIMIT_S = 30.0
"""The longest time that it may take to end after its last line."""

_telling = threading.RLock()  # A signal handler may speak while this thread does.


def tell_parent(**facts: Any) -> None:
    """Say something to the process that follows this one."""
    with _telling:
        print(json.dumps(facts), flush=True)


def follow(
    command: Sequence[str], environment: Mapping[str, str], quiet_s: float, item: str
) -> Iterator[dict[str, Any]]:
    """Run a program to its end and yield what it says. Raises ProcessDied when it ends otherwise than with exit code 0,
    or says nothing for `quiet_s` seconds. It is killed, with what it started, where the caller stops reading."""
    process = start_speaker(command, environment)
    assert process.stdout
    assert process.stderr
    lines: queue.Queue[str | None] = queue.Queue()
    last: deque[str] = deque(maxlen=LAST_LINES)
    threads = [
        threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=last.extend, args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _listen(lines, quiet_s, item)
        code = wait_for_end(process, END_LIMIT_S)
    finally:
        end_at_once(process)
        for thread, pipe in zip(threads, (process.stdout, process.stderr), strict=True):
            thread.join()
            pipe.close()
    if code:
        raise ProcessDied(f"{item}: its process died ({describe_end(code)}).{_quote(last)}")


def _listen(lines: "queue.Queue[str | None]", quiet_s: float, item: str) -> Iterator[dict[str, Any]]:
    pid, asked, quiet = None, False, 0.0
    while True:
        if is_asked_to_stop() and not asked:
            asked = True
            if pid is None:
                raise KeyboardInterrupt
            ask_to_end(pid)
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            quiet += POLL_S
            if quiet > quiet_s:
                raise ProcessDied(f"{item}: its process gave no sign of life for {quiet_s:g} s.") from None
            continue
        if line is None:
            return
        quiet = 0.0
        said = _parse(line)
        pid = said.get("pid", pid)
        yield said


def _read_lines(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _parse(line: str) -> dict[str, Any]:
    """Return what a line says; one that is not ours, as a library prints it, says nothing."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _quote(lines: Sequence[str]) -> str:
    """Return what its standard error says of its death: the last exception, or else the last line."""
    said = [line.strip() for line in lines if line.strip()]
    raised = [line for line in said if EXCEPTION.match(line)]
    return f" It said: {(raised or said)[-1]}" if said else ""
