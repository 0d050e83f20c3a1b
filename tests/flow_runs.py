"""What a Prefect server says of runs: as its page lists them."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort


def list_runs(out: Path) -> list[FlowRun]:
    """The runs with this output folder, the latest first."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=50)
    return [run for run in runs if Path(run.parameters.get("config", {}).get("out", "")) == out]


def show_state(out: Path) -> tuple[str, str, str]:
    """The type, the name and the message of the latest run's state with this output folder."""
    state = list_runs(out)[0].state
    assert state
    return state.type.value, state.name or "", state.message or ""


def read_logs(run: FlowRun) -> list[str]:
    """The lines in a run's log."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
    return [each.message for each in logs]


def read_run(run_id: object) -> FlowRun:
    """A run by its number."""
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))[0]  # pyright: ignore[reportArgumentType]
