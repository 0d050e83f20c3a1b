"""The deployments of prefect.yaml, for the runs of an installed Reelmill in any folder.

What a person changed in the UI stays: of a deployment that is there, its schedules, its default parameters and whether
it is paused are not touched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import construct_schedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from flows.serving.set_up import POOL

ROOT = Path(__file__).parents[2]

WORKDIR = "prefect.deployments.steps.set_working_directory"


async def deploy_all(client: PrefectClient, folder: Path) -> None:
    """Make or renew every deployment; relative paths of runs start from `folder`."""
    for told in read_deployments():
        await deploy(client, told, folder)


def read_deployments(path: Path = ROOT / "prefect.yaml") -> list[dict[str, Any]]:
    """Return the deployments of a file for Prefect."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]


async def deploy(client: PrefectClient, told: Mapping[str, Any], folder: Path) -> None:
    """Make a deployment, or renew it; relative paths of its runs start from `folder`."""
    module, function = told["entrypoint"].removesuffix(".py").replace("/", ".").replace(".py:", ":").split(":")
    entrypoint = f"{module}.{function}"
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    limit = told.get("concurrency_limit")
    facts: dict[str, Any] = {
        "description": told["description"],
        "tags": told.get("tags", []),
        "entrypoint": entrypoint,
        "pull_steps": [{WORKDIR: {"directory": str(folder)}}],
        "work_pool_name": POOL,
        "work_queue_name": "default",
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        **_split_limit(limit),
    }
    try:
        there = await client.read_deployment_by_name(f"{flow.name}/{told['name']}")
    except ObjectNotFound:
        schedules = [_make_schedule(each) for each in told.get("schedules", [])]
        await client.create_deployment(
            flow_id=await client.create_flow_from_name(flow.name),
            name=told["name"],
            parameters=told["parameters"],
            schedules=schedules,
            **facts,
        )
        return
    await client.update_deployment(there.id, DeploymentUpdate.model_validate(facts))


def _split_limit(limit: Any) -> dict[str, Any]:
    if not isinstance(limit, dict):
        return {"concurrency_limit": limit}
    config = ConcurrencyLimitConfig.model_validate(limit)
    options = {"collision_strategy": config.collision_strategy}
    return {"concurrency_limit": config.limit, "concurrency_options": options}


def _make_schedule(told: Mapping[str, Any]) -> DeploymentScheduleCreate:
    own = {name: value for name, value in told.items() if name not in ("active", "parameters", "slug")}
    return DeploymentScheduleCreate(
        schedule=construct_schedule(**own),
        active=told["active"],
        parameters=told.get("parameters", {}),
        slug=told.get("slug"),
    )
