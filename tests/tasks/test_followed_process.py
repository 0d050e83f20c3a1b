"""A followed program: what it says is heard, its death has a reason, and it ends with whoever follows it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from models.errors import ProcessDied
from tasks.child_process import is_alive
from tasks.followed_process import follow
from tasks.stopping import ask_to_stop, forget_to_stop

PRELUDE = """
import os, signal, sys, time
from tasks.followed_process import tell_parent
from tasks.services import end_with_parent
"""


def said(body: str, quiet_s: float = 120.0) -> list[dict]:
    command = [sys.executable, "-c", PRELUDE + body]
    return list(follow(command, {"TOLD": "yes"}, quiet_s, "the work"))


def test_what_it_says_is_heard_in_order_and_what_is_not_ours_is_not():
    body = "print('a library says this'); tell_parent(a=1); print('[2]'); tell_parent(told=os.environ['TOLD'])"
    assert [each for each in said(body) if each] == [{"a": 1}, {"told": "yes"}]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise SystemExit(3)", r"exit code 3"),
        ("raise ValueError('no such thing')", r"exit code 1\)\. It said: ValueError: no such thing"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"\(Killed\)"),
    ],
)
def test_a_program_that_dies_is_an_error_with_its_reason(body: str, reason: str):
    with pytest.raises(ProcessDied, match=f"the work: its process died.*{reason}"):
        said(body)


def test_a_program_that_says_nothing_is_killed():
    with pytest.raises(ProcessDied, match=r"gave no sign of life for 0\.5 s"):
        said("tell_parent(a=1); time.sleep(600)", quiet_s=0.5)


def test_a_wish_to_stop_reaches_the_program_which_ends_in_its_own_way():
    body = """
signal.signal(signal.SIGTERM, lambda *_: (tell_parent(saved=True), sys.exit(0)))
tell_parent(pid=os.getpid())
while True:
    time.sleep(0.01)
"""
    heard = []
    for each in follow([sys.executable, "-c", PRELUDE + body], {}, 120.0, "the work"):
        heard.append(each)
        if "pid" in each:
            ask_to_stop()
    forget_to_stop()
    assert heard[-1] == {"saved": True}


def test_a_program_that_has_nothing_to_save_yet_is_killed_by_a_wish_to_stop():
    ask_to_stop()
    with pytest.raises(KeyboardInterrupt):
        said("time.sleep(600)")
    forget_to_stop()


def test_a_program_ends_where_nobody_follows_it_any_more():
    following = follow(
        [sys.executable, "-c", PRELUDE + "tell_parent(mine=os.getpid()); time.sleep(600)"], {}, 120, "it"
    )
    pid = next(each for each in following if each)["mine"]
    following.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not is_alive(pid)


def read_status(pid: int) -> list[str]:
    """The state of a process, and its parent."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def test_a_program_ends_with_its_parent_however_that_ended():
    body = "end_with_parent(at_once=True); tell_parent(mine=os.getpid()); time.sleep(600)"
    parent = f"""
import sys
from tasks.followed_process import follow, tell_parent
for each in follow([sys.executable, "-c", {PRELUDE + body!r}], {{}}, 120, "it"):
    tell_parent(**each)
"""
    following = follow([sys.executable, "-c", parent], {}, 120, "the parent")
    pid = next(each for each in following if "mine" in each)["mine"]
    os.kill(os.getpgid(pid), 0)
    os.kill(int(read_status(pid)[1]), signal.SIGKILL)
    until = time.monotonic() + 120
    while is_alive(pid) and read_status(pid)[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
    following.close()  # pyright: ignore[reportAttributeAccessIssue]
