"""`reelmill doctor`: each fault is put there, and named with what mends it."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.serving.doctor import (
    DoctorConfig,
    Finding,
    choose_api,
    doctor,
    look_at_clock,
    look_at_deployments,
    look_at_disk,
    look_at_limits,
    look_at_packages,
    look_at_python,
    look_at_scheduler,
    look_at_server,
    look_at_workers,
)
from flows.serving.home import Home
from tasks.media.video import find_ffmpeg


def by_name(findings: list[Finding] | tuple[Finding, ...]) -> dict[str, Finding]:
    return {each.name: each for each in findings}


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("no_server")
def test_on_a_machine_that_runs_the_tests_nothing_is_wrong_but_what_is_asked_for(tmp_path: Path):
    fine = doctor(DoctorConfig(home=tmp_path, min_free_gb=0))
    assert fine.failed == 0, str(fine)
    assert by_name(fine.findings).keys() >= {"python", "packages", "torch", "ffmpeg", "weights", "disk", "server"}
    asked = doctor(DoctorConfig(home=tmp_path, min_free_gb=10**9))
    assert asked.failed == 1
    assert "mend: du -h" in str(asked)


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    find_ffmpeg.cache_clear()
    yield
    find_ffmpeg.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("no_server", "no_ffmpeg")
def test_an_ffmpeg_that_cannot_run_is_wrong_and_the_other_looks_go_on(tmp_path: Path):
    found = by_name(doctor(DoctorConfig(home=tmp_path, min_free_gb=0)).findings)
    assert found["ffmpeg"].state == "wrong"
    assert found["disk"].state == "ok"


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("sqlalchemy", "2.1.0", "sqlalchemy is 2.1.0"),
        ("fastapi", "0.151.0", "fastapi is 0.151.0"),
        ("av", None, "av is missing"),
    ],
)
def test_a_package_of_another_version_or_none_is_named(package: str, version: str | None, said: str):
    def find_version(name: str) -> str:
        if name == package and version is None:
            raise metadata.PackageNotFoundError(name)
        return version if name == package and version else metadata.version(name)

    found = look_at_packages(find_version)
    assert (found.state, found.mend) == ("wrong", "make install")
    assert said in found.said


def test_a_python_that_is_too_old_or_too_new_is_named():
    assert look_at_python((3, 12)).state == "ok"
    assert {look_at_python(version).state for version in ((3, 10), (3, 14))} == {"wrong"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert look_at_disk(tmp_path / "new/out", 0).state == "ok"
    monkeypatch.setattr("flows.serving.doctor.os.access", lambda *_: False)
    assert look_at_disk(tmp_path, 0).state == "wrong"


def test_clocks_that_differ_are_named():
    now = datetime.now(UTC).replace(microsecond=0)
    assert look_at_clock(format_datetime(now), now + timedelta(seconds=2)).state == "ok"
    late = look_at_clock(format_datetime(now), now - timedelta(minutes=3))
    assert (late.state, "-18" in late.said) == ("wrong", True)
    assert look_at_clock(None).state == "note"


def test_a_schedule_that_plans_nothing_is_a_dead_scheduler():
    assert look_at_scheduler({}).state == "note"
    assert look_at_scheduler({"curate": 3}).state == "ok"
    dead = look_at_scheduler({"curate": 3, "generate": 0})
    assert (dead.state, "generate" in dead.said, "curate" in dead.said) == ("wrong", True, False)


def test_limits_say_how_full_they_are():
    limit: dict[str, Any] = {"name": "deployment:7", "active": True, "active_slots": 1, "limit": 1}
    assert look_at_limits([limit, limit | {"name": "gpu"}], {"7": "curate"}).said == "curate 1 of 1, gpu 1 of 1"
    assert look_at_limits([limit | {"active": False}], {}).state == "note"


def test_without_workers_and_deployments_runs_wait():
    assert {look_at_workers([]).state, look_at_deployments(0).state} == {"wrong"}
    assert {look_at_workers(["studio"]).state, look_at_deployments(5).state} == {"ok"}


def test_a_server_that_does_not_answer_is_named():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = look_at_server(f"http://127.0.0.1:{closed.getsockname()[1]}/api", None)
    assert [(each.state, each.mend) for each in found] == [("wrong", "reelmill up")]


def test_a_real_server_is_looked_into(prefect_server: str):
    httpx.get(f"{prefect_server}/health", timeout=300)
    found = by_name(look_at_server(prefect_server, None))
    assert {found["server"].state, found["clock"].state} == {"ok"}
    assert {"deployed", "scheduler", "workers", "limits"} <= found.keys()
    assert found["workers"].mend == "reelmill up"


def test_the_server_that_is_set_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://studio/api")
    assert choose_api(Home(tmp_path)) == "http://studio/api"
