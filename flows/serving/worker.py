"""The worker of `reelmill up`: it tells the server what is deployed, then runs what the server has for it.

Its runs are processes of its own; when it is asked to end, it asks them first, and they save what they have.
"""

import asyncio
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.serving.home import Home
from tasks.services import end_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POLL_S = 0.2


NAME = socket.gethostname()
"""The worker's name in the UI. The same worker is one entry there, however often it starts."""


async def work(home: Home, address: str, folder: Path) -> None:
    """Set up what the server needs, and work until the process is asked to end."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS
    from prefect.workers.process import ProcessWorker

    from flows.serving.deployments import deploy_all
    from flows.serving.set_up import POOL, set_up_limits

    await asyncio.to_thread(set_up_limits)
    async with get_client() as client:
        await deploy_all(client, folder)
        heartbeat = int(PREFECT_WORKER_HEARTBEAT_SECONDS.value())
        worker = ProcessWorker(POOL, name=NAME, heartbeat_interval_seconds=heartbeat)
        working = asyncio.ensure_future(worker.start())
        while not working.done() and not await _is_known(client, POOL):
            await asyncio.sleep(POLL_S)
        home.write_address(address)
        await working


async def _is_known(client: "PrefectClient", pool: str) -> bool:
    """Say whether the server knows that the worker is there."""
    workers = await client.read_workers_for_work_pool(pool)
    return any(worker.name == NAME and worker.status == "ONLINE" for worker in workers)


async def _work_until_asked(home: Home, address: str, folder: Path) -> None:
    task = asyncio.ensure_future(work(home, address, folder))
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(_work_until_asked(Home(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])))
