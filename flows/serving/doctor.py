"""`reelmill doctor`: what this machine and the server lack, and the command that mends it. Nothing is changed."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import httpx
from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict, Field

from flows.running.config import Outcome
from flows.serving.chosen_api import find_configured_api
from flows.serving.home import Home, find_home
from models.errors import ReelmillError

State = Literal["ok", "note", "wrong"]

LEAST_GB = 5.0
"""Less free disk than this does not last a night."""

MOST_SKEW_S = 5.0
"""Schedules fire by the server's clock, deadlines end by the run's."""

ANSWER_S = 30.0

START = "reelmill up"


class DoctorConfig(BaseModel):
    """What is looked at beside this machine: a server, and a folder's disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(default=None, description="Folder that `reelmill up` was given, if it was")
    folder: Path = Field(default=Path(), description="Folder whose disk the outputs go to")
    min_free_gb: float = Field(default=LEAST_GB, ge=0, description="Gigabytes of disk that should be free")


class Finding(BaseModel):
    """What one look found; `mend` is the command, or the words, that mend what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: State
    said: str
    mend: str | None = None

    def __str__(self) -> str:
        mend = f"\n{'':<16}mend: {self.mend}" if self.mend else ""
        return f"{self.state:<6}{self.name:<10}{self.said}{mend}"


class Diagnosis(Outcome):
    """All findings; as many failed as are wrong."""

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        end = f"{self.failed} wrong" if self.failed else "nothing is wrong"
        return "\n".join([*map(str, self.findings), end])


def doctor(config: DoctorConfig) -> Diagnosis:
    """Look at everything, and go on where one look fails."""
    check(config)
    home = find_home(config.home)
    looks: list[tuple[str, Callable[[], Finding | list[Finding]]]] = [
        ("python", look_at_python),
        ("packages", look_at_packages),
        ("torch", look_at_torch),
        ("ffmpeg", look_at_ffmpeg),
        ("weights", look_at_weights),
        ("disk", lambda: look_at_disk(config.folder.absolute(), config.min_free_gb)),
        ("server", lambda: look_at_server(choose_api(home), os.environ.get("PREFECT_API_AUTH_STRING"))),
    ]
    found = [finding for name, look in looks for finding in _look(name, look)]
    return Diagnosis(failed=sum(each.state == "wrong" for each in found), findings=tuple(found))


def check(config: DoctorConfig) -> list[str]:
    """Return nothing: looking changes nothing either. Raises BadInput where there is no such home."""
    find_home(config.home).check_place()
    return []


def _look(name: str, look: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    try:
        found = look()
    except (ReelmillError, OSError, ImportError, ValueError) as error:
        return [Finding(name=name, state="wrong", said=" ".join(str(error).split()), mend="make install")]
    return found if isinstance(found, list) else [found]


def look_at_python(version: Sequence[int] = sys.version_info[:2]) -> Finding:
    """Say whether this Python is one that Reelmill is tested with."""
    said = ".".join(map(str, version))
    asked = Requirement(f"python{metadata.metadata('reelmill')['Requires-Python']}").specifier
    if said in asked:
        return Finding(name="python", state="ok", said=said)
    return Finding(
        name="python", state="wrong", said=f"{said}, and {asked} is needed", mend="make install PYTHON=python3.11"
    )


def look_at_packages(find_version: Callable[[str], str] = metadata.version) -> Finding:
    """Say whether every package that Reelmill needs is there in a version that it was tried with."""
    wrong = list(_list_unfit(find_version))
    if wrong:
        return Finding(name="packages", state="wrong", said="; ".join(wrong), mend="make install")
    shown = ", ".join(f"{name} {find_version(name)}" for name in ("prefect", "sqlalchemy", "diffusers"))
    return Finding(name="packages", state="ok", said=shown)


def _list_unfit(find_version: Callable[[str], str]) -> Iterator[str]:
    for told in metadata.requires("reelmill") or ():
        asked = Requirement(told)
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            version = find_version(asked.name)
        except metadata.PackageNotFoundError:
            yield f"{asked.name} is missing"
            continue
        if not asked.specifier.contains(version, prereleases=True):
            yield f"{asked.name} is {version}, and {asked.specifier} is needed"


def look_at_torch() -> Finding:
    """Say which torch there is, and which GPU it can use."""
    import torch

    from models.device import find_device, format_device

    device = find_device("auto")
    if device.type == "cuda":
        return Finding(name="torch", state="ok", said=f"{torch.__version__}, {format_device(device)}")
    said = f"{torch.__version__}, no GPU that it can use: everything runs on the CPU"
    if Path("/dev/nvidiactl").exists():
        return Finding(name="torch", state="wrong", said=f"{said}, and there is an NVIDIA GPU", mend="nvidia-smi")
    return Finding(name="torch", state="note", said=said)


def look_at_ffmpeg() -> Finding:
    """Say which ffmpeg runs; raises BadInput where none can."""
    from tasks.media.video import find_ffmpeg, read_ffmpeg_version

    exe = find_ffmpeg()
    return Finding(name="ffmpeg", state="ok", said=".".join(map(str, read_ffmpeg_version(exe))))


def look_at_weights() -> list[Finding]:
    """Say whether the embedded model is whole, and which models of the preset `svd` are here."""
    from flows.curate import CurateConfig, locate_models, svd
    from models.errors import BadModel
    from models.weights.names import find_model_folder, find_revision

    find_model_folder("tiny")
    own = Finding(name="weights", state="ok", said=f"embedded model {find_revision('tiny')}")
    try:
        locate_models(CurateConfig.model_validate({"sources": ["x"], "out": "x", **svd()}))
    except BadModel as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        said = f"`curate --preset svd` lacks {len(lines)} models: docs/weights.md has the commands"
        return [own, Finding(name="weights", state="note", said=said)]
    return [own, Finding(name="weights", state="ok", said="all models of `curate --preset svd`")]


def look_at_disk(folder: Path, least_gb: float) -> Finding:
    """Say how much disk is free where outputs go."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < least_gb:
        said = f"{there}: {free:.1f} GB are free, {least_gb:g} should be"
        return Finding(name="disk", state="wrong", said=said, mend=f"du -h --max-depth 2 {folder} | sort -h")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name="disk", state="wrong", said=f"{there}: cannot be written to", mend=f"ls -ld {there}")
    return Finding(name="disk", state="ok", said=f"{free:.0f} GB free in {there}")


def choose_api(home: Home) -> str | None:
    """Return the address of the API that commands use: the one that is set, else that of `reelmill up`."""
    address = home.read_address() if home.find_holder() else None
    return find_configured_api() or (f"{address}/api" if address else None)


def look_at_server(api: str | None, auth: str | None) -> list[Finding]:
    """Say whether the server answers, its scheduler plans, a worker is there, limits hold, and the clocks agree."""
    if api is None:
        said = "none is up: commands bring their own, schedules do not fire"
        return [Finding(name="server", state="note", said=said, mend=START)]
    user, _, password = (auth or "").partition(":")
    with httpx.Client(base_url=api, auth=(user, password) if auth else None, timeout=ANSWER_S) as client:
        try:
            answer = client.get("/admin/version")
        except httpx.HTTPError as error:
            said = f"{api}: does not answer ({type(error).__name__})"
            return [Finding(name="server", state="wrong", said=said, mend=START)]
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            mend = 'export PREFECT_API_AUTH_STRING="$(cat FILE)" with the file of --auth'
            return [Finding(name="server", state="wrong", said=f"{api}: asks for a password", mend=mend)]
        answer.raise_for_status()
        own = metadata.version("prefect")
        same = answer.json() == own
        server = Finding(
            name="server",
            state="ok" if same else "wrong",
            said=f"{api}, Prefect {answer.json()}" + ("" if same else f", and this is {own}"),
            mend=None if same else "make install on both machines, then reelmill up",
        )
        return [server, look_at_clock(answer.headers.get("date")), *_look_into_server(client)]


def look_at_clock(server: str | None, now: datetime | None = None) -> Finding:
    """Say how far this clock is from the server's, which tells the time in whole seconds."""
    if server is None:
        return Finding(name="clock", state="note", said="the server tells no time")
    skew = ((now or datetime.now(UTC)) - parsedate_to_datetime(server)).total_seconds()
    if abs(skew) > MOST_SKEW_S:
        said = f"{skew:+.0f} s from the server's: schedules and deadlines are off"
        return Finding(name="clock", state="wrong", said=said, mend="timedatectl set-ntp true")
    return Finding(name="clock", state="ok", said="that of the server")


def _look_into_server(client: httpx.Client) -> list[Finding]:
    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        return client.post(path, json=body or {}).raise_for_status().json()

    deployments = ask("/deployments/filter")
    planned = {
        each["id"]: ask("/flow_runs/count", _plan_filter(each["id"]))
        for each in deployments
        if not each["paused"] and any(schedule["active"] for schedule in each["schedules"])
    }
    pools = {each["name"]: each for each in ask("/work_pools/filter")}
    workers = [
        worker for name in pools for worker in ask(f"/work_pools/{name}/workers/filter") if worker["status"] == "ONLINE"
    ]
    limits = ask("/v2/concurrency_limits/filter")
    names = {each["id"]: each["name"] for each in deployments}
    return [
        look_at_deployments(len(deployments)),
        look_at_scheduler({names[key]: count for key, count in planned.items()}),
        look_at_workers([worker["name"] for worker in workers]),
        look_at_limits(limits, names),
    ]


def _plan_filter(deployment: str) -> dict[str, Any]:
    return {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"after_": f"{datetime.now(UTC):%FT%TZ}"},
        },
    }


def look_at_deployments(count: int) -> Finding:
    """Say whether anything can be run from the UI."""
    if count:
        return Finding(name="deployed", state="ok", said=f"{count} deployments")
    return Finding(name="deployed", state="wrong", said="no deployments", mend=START)


def look_at_scheduler(planned: dict[str, int]) -> Finding:
    """Say whether every deployment whose schedule is on has runs planned; `planned` counts them by deployment."""
    idle = sorted(name for name, count in planned.items() if not count)
    if idle:
        said = f"the schedule of {', '.join(idle)} is on, and no run is planned: the scheduler does not work"
        return Finding(
            name="scheduler", state="wrong", said=said, mend="make install, then reelmill down and reelmill up"
        )
    if not planned:
        return Finding(name="scheduler", state="note", said="no schedule is on")
    return Finding(name="scheduler", state="ok", said=f"{sum(planned.values())} runs planned")


def look_at_workers(names: Sequence[str]) -> Finding:
    """Say which workers are there."""
    if names:
        return Finding(name="workers", state="ok", said=", ".join(names))
    return Finding(name="workers", state="wrong", said="none is there: runs wait", mend=START)


def look_at_limits(limits: Sequence[dict[str, Any]], names: Mapping[str, str]) -> Finding:
    """Say how full the limits are; `names` has the deployments by id, for limits are named by that."""
    active = [each for each in limits if each["active"]]
    if not active:
        return Finding(name="limits", state="note", said="none is set")
    said = [f"{_name_limit(each['name'], names)} {each['active_slots']:g} of {each['limit']}" for each in active]
    return Finding(name="limits", state="ok", said=", ".join(sorted(said)))


def _name_limit(name: str, names: Mapping[str, str]) -> str:
    kind, _, key = name.partition(":")
    return names.get(key, name) if kind == "deployment" else name
