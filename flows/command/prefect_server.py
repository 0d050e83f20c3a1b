"""A Prefect server for one command, for users who run none: it ends with the command, even after kill -9.

Prefect starts such a server too, but leaves it behind when its client is killed, and loads the server's code in the
client as well. Here the command opens the port, passes it to the server's process and continues; requests wait in
the port's queue until the server is up. Where the user names a server, by PREFECT_API_URL or a profile, none starts.
"""

import os
import socket
import sys
from collections.abc import Mapping

from flows.serving.chosen_api import find_configured_api
from flows.serving.settings import SILENT
from tasks.services import Server, end_with_parent, start_server

QUIET: Mapping[str, str] = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "reelmill",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_API_REQUEST_TIMEOUT": "300",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads that spin while they wait slow down those of other processes on the same cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Defaults that the user may override: no log lines of Prefect on the terminal (its server keeps them),
our log lines in its UI, and silent model loaders. OpenMP's threads sleep while they wait: with spinning threads, two
busy processes slow each other down fivefold."""

UNSEEN = "REELMILL_UNSEEN"
"""Set where the server is one command's own and has no UI; runs then tell nobody (flows/running/story.py)."""

SERVER: Mapping[str, str] = {
    **SILENT,
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}
"""Settings of the servers started here, whatever the user's environment or profile says: no calls home, no UI."""

_started: list[Server] = []
"""The started servers, kept so that their pipes stay open: Prefect sends its last log lines at exit."""


def settle_environment() -> None:
    """Set the settings above in the environment; call it before Prefect is imported."""
    os.environ.update(SILENT)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def ensure_server() -> None:
    """Start a Prefect server that ends with this process, unless the user has chosen one.

    Sets PREFECT_API_URL, so call it before Prefect is imported.
    """
    if find_configured_api():
        return
    with socket.create_server(("127.0.0.1", 0)) as port:
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port.getsockname()[1]}/api"
        os.environ[UNSEEN] = "1"
        start(port)


def start(port: socket.socket) -> Server:
    """Start a server on an open port; it ends when its standard input closes, at the latest with this process."""
    process = start_server("flows.command.prefect_server", port, SERVER)
    _started.append(process)
    return process


def serve(descriptor: int) -> None:
    """Serve Prefect's API on an open socket until standard input closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(ephemeral=True, final=True), log_level="critical", timeout_graceful_shutdown=5)
    )
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    end_with_parent()
    serve(int(sys.argv[1]))
