"""Figures for Prometheus: what a run leaves, read back by Prometheus itself too; and the dashboard that shows them."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from flows.running.config import Outcome, Tally
from flows.running.metrics import HELP, UP, format_samples, list_samples, read_metrics, write_metrics

OUTCOME = Outcome(failed=3, tally=Tally(items=30, done=27, waiting=1))


def test_items_are_counted_by_how_they_ended(tmp_path: Path):
    found = {
        (name, labels.get("state")): value
        for name, labels, value in list_samples("curate", tmp_path, OUTCOME, 54.0, 7.0)
    }
    assert found["reelmill_items", "done"] == 27
    assert found["reelmill_items", "failed"] == 2
    assert found["reelmill_items", "waiting"] == 1
    assert found["reelmill_seconds_per_item", None] == 2.0
    assert found["reelmill_last_run_timestamp_seconds", None] == 7.0


def test_runs_write_where_up_shows_them_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_metrics("curate", tmp_path / "a", OUTCOME, 1.0)
    assert read_metrics(tmp_path) == ""
    monkeypatch.setenv(UP, str(tmp_path))
    write_metrics("curate", tmp_path / "a", OUTCOME, 1.0)
    write_metrics("generate", tmp_path / "b", OUTCOME, 1.0)
    write_metrics("curate", tmp_path / "a", OUTCOME, 2.0)
    text = read_metrics(tmp_path)
    assert text.count('reelmill_items{flow="curate",folder="a",state="done"} 27') == 1
    assert text.count("# TYPE reelmill_items gauge") == 1
    assert 'reelmill_run_seconds{flow="curate",folder="a"} 2.0' in text


def test_a_folder_of_any_name_is_one_label():
    line = format_samples([("reelmill_items", {"folder": 'a"b\\c\nd'}, 1)])
    assert line == 'reelmill_items{folder="a\\"b\\\\c\\nd"} 1\n'


def test_the_dashboard_asks_for_figures_that_there_are(repository: Path):
    dashboard = json.loads((repository / "deployments/grafana.json").read_text())
    asked = {name for panel in dashboard["panels"] for name in re.findall(r"reelmill_\w+", panel["targets"][0]["expr"])}
    assert asked == set(HELP)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.ops
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not here")
def test_prometheus_loads_them_and_answers_every_question_of_the_dashboard(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    monkeypatch.setenv(UP, str(tmp_path))
    write_metrics("curate", tmp_path / 'my "set"', OUTCOME, 54.0)
    (tmp_path / "metrics/gpu.prom").write_text(
        format_samples([("reelmill_gpu_memory_peak_bytes", {"flow": "generate", "folder": "b"}, 5e9)])
    )

    class Figures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(read_metrics(tmp_path).encode())

        def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return

    server = HTTPServer(("127.0.0.1", 0), Figures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = (repository / "deployments/prometheus.yml").read_text()
    config = config.replace("127.0.0.1:4200", f"127.0.0.1:{server.server_port}").replace("30s", "1s")
    (tmp_path / "prometheus.yml").write_text(config)
    port = free_port()
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log) as process:
        try:
            dashboard = json.loads((repository / "deployments/grafana.json").read_text())
            for panel in dashboard["panels"]:
                expression = panel["targets"][0]["expr"]
                assert ask_until_told(port, expression), f"{panel['title']}: {expression}"
            (sample,) = ask_until_told(port, 'reelmill_items{state="done"}')
            assert (sample["metric"]["folder"], sample["value"][1]) == ('my "set"', "27")
        finally:
            process.terminate()
            server.shutdown()
            server.server_close()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as port:
        return port.getsockname()[1]


def ask_until_told(port: int, expression: str) -> list[dict]:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=30)
            if answer.status_code == 200 and (found := answer.json()["data"]["result"]):
                return found
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    return []
