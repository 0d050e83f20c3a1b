"""What stands before the server: other sites' pages and names are refused, pages of output folders are shown alone."""

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.serving.gate import Gate, Scope, find_page, is_own, knows
from tasks.ledger import mark
from tasks.manifest import publish_text


async def prefect(scope: Scope, receive: Any, send: Any) -> None:
    """Stands for the server behind the gate."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output folder with a page, a note of another's beside it, and a link to it in the pages."""
    out = tmp_path / "out"
    out.mkdir()
    mark(out, "curate", "0")
    publish_text(out / "report/index.html", "<h1>ours</h1>")
    publish_text(out / "settings.yaml", "key: value")
    (out / "theirs.html").write_text("theirs")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/abc").symlink_to(out)
    (tmp_path / "outside.html").write_text("outside")
    return tmp_path


def ask(gate: Gate, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://127.0.0.1:4200") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


def make_gate(folder: Path, auth: str | None = None, hosts: frozenset[str] = frozenset({"127.0.0.1:4200"})) -> Gate:
    return Gate(prefect, folder / "pages", lambda: "figures 1\n", hosts, auth)


def test_its_own_pages_and_programs_reach_the_server(folder: Path):
    gate = make_gate(folder)
    assert ask(gate, "/api/health").text == "behind"
    assert ask(gate, "/api/health", {"Origin": "http://127.0.0.1:4200"}).text == "behind"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8000", "https://127.0.0.1"])
def test_a_page_of_another_site_is_refused(folder: Path, origin: str):
    assert ask(make_gate(folder), "/api/health", {"Origin": origin}).status_code == 403


def test_another_name_for_a_loopback_server_is_refused(folder: Path):
    assert ask(make_gate(folder), "/api/health", {"Host": "evil.example:4200"}).status_code == 403
    assert is_own({"host": "studio:4200"}, frozenset())
    assert not is_own({"host": "studio:4200", "origin": "http://evil.example"}, frozenset())


def test_a_page_is_shown_in_a_sandbox_and_nothing_else_of_the_folder(folder: Path):
    gate = make_gate(folder)
    shown = ask(gate, "/pages/abc/report/index.html")
    assert (shown.status_code, shown.text) == (200, "<h1>ours</h1>")
    assert "sandbox" in shown.headers["content-security-policy"]
    assert "allow-same-origin" not in shown.headers["content-security-policy"]
    for name in ("settings.yaml", "theirs.html", ".reelmill.json", "report", "none.html"):
        assert ask(gate, f"/pages/abc/{name}").status_code == 404, name
    assert ask(gate, "/pages/none/report/index.html").status_code == 404


@pytest.mark.parametrize("name", ["abc/../outside.html", "abc//etc/passwd", "../outside.html", "abc/a\0b.html", "abc"])
def test_no_way_leads_out_of_the_folder(folder: Path, name: str):
    assert find_page(folder / "pages", name) is None


def test_a_link_leads_nowhere(folder: Path):
    os.symlink(folder / "outside.html", folder / "out/link.html")
    assert find_page(folder / "pages", "abc/link.html") is None


def test_where_there_is_a_password_pages_and_figures_ask_for_it(folder: Path):
    gate = make_gate(folder, "me:s3cret")
    for path in ("/pages/abc/report/index.html", "/metrics"):
        refused = ask(gate, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        told = base64.b64encode(b"me:s3cret").decode()
        assert ask(gate, path, {"Authorization": f"Basic {told}"}).status_code == 200
    assert not knows("Basic !!!", "me:s3cret")
    assert not knows(f"Bearer {base64.b64encode(b'me:s3cret').decode()}", "me:s3cret")
