"""One run at a time on a GPU: a limit of the Prefect server for each, named by host and by the GPU's own number.

Set-up makes the limits. A run of a deployment is refused where its GPU has none; a command, which may have brought its
own server, then runs without.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext

from models.device import count_gpus
from models.errors import BadInput

log = logging.getLogger("reelmill")

_held: ContextVar[frozenset[str]] = ContextVar("_held", default=frozenset())


def name_limit(index: int) -> str:
    """Return the name of the limit of a GPU, by the number that torch gives it in this process."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    number = visible[index] if index < len(visible) else str(index)
    return f"gpu-{socket.gethostname()}-{number}".lower()


def list_limits() -> list[str]:
    """Return the names of the limits of this machine's GPUs."""
    return [name_limit(index) for index in range(count_gpus())]


@contextmanager
def hold_gpu(index: int | None) -> Iterator[None]:
    """Wait for a GPU and hold it during a block; None: no GPU. A flow called inside the block shares it. Raises
    BadInput in a run of a deployment where the server has no limit for the GPU."""
    name = None if index is None else name_limit(index)
    if name is None or name in _held.get():
        yield
        return
    context = FlowRunContext.get()
    deployed = bool(context and context.flow_run and context.flow_run.deployment_id)
    with _place(name, deployed):
        token = _held.set(_held.get() | {name})
        try:
            yield
        finally:
            _held.reset(token)


@contextmanager
def _place(name: str, strict: bool) -> Iterator[None]:
    # A renewal that fails while the server is away does not end the run: its place is kept on disk.
    held = concurrency(name, occupy=1, strict=strict, raise_on_lease_renewal_failure=False)
    try:
        held.__enter__()
    except ConcurrencySlotAcquisitionError as error:
        raise BadInput(
            f"{name}: the server has no limit for this GPU, so that two runs could use it. Run `reelmill up` again, or "
            f"`prefect gcl create {name} --limit 1`."
        ) from error
    try:
        yield
    finally:
        held.__exit__(None, None, None)
