"""A server on this machine that speaks OpenAI's chat completions, well or badly, as a test has it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

Answer = tuple[int, Any]


def said(text: Any) -> Answer:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


class Server(ThreadingHTTPServer):
    """Speaks chat completions: gives the `answers` in turn, the last one for ever, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [said("A dog runs.")]
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.slow_s = 0.0
        self.retry_after = "soon"
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(Server, self.server)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            answers = server.answers
            status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        time.sleep(server.slow_s)
        with server.lock:
            server.busy -= 1
        if answer == "echo":
            status, answer = said(body["messages"][0]["content"])
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.send_header("retry-after", server.retry_after)
            self.end_headers()
            self.wfile.write(content)
        except BrokenPipeError:
            return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests are silent."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
