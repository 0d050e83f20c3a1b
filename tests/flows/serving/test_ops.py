"""What happens in weeks: schedules that fire, nights that are missed, servers that restart, machines that are lost."""

import os
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.database import Database, running_database
from tests.serving import Served, wait_for

SMALL: dict[str, Any] = {
    "steps": 1, "frames": 2, "width": 32, "height": 32, "guidance": [1, 1], "workers": 1, "until": None,
}  # fmt: skip

LONG = SMALL | {"takes": 40, "steps": 20}
"""Minutes of work, clip by clip."""


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one's own on SQLite, to be broken."""
    yield from _serve(tmp_path_factory.mktemp("own"), {})


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.database)])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one's own on each kind of database."""
    with ExitStack() as stack:
        settings: dict[str, str] = {}
        if request.param == "postgresql":
            database = stack.enter_context(running_database())
            settings["PREFECT_API_DATABASE_CONNECTION_URL"] = database.url
        yield from _serve(tmp_path_factory.mktemp("either"), settings)


@pytest.fixture
def on_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Database]]:
    """A server on PostgreSQL, and the database, to be broken."""
    with running_database() as database:
        for served in _serve(tmp_path_factory.mktemp("own"), {"PREFECT_API_DATABASE_CONNECTION_URL": database.url}):
            yield served, database


def _serve(home: Path, settings: dict[str, str]) -> Iterator[Served]:
    made = Served(home, settings)
    try:
        made.start_server()
        made.set_up()
        yield made
    finally:
        made.close()


def schedule_each_minute(served: Served, config: dict[str, Any]) -> str:
    """Let generate's deployment fire every minute with these settings; return the schedule's number."""
    found = served.find_deployment("generate/generate")
    served.ask("PATCH", f"/deployments/{found['id']}", {"parameters": {"config": config}})
    timing = {"interval": 60, "timezone": "Europe/Berlin"}
    (made,) = served.ask("POST", f"/deployments/{found['id']}/schedules", [{"schedule": timing, "active": True}])
    return made["id"]


def runs_of(served: Served, *names: str) -> list[dict[str, Any]]:
    return [run for run in served.list_runs("generate/generate") if run["state_name"] in names]


def begin(served: Served, pictures: Path, tmp_path: Path, **more: int) -> tuple[str, Path]:
    """Start a night, and wait until it works; return the run and its folder."""
    out = tmp_path / "out"
    run = served.run("generate/generate", LONG | {"jobs": str(pictures), "out": str(out)} | more)
    wait_for(lambda: len(list(out.glob("latents/*.safetensors"))) > 2, "work")
    return run, out


@pytest.mark.waiting
def test_schedules_fire_and_of_missed_firings_one_runs(either: Served, pictures: Path, tmp_path: Path):
    out = tmp_path / "out"
    schedule = schedule_each_minute(either, SMALL | {"jobs": str(pictures), "out": str(out)})
    wait_for(lambda: runs_of(either, "Scheduled"), "the scheduler", 180)
    wait_for(lambda: len(runs_of(either, "Late")) >= 2, "missed firings", 360)
    # No firing comes while those are looked at, however long that takes here.
    deployment = either.find_deployment("generate/generate")["id"]
    either.ask("PATCH", f"/deployments/{deployment}/schedules/{schedule}", {"active": False})
    missed = [run["id"] for run in sorted(runs_of(either, "Late"), key=lambda run: run["expected_start_time"])]
    either.start_worker()
    wait_for(lambda: all(either.state(run)["type"] == "COMPLETED" for run in missed), "the missed firings")
    assert [either.state(run)["name"] for run in missed] == ["Missed"] * (len(missed) - 1) + ["Completed"]
    assert len(list(out.glob("videos/*.mp4"))) == 3, "each clip once"


@pytest.mark.waiting
def test_two_restarts_and_a_kill_of_the_server_leave_a_limited_run_alone(own: Served, pictures: Path, tmp_path: Path):
    own.start_worker()
    out = tmp_path / "out"
    run = own.run("generate/generate", LONG | {"jobs": str(pictures), "out": str(out)})
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        made = len(list(out.glob("latents/*.safetensors")))
        wait_for(lambda made=made: len(list(out.glob("latents/*.safetensors"))) > made + 2, "work to go on")
        own.stop("server", number)
        time.sleep(5)
        own.start_server()
    assert own.wait_for_end(run, 3600)[:2] == ("COMPLETED", "Completed")
    assert len(list(out.glob("videos/*.mp4"))) == 120


@pytest.mark.waiting
def test_a_lost_machine_is_crashed_within_three_minutes_and_a_healthy_run_is_untouched(
    own: Served, pictures: Path, tmp_path: Path
):
    own.start_worker()
    healthy = own.run(
        "generate/generate", SMALL | {"jobs": str(pictures), "out": str(tmp_path / "a"), "watch": True, "budget": "10m"}
    )
    assert own.state(healthy)
    dataset = own.run(
        "pipeline/pipeline", {"sources": [str(pictures)], "jobs": str(pictures), "out": str(tmp_path / "b")}
    )
    assert own.wait_for_end(dataset)[0] == "FAILED", "there is no film"
    lost = own.run("finetune/finetune", {"dataset": str(tmp_path / "none"), "out": str(tmp_path / "c")})
    assert own.wait_for_end(lost)[0] == "FAILED"
    wait_for(lambda: own.state(healthy)["name"] == "Running", "the run")
    time.sleep(420)
    assert own.state(healthy)["name"] == "Running"
    assert own.worker
    for child in psutil.Process(own.worker.pid).children(recursive=True):
        child.kill()
    os.killpg(own.worker.pid, signal.SIGKILL)
    own.worker.wait()
    kind, _, message = own.wait_for_end(healthy, 180)
    assert (kind, message.partition(":")[0]) == ("CRASHED", "No sign of life for 100 seconds")


@pytest.mark.waiting
@pytest.mark.database
def test_a_database_that_is_away_for_a_minute_ends_no_run(
    on_database: tuple[Served, Database], pictures: Path, tmp_path: Path
):
    served, database = on_database
    served.start_worker()
    run, out = begin(served, pictures, tmp_path)
    database.stop()
    time.sleep(60)
    database.start()
    assert served.wait_for_end(run, 3600)[:2] == ("COMPLETED", "Completed")
    assert len(list(out.glob("videos/*.mp4"))) == 120


@pytest.mark.waiting
def test_a_locked_sqlite_ends_no_run(own: Served, pictures: Path, tmp_path: Path):
    own.start_worker()
    run, out = begin(own, pictures, tmp_path, takes=30)
    with sqlite3.connect(own.home / "prefect.db", timeout=60) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(60)
    assert own.wait_for_end(run, 3600)[:2] == ("COMPLETED", "Completed")
    assert len(list(out.glob("videos/*.mp4"))) == 90


@pytest.mark.waiting
def test_a_server_whose_disk_is_full_ends_no_run_once_there_is_room(own: Served, pictures: Path, tmp_path: Path):
    own.start_worker()
    run, out = begin(own, pictures, tmp_path, takes=30)
    assert own.server
    servers = [psutil.Process(own.server.pid), *psutil.Process(own.server.pid).children(recursive=True)]
    for each in servers:
        resource.prlimit(each.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(60)
    for each in servers:
        resource.prlimit(each.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert own.wait_for_end(run, 3600)[:2] == ("COMPLETED", "Completed")
    assert len(list(out.glob("videos/*.mp4"))) == 90
