"""What a server is told once, and again after a change: the work pool, the deployments, a limit per GPU, automations.

Each part may be repeated: what is there stays, and what a person switched on stays on.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.events import AutomationCore, EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.running.gpu_limit import list_limits
from flows.serving.settings import LOST_AFTER_S
from models.errors import BadInput
from tasks.child_process import run_program

POOL = "reelmill"

LOST = "Reelmill: a machine is lost"

DEPLOY_LIMIT_S = 1800.0
"""Seconds after which a deploy that hangs is given up."""


def set_up(checkout: Path) -> None:
    """Set up the server that Prefect's settings name, for the flows of a checkout. Raises BadInput where a deployment
    is refused."""
    set_up_limits()
    with get_client(sync_client=True) as client:
        wanted = yaml.safe_load((checkout / "prefect.yaml").read_text(encoding="utf-8"))
        for each in wanted["deployments"]:
            each["schedules"] = keep_switched(each.get("schedules", []), read_schedules(client, _name(each)))
    deploy(checkout, wanted)


def set_up_limits() -> None:
    """Make the work pool, the limits of this machine's GPUs and the automations, where they are not there."""
    with get_client(sync_client=True) as client:
        make_pool(client)
        make_limits(client, list_limits())
        make_automations(client, [make_lost_machine()])


def make_pool(client: SyncPrefectClient) -> None:
    """Make the work pool of this machine's processes, where there is none."""
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    except ObjectAlreadyExists:
        return


def make_limits(client: SyncPrefectClient, names: Iterable[str]) -> None:
    """Make the limits that let one run at a time work on a GPU, where they are not there."""
    there = {limit.name for limit in client.read_global_concurrency_limits(limit=200)}
    for name in names:
        if name not in there:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def make_automations(client: SyncPrefectClient, wanted: Iterable[AutomationCore]) -> None:
    """Make these automations, or what they are now of those that are there; one that was switched off stays off."""
    for each in wanted:
        same = client.read_automations_by_name(each.name)
        if not same:
            client.create_automation(each)
        for there in same:
            client.update_automation(there.id, each.model_copy(update={"enabled": there.enabled}))


def make_lost_machine() -> AutomationCore:
    """Return the automation by which a run without a sign of life is Crashed, within three minutes.

    Any state that a run comes to ends the wait, whatever its name: one that is called "27 of 30, 3 failed" too.
    """
    return AutomationCore(
        name=LOST,
        description=f"A run that gave no sign of life for {LOST_AFTER_S} seconds is Crashed: its machine is gone.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},  # pyright: ignore[reportArgumentType]
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=LOST_AFTER_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                force=False,
                message=f"No sign of life for {LOST_AFTER_S} seconds: its machine, or its process, is gone.",
            )
        ],  # pyright: ignore[reportArgumentType]
    )


def read_schedules(client: SyncPrefectClient, deployment: str) -> list[DeploymentSchedule]:
    """Return the schedules that a deployment has on the server; none where it is not there."""
    try:
        return client.read_deployment_by_name(deployment).schedules
    except ObjectNotFound:
        return []


def keep_switched(wanted: Sequence[Mapping[str, Any]], there: Sequence[DeploymentSchedule]) -> list[dict[str, Any]]:
    """Return the wanted schedules, each on or off as the one of its slug that is there, and those that were added."""
    by_slug = {each.slug: each for each in there if each.slug}
    kept = [dict(each) | ({"active": by_slug[s].active} if (s := each["slug"]) in by_slug else {}) for each in wanted]
    slugs = {each["slug"] for each in wanted}
    added = [each for each in there if each.slug not in slugs]
    return [*kept, *(_describe(each, f"added-{number}") for number, each in enumerate(added, start=1))]


def _describe(there: DeploymentSchedule, slug: str) -> dict[str, Any]:
    """Return a schedule of the server as prefect.yaml writes it."""
    timing: dict[str, Any] = {}
    match there.schedule:
        case CronSchedule() as cron:
            timing = {"cron": cron.cron, "day_or": cron.day_or}
        case IntervalSchedule() as interval:
            timing = {"interval": interval.interval.total_seconds(), "anchor_date": interval.anchor_date.isoformat()}
        case RRuleSchedule() as rule:
            timing = {"rrule": rule.rrule}
        case _:
            return {}
    facts = {"slug": there.slug or slug, "timezone": there.schedule.timezone, "active": there.active}
    return timing | facts | ({"parameters": there.parameters} if there.parameters else {})


def deploy(checkout: Path, wanted: Mapping[str, Any]) -> None:
    """Deploy what `wanted` says, in the words of prefect.yaml; raises BadInput where Prefect refuses it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(dict(wanted), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        environment = {"REELMILL_HOME": str(checkout), "PREFECT_LOGGING_LEVEL": "ERROR"}
        ended = run_program(["env", f"--chdir={checkout}", *command], limit_s=DEPLOY_LIMIT_S, environment=environment)
    if ended.code:
        said = (ended.messages or ended.output).decode(errors="replace").strip()
        raise BadInput(f"{checkout / 'prefect.yaml'}: was not deployed: {said[-1000:]}")


def _name(deployment: Mapping[str, Any]) -> str:
    """Return the name under which the server knows a deployment: its flow's and its own."""
    return f"{deployment['entrypoint'].rpartition(':')[2]}/{deployment['name']}"
