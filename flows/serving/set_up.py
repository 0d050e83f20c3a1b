"""What a server is told once beside its deployments: the work pool, a limit per GPU, automations.

Each part may be repeated: what is there stays, and what a person switched off stays off.
"""

from collections.abc import Iterable
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.running.gpu_limit import list_limits
from flows.serving.settings import LOST_AFTER_S

POOL = "reelmill"

LOST = "Reelmill: a machine is lost"


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
