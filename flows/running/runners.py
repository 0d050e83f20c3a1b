"""Where the chunks of a run work: threads of this machine, a Dask or a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.running.config import FlowConfig
from models.errors import BadInput


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_thread_pool(workers: int | None = None) -> TaskRunner[Any]:
    """Return a bounded pool of threads for chunks; the steps' heavy work is outside the interpreter or in children."""
    return ThreadPoolTaskRunner(max_workers=workers or count_cores())


def make_runner(config: FlowConfig) -> TaskRunner[Any]:
    """Return the runner that a config names; raises BadInput when its package is not installed."""
    if config.runner == "threads":
        return make_thread_pool(config.workers)
    try:
        if config.runner == "dask":
            from prefect_dask import DaskTaskRunner  # pyright: ignore[reportMissingImports]

            return DaskTaskRunner()
        from prefect_ray import RayTaskRunner  # pyright: ignore[reportMissingImports]

        return RayTaskRunner()
    except ImportError as error:
        raise BadInput(
            f"--runner {config.runner} needs a package that is not installed: uv pip install '.[{config.runner}]'."
        ) from error


@contextmanager
def on_its_runner(config: object) -> Iterator[None]:
    """Let the tasks of the current run work where its config says: a deployment's flow begins on the flow's own runner.
    Raises BadInput as `make_runner`."""
    context = FlowRunContext.get()
    if context is None or not isinstance(config, FlowConfig):
        yield
        return
    wanted, there = make_runner(config), context.task_runner
    workers = [getattr(each, "_max_workers", None) for each in (wanted, there)]
    if type(wanted) is type(there) and workers[0] == workers[1]:
        yield
        return
    with wanted as runner, context.model_copy(update={"task_runner": runner}):
        yield
