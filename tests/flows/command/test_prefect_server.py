"""The Prefect server of a command: respected when the user has one, gone when the command is, even by kill -9."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flows.command.prefect_server import QUIET, SERVER, find_configured_api, settle_environment
from flows.serving.settings import SILENT

PROFILES = """
active = "studio"

[profiles.studio]
PREFECT_API_URL = "http://studio:4200/api"

[profiles.ephemeral]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_a_word_of_the_user_there_is_no_server(home: Path):
    assert find_configured_api() is None


def test_the_environment_names_the_server(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "profiles.toml").write_text(PROFILES)
    monkeypatch.setenv("PREFECT_API_URL", "http://here:1/api")
    assert find_configured_api() == "http://here:1/api"


def test_the_active_profile_names_the_server(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "profiles.toml").write_text(PROFILES)
    assert find_configured_api() == "http://studio:4200/api"
    monkeypatch.setenv("PREFECT_PROFILE", "ephemeral")
    assert find_configured_api() is None


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch):
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG")
    settle_environment()
    assert {name: os.environ[name] for name in QUIET} == {**QUIET, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}


def test_nothing_calls_home_whatever_was_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    settle_environment()
    assert {name: os.environ[name] for name in SILENT} == SILENT
    assert dict(SERVER, **SILENT) == SERVER


STARTED = """
import os, time
from flows.command import prefect_server
prefect_server.settle_environment()
prefect_server.ensure_server()
print(os.environ["PREFECT_API_URL"], prefect_server._started[0].pid, flush=True)
time.sleep(300)
"""


@pytest.mark.server
def test_the_server_answers_and_ends_when_its_command_is_killed(home: Path, repository: Path):
    environment = os.environ | {"PREFECT_HOME": str(home)}
    command = [sys.executable, "-c", STARTED]
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
        assert httpx.get(f"{url}/health", timeout=300).json() is True
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while is_running(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
