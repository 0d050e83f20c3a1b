"""What stands before Prefect's server: who may ask, the pages of output folders, and figures for Prometheus.

Prefect's API obeys whatever page is open in a browser on the same machine: it allows every origin, and takes JSON
without a content type, which browsers send anywhere unasked. So requests that another page sent are refused here, and
so are those to a name that is not this server's. Pages of output folders have strings of strangers in them: they run in
a sandbox, and can ask for nothing.
"""

import base64
import hmac
import mimetypes
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import FileResponse, PlainTextResponse, Response

from tasks.ledger import find_root, read_ledger

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

PAGES, METRICS = "/pages/", "/metrics"

SHOWN = {".html", ".mp4", ".webp", ".gif", ".png", ".jpg", ".jpeg", ".json", ".csv", ".parquet"}
"""What is shown of an output folder."""

SANDBOX = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads allow-popups; connect-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""What a page of an output folder may do: its own scripts run, and reach neither the API nor anything else."""


class Gate:
    """The ASGI application around Prefect's `app`. `hosts` are the names by which it may be asked, none for any; `auth`
    is USER:PASSWORD; `pages` has a link for each output folder; `tell` gives the figures."""

    def __init__(
        self,
        app: App,
        pages: Path,
        tell: Callable[[], str],
        hosts: frozenset[str] = frozenset(),
        auth: str | None = None,
    ) -> None:
        self._app, self._pages, self._tell, self._hosts, self._auth = app, pages, tell, hosts, auth

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not is_own(headers, self._hosts):
            await _refuse(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith((PAGES, METRICS)):
            await self._answer(scope["path"], headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _answer(self, path: str, headers: Mapping[str, str]) -> Response:
        if self._auth is not None and not knows(headers.get("authorization", ""), self._auth):
            asked = {"WWW-Authenticate": 'Basic realm="Reelmill", charset="UTF-8"'}
            return PlainTextResponse("Name and password, please.", status_code=401, headers=asked)
        if path == METRICS:
            return PlainTextResponse(self._tell(), media_type="text/plain; version=0.0.4; charset=utf-8")
        found = find_page(self._pages, path.removeprefix(PAGES))
        if found is None:
            return PlainTextResponse("There is no such page.", status_code=404, headers=SANDBOX)
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return FileResponse(found, media_type=kind, headers=SANDBOX)


def is_own(headers: Mapping[str, str], hosts: frozenset[str]) -> bool:
    """Say whether a request was sent to one of `hosts`, or any where there are none, and by no other site's page."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if hosts and host not in hosts:
        return False
    return origin is None or urlsplit(origin).netloc == host


def knows(header: str, auth: str) -> bool:
    """Say whether an Authorization header has the name and password `auth`."""
    scheme, _, told = header.partition(" ")
    try:
        given = base64.b64decode(told, validate=True)
    except ValueError:
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, auth.encode())


def find_page(pages: Path, name: str) -> Path | None:
    """Return the file of an output folder that `ID/PATH` names: one that Reelmill wrote there, and whose kind is
    shown."""
    key, _, inside = name.partition("/")
    if not key.isalnum() or not inside or "\0" in inside or any(part.startswith(".") for part in Path(inside).parts):
        return None
    try:
        root = (pages / key).resolve(strict=True)
        path = (root / inside).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    owner = find_root(path)
    if owner is None or not path.is_relative_to(root) or not owner.is_relative_to(root):
        return None
    written = path.relative_to(owner).as_posix() in read_ledger(owner)
    return path if written and path.is_file() and path.suffix.lower() in SHOWN else None


async def _refuse(scope: Scope, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    said = "This server is asked by its own pages and name alone."
    await PlainTextResponse(said, status_code=403)(scope, receive, send)
