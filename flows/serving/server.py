"""The server of `reelmill up`: Prefect's, with its UI and services, behind the gate; it ends with its parent."""

import json
import os
import socket
import sys
from functools import partial
from pathlib import Path

from flows.running.metrics import read_metrics
from flows.serving.gate import Gate
from flows.serving.home import Home
from tasks.services import end_with_parent


def serve(home: Home, hosts: frozenset[str], descriptor: int) -> None:
    """Serve on an open socket until the process is asked to end."""
    import uvicorn
    from prefect.server.api.server import create_app

    gate = Gate(
        create_app(final=True),
        home.pages,
        partial(read_metrics, home.folder),
        hosts,
        os.environ.get("PREFECT_SERVER_API_AUTH_STRING"),
    )
    # A person who looks at the UI holds connections open; they do not keep the server from ending.
    config = uvicorn.Config(gate, log_level="warning", timeout_graceful_shutdown=5, lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    end_with_parent()
    serve(Home(Path(sys.argv[1])), frozenset(json.loads(sys.argv[2])), int(sys.argv[3]))
