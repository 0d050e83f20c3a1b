"""`reelmill up`: what is refused, and, against real servers, that all is up, and that nothing is left."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.serving.up import (
    DownConfig,
    UpConfig,
    check,
    down,
    list_hosts,
    make_address,
    make_command,
    make_database_url,
    up,
)
from models.errors import BadInput


def test_what_cannot_be_served_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no such folder"):
        check(UpConfig(home=tmp_path, folder=tmp_path / "none"))
    with pytest.raises(BadInput, match="must be postgresql"):
        check(UpConfig(home=tmp_path, database="mysql://a/b"))
    with pytest.raises(BadInput, match="pgpass") as caught:
        check(UpConfig(home=tmp_path, database="postgresql://me:s3cret@host/name"))
    assert "s3cret" not in str(caught.value)


def test_a_port_that_is_in_use_is_named_and_no_home_is_made(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as port, pytest.raises(BadInput, match="in use"):
        up(UpConfig(home=tmp_path / "home", port=port.getsockname()[1]))
    assert not (tmp_path / "home").exists()


def test_the_addresses_of_a_server():
    assert make_address("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert make_address("::1", 1) == "http://[::1]:1"
    assert "127.0.0.5:1" in list_hosts("127.0.0.5", 1)
    assert list_hosts("0.0.0.0", 1) == []
    assert make_database_url("postgresql://me@host/name") == "postgresql+asyncpg://me@host/name"


def test_the_command_for_another_process_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.command.flags import Interface, parse_command_line

    monkeypatch.chdir(tmp_path)
    asked = UpConfig(home=Path("home"), port=7, auth=Path("auth"), detach=True)
    told = parse_command_line(Interface("reelmill up", UpConfig), make_command(asked)[4:]).config
    here = {"home": tmp_path / "home", "auth": tmp_path / "auth", "folder": tmp_path, "detach": False}
    assert told == asked.model_copy(update=here)


def test_down_where_nothing_is_up_says_so(tmp_path: Path):
    assert "not up" in str(down(DownConfig(home=tmp_path)))


def reelmill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.command.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def processes_of(home: Path) -> list[int]:
    """The processes that have the home in their environment or command."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
            if str(home).encode() in told and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found


def wait_for(seen: object, what: str, limit_s: float = 300.0) -> None:
    until = time.monotonic() + limit_s
    while not seen():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < until, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A served Reelmill, and its address."""
    home = tmp_path_factory.mktemp("served") / "home"
    begun = reelmill("up", "--home", home, "--port", "0", "--detach", "--folder", home.parent)
    assert begun.returncode == 0, begun.stderr
    yield home, begun.stdout.split()[0]
    assert reelmill("down", "--home", home).returncode == 0


@pytest.mark.ops
def test_all_is_up_and_a_second_one_says_so(served: tuple[Path, str]):
    home, address = served
    post = httpx.post(f"{address}/api/deployments/filter", json={}, timeout=60).json()
    assert {each["name"] for each in post} >= {"curate", "select", "finetune", "generate", "pipeline"}
    assert not any(schedule["active"] for each in post for schedule in each["schedules"])
    workers = httpx.post(f"{address}/api/work_pools/reelmill/workers/filter", json={}, timeout=60).json()
    assert [worker["status"] for worker in workers] == ["ONLINE"]
    assert "<html" in httpx.get(address, follow_redirects=True, timeout=60).text.lower()
    second = reelmill("up", "--home", home, "--port", "0")
    assert second.returncode == 2
    assert f"is up already ({address}" in second.stderr


@pytest.mark.ops
def test_a_part_that_is_killed_is_started_again(served: tuple[Path, str]):
    home, address = served
    for name in ("worker", "server"):
        (before,) = [pid for pid in processes_of(home) if f"flows.serving.{name}".encode() in read_command(pid)]
        os.kill(before, signal.SIGKILL)
        wait_for(lambda name=name, before=before: find_part(home, name) not in (None, before), f"{name} again")
    wait_for(lambda: answers(address), "the server answers")


def read_command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def find_part(home: Path, name: str) -> int | None:
    return next((pid for pid in processes_of(home) if f"flows.serving.{name}".encode() in read_command(pid)), None)


def answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/api/health", timeout=60).status_code == 200
    return False


@pytest.mark.ops
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_process_and_no_port_is_left(tmp_path: Path, ended_by: signal.Signals):
    home = tmp_path / "home"
    command = [sys.executable, "-m", "flows.command.main", "up", "--home", str(home), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr
        line = process.stderr.readline()
        address = re.search(r"http://\S+", line)
        assert address, line
        process.send_signal(ended_by)
        process.wait(120)
    assert process.returncode == (-signal.SIGKILL if ended_by == signal.SIGKILL else 0)
    wait_for(lambda: not processes_of(home), "all processes end", 120)
    assert not answers(address.group())
    assert list(tmp_path.iterdir()) == [home], "nothing is written beside the home"


@pytest.mark.ops
def test_a_password_is_asked_for_and_is_nowhere_else(tmp_path: Path):
    home, auth = tmp_path / "home", tmp_path / "auth"
    begun = reelmill("up", "--home", home, "--host", "0.0.0.0", "--port", "0", "--auth", auth, "--detach")
    assert begun.returncode == 0, begun.stderr
    try:
        address, (user, password) = begun.stdout.split()[0], auth.read_text().strip().split(":")
        assert httpx.post(f"{address}/api/deployments/filter", json={}, timeout=60).status_code == 401
        known = httpx.post(f"{address}/api/deployments/filter", json={}, auth=(user, password), timeout=60)
        assert len(known.json()) >= 5, "the worker's side knew it, for the deployments are there"
        assert password not in begun.stdout + begun.stderr
        told = b"".join(read_command(pid) for pid in processes_of(home))
        written = [file for file in home.rglob("*") if file.is_file() and password.encode() in file.read_bytes()]
        assert (password.encode() in told, written) == (False, [])
    finally:
        assert reelmill("down", "--home", home).returncode == 0
