"""Nothing calls home: during a demo no process of the tree speaks to anything but this machine.

Every Python process of the tree says what it connects to, sends to and looks up, by an audit hook. And the whole tree,
whatever language its programs and libraries are in, runs in a network namespace of its own, where the kernel counts
what wanted to leave it and the only name server is the test's.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOOK = """
import json, os, sys

def note(event, *facts):
    file = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (json.dumps([os.getpid(), event, *map(str, facts)]) + "\\n").encode())
    os.close(file)

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        note(event, address[0] if isinstance(address, tuple) else "unix" if address else "connected")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        note(event, arguments[0])

note("started", *sys.orig_argv[1:])
sys.addaudithook(hook)
"""
"""Loaded by every Python process as sitecustomize.py."""

COUNTED = """
import fcntl, json, os, socket, struct, subprocess, sys, tempfile, threading

def wanted_out():
    names, figures = [line.split()[1:] for line in open("/proc/net/snmp") if line.startswith("Ip:")]
    six = dict(line.split() for line in open("/proc/net/snmp6"))
    return int(figures[names.index("OutNoRoutes")]) + int(six["Ip6OutNoRoutes"])

def answer(port, asked):
    while True:
        question, sender = port.recvfrom(512)
        name, place = [], 12
        while length := question[place]:
            name.append(question[place + 1 : place + 1 + length].decode())
            place += 1 + length
        asked.add(".".join(name))
        port.sendto(question[:2] + b"\\x81\\x83" + question[4:6] + bytes(6) + question[12 : place + 5], sender)

port, asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), set()
fcntl.ioctl(port, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
port.bind(("127.0.0.1", 53))
threading.Thread(target=answer, args=(port, asked), daemon=True).start()
with tempfile.NamedTemporaryFile("w") as file:
    file.write("nameserver 127.0.0.1\\n")
    file.flush()
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
    before = wanted_out()
    code = subprocess.run(sys.argv[1:]).returncode
    print(json.dumps([code, wanted_out() - before, sorted(asked)]), file=sys.stderr)
"""
"""Brings up the loopback device of a new namespace with a name server that knows nothing, runs a command, and tells how
much had no route out of it and which names were asked for."""

APART = ("unshare", "--map-root-user", "--net", "--mount")

HERE = {"127.0.0.1", "::1", "localhost", "unix", "connected", "0.0.0.0", "None"}

CALLER = """
import socket, subprocess
subprocess.run(["getent", "ahosts", "home.example"])
for number in range(3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        try:
            caller.connect(("192.0.2.1", 9))
        except OSError:
            pass
"""


def run_watched(folder: Path, repository: Path, *command: str) -> tuple[list[Any], list[list[str]]]:
    """Run a command with every Python process below it watched; return its exit code, the count of what wanted to leave
    the machine, the names that were asked for, and what the processes said."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "DO_NOT_TRACK"))}
    # As of a user at a terminal: an analytics client that sees a CI is silent by itself.
    environment = {name: text for name, text in environment.items() if name not in ("CI", "GITHUB_ACTIONS")}
    environment |= {"PYTHONPATH": f"{folder / 'hook'}", "CALLS": str(folder / "calls"), "HOME": str(folder)}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}
    apart = [*APART, sys.executable, "-c", COUNTED, *command]
    done = subprocess.run(apart, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    counted = json.loads(done.stderr.splitlines()[-1])
    return counted, [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def hosts(said: list[list[str]]) -> set[Any]:
    """What was connected to, sent to and looked up."""
    return {host for _, event, *facts in said if event.startswith("socket.") for host in facts[:1]}


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    able = shutil.which("unshare") and not subprocess.run([*APART, "true"], capture_output=True, check=False).returncode
    if not able:
        pytest.skip("This machine lets nobody make a network namespace.")


@pytest.mark.slow
def test_a_call_home_would_be_seen(tmp_path: Path, repository: Path):
    counted, said = run_watched(tmp_path, repository, sys.executable, "-c", CALLER)
    assert counted == [0, 3, ["home.example"]]
    assert hosts(said) == {"192.0.2.1", "127.0.0.1"}, "the last is the name server's answer"


LIBRARIES = """
import os, time
import numpy as np
from flows.command.prefect_server import ensure_server, settle_environment
settle_environment()
ensure_server()
import httpx
from models.measures.text_boxes import find_text_boxes
find_text_boxes(np.zeros((64, 64, 3), np.uint8))
assert httpx.get(os.environ["PREFECT_API_URL"] + "/health", timeout=300).json()
time.sleep(20)
"""
"""The two that call home unless they are told not to: Prefect's server, and ONNX Runtime, in code that no hook sees."""


@pytest.mark.server
def test_neither_the_server_nor_the_detector_of_text_calls_home(tmp_path: Path, repository: Path):
    counted, said = run_watched(tmp_path, repository, sys.executable, "-c", LIBRARIES)
    assert counted == [0, 0, []]
    assert hosts(said) - HERE == set()


@pytest.mark.server
@pytest.mark.training
def test_during_a_demo_every_socket_is_of_this_machine(tmp_path: Path, repository: Path):
    small = "--pictures 1 --sampling-steps 1 --train.steps 1 --train.batch 1 --footage.width 128 --footage.height 96"
    line = ["-m", "flows.command.main", "demo", "--out", str(tmp_path / "out"), *small.split(), "--footage.fps", "12"]
    counted, said = run_watched(tmp_path, repository, sys.executable, *line)
    assert (tmp_path / "out" / "index.html").is_file()
    assert counted == [0, 0, []]
    assert hosts(said) - HERE == set()
    connected = [pid for pid, event, *_ in said if event == "socket.connect"]
    assert len(connected) > 10
    started = [" ".join(facts) for _, event, *facts in said if event == "started"]
    assert any("flows.command.prefect_server" in each for each in started), "the server was watched too"
    assert any("multiprocessing.forkserver" in each for each in started), "and the children that decode"
