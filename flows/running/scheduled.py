"""What a schedule asks of a run that it started: the time it is counted from, and whether a later firing stands for it.

A night may start late, because the one before it took its place or the machine was off. Its end is still the hour that
was set, on the clock of the schedule's zone. Where several firings were missed, the latest runs, and it alone.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

MOST = 200
"""Runs of one deployment that are looked at, the latest first."""


def find_scheduled_time() -> datetime | None:
    """Return when the schedule of the current run wanted it to start, in the schedule's zone; None where no schedule
    started it."""
    run = _find_scheduled_run()
    if run is None or run.expected_start_time is None:
        return None
    with get_client(sync_client=True) as client:
        return run.expected_start_time.astimezone(_find_zone(client, run))


def find_later_firing() -> datetime | None:
    """Return when a later firing of the current run's schedule was due, if one was by now: it stands for this run."""
    run = _find_scheduled_run()
    if run is None or run.expected_start_time is None:
        return None
    due = [each for each in _list_due(run) if each > run.expected_start_time]
    return max(due, default=None)


def _find_scheduled_run() -> FlowRun | None:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run and run.auto_scheduled and run.deployment_id and run.created_by else None


def _list_due(run: FlowRun) -> list[datetime]:
    """Return when other runs of the same schedule were due that nobody cancelled."""
    assert run.deployment_id
    assert run.created_by
    of = DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id]))
    now = datetime.now().astimezone()
    waiting = FlowRunFilter.model_validate({"next_scheduled_start_time": {"before_": now}})
    begun = FlowRunFilter.model_validate({"start_time": {"after_": run.expected_start_time}})
    with get_client(sync_client=True) as client:
        found = [
            each
            for which in (waiting, begun)
            for each in client.read_flow_runs(
                flow_run_filter=which,
                deployment_filter=of,
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=MOST,
            )
        ]
    return [
        each.expected_start_time
        for each in found
        if each.id != run.id
        and each.created_by
        and each.created_by.id == run.created_by.id
        and each.expected_start_time
        and each.expected_start_time <= now
        and not (each.state and each.state.is_cancelled())
    ]


def _find_zone(client: SyncPrefectClient, run: FlowRun) -> ZoneInfo:
    """Return the zone of the schedule that started a run; where it is gone since, that of the first one, else UTC."""
    assert run.deployment_id
    assert run.created_by
    try:
        schedules = client.read_deployment(run.deployment_id).schedules
    except ObjectNotFound:
        schedules = []
    own = [each for each in schedules if each.id == run.created_by.id] or schedules
    zone = getattr(own[0].schedule, "timezone", None) if own else None
    return ZoneInfo(zone or "UTC")
