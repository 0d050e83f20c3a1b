"""A Prefect server that stays up, with a worker, as `deployments/README.md` starts them: for tests that break them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from flows.serving.settings import RUNS, SERVER

CHECKOUT = Path(__file__).parents[1]

PATIENCE_S = 1800.0
"""How long a test waits before it fails; none passes or fails by how fast the machine is."""

SET_UP = """
import asyncio, os
from pathlib import Path
from prefect.client.orchestration import get_client
from flows.serving.deployments import deploy_all
from flows.serving.set_up import set_up_limits

async def deploy():
    async with get_client() as client:
        await deploy_all(client, Path(os.environ["REELMILL_HOME"]))

set_up_limits()
asyncio.run(deploy())
"""
"""What a worker of `reelmill up` does before it works."""


def wait_for(found: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Return the first true value of `found`."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return value


def free_port() -> int:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return port.getsockname()[1]


@dataclass
class Served:
    """A server and a worker with a home of their own; each is a group of processes."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    server: "subprocess.Popen[bytes] | None" = None
    worker: "subprocess.Popen[bytes] | None" = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        own = {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.api, "REELMILL_HOME": str(CHECKOUT)}
        return {**os.environ, **RUNS, **own, "XDG_STATE_HOME": str(self.home / "state")}

    def start_server(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = self._start(command, "server.log", {**SERVER, **self.settings})
        wait_for(self.is_up, "the server")

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "reelmill"]
        self.worker = self._start(command, "worker.log", {"PREFECT_WORKER_QUERY_SECONDS": "2"})

    def _start(self, command: list[str], log: str, more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / log).open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=self.home,
                env={**self.environment, **more},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def set_up(self) -> None:
        """Set the server up in a process of its own, as its settings are read once."""
        subprocess.run(
            [sys.executable, "-c", SET_UP], cwd=CHECKOUT, env=self.environment, check=True, timeout=PATIENCE_S
        )

    def stop(self, which: str, number: int = signal.SIGTERM) -> None:
        process = self.server if which == "server" else self.worker
        if process and process.poll() is None:
            os.killpg(process.pid, number)
            process.wait(PATIENCE_S)

    def close(self) -> None:
        for which in ("worker", "server"):
            self.stop(which, signal.SIGKILL)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.api}{path}", json=body, timeout=300)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def find_deployment(self, name: str) -> dict[str, Any]:
        return self.ask("GET", f"/deployments/name/{name}")

    def run(self, deployment: str, config: Mapping[str, Any]) -> str:
        """Start a run of a deployment by hand; return its number."""
        found = self.find_deployment(deployment)
        body = {"parameters": {"config": {**found["parameters"]["config"], **config}}}
        return self.ask("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"]

    def list_runs(self, deployment: str) -> list[dict[str, Any]]:
        return self.ask(
            "POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [self.find_deployment(deployment)["id"]]}}}
        )

    def state(self, run: str | UUID) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run}")["state"]

    def wait_for_end(self, run: str, seconds: float = PATIENCE_S) -> tuple[str, str, str]:
        """The type, name and message of the state in which a run ended."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.state(run)["type"] in final, f"the end of run {run}", seconds)
        state = self.state(run)
        return state["type"], state["name"], state["message"] or ""

    def logs(self, run: str) -> list[str]:
        found = self.ask("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [each["message"] for each in sorted(found, key=lambda each: each["timestamp"])]
