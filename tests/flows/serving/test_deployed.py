"""Runs of deployments, on a real server and worker: what their logs say, what they refuse, what a redeploy keeps."""

from pathlib import Path
from typing import Any

import pytest

from tests.serving import Served, wait_for

SMALL: dict[str, Any] = {
    "steps": 1, "frames": 2, "width": 32, "height": 32, "guidance": [1, 1], "workers": 1, "until": None,
}  # fmt: skip

pytestmark = [pytest.mark.server, pytest.mark.waiting]


def test_the_log_of_a_deployed_run_has_our_lines_and_none_of_prefects(served: Served, pictures: Path, tmp_path: Path):
    (pictures / "bad.png").write_bytes(b"no picture")
    run = served.run("generate/generate", SMALL | {"jobs": str(pictures), "out": str(tmp_path / "out")})
    assert served.wait_for_end(run)[:2] == ("COMPLETED", "3 of 4, 1 failed")
    lines = wait_for(
        lambda: [line for line in served.logs(run) if line.startswith("gallery")] and served.logs(run), "log"
    )
    assert {line.partition(":")[0] for line in lines} == {
        "read jobs", "sample", "decode", "encode", "choose", "collect outputs", "gallery",
    }, lines  # fmt: skip


def test_what_is_refused_is_failed_with_a_sentence_and_no_traceback(served: Served, pictures: Path, tmp_path: Path):
    run = served.run("generate/generate", SMALL | {"jobs": str(pictures), "out": str(tmp_path), "runner": "dask"})
    kind, _, message = served.wait_for_end(run)
    assert kind == "FAILED"
    assert "--runner dask needs a package that is not installed" in message
    assert not any("Traceback" in line for line in served.logs(run))


def test_deployments_carry_a_deadline_and_have_their_schedules_off(served: Served):
    found = served.find_deployment("generate/generate")
    assert found["parameters"]["config"]["until"] == "06:00"
    assert [(each["slug"], each["active"]) for each in found["schedules"]] == [("nightly", False)]


def test_a_redeploy_keeps_what_was_switched_on_and_what_was_added(served: Served):
    found = served.find_deployment("curate/curate")
    (nightly,) = found["schedules"]
    served.ask("PATCH", f"/deployments/{found['id']}/schedules/{nightly['id']}", {"active": True})
    weekly = {"schedule": {"cron": "0 4 * * 6", "timezone": "Europe/Berlin"}, "active": True}
    served.ask("POST", f"/deployments/{found['id']}/schedules", [weekly])
    served.set_up()
    again = served.find_deployment("curate/curate")
    shown = {each["schedule"]["cron"]: (each["active"], each["schedule"]["timezone"]) for each in again["schedules"]}
    assert shown == {"0 2 * * *": (True, "UTC"), "0 4 * * 6": (True, "Europe/Berlin")}
    served.set_up()
    assert len(served.find_deployment("curate/curate")["schedules"]) == 2
    for each in served.find_deployment("curate/curate")["schedules"]:
        served.ask("DELETE", f"/deployments/{found['id']}/schedules/{each['id']}")


def test_a_run_that_is_cancelled_on_the_page_ends_with_its_work_saved_and_goes_on_later(
    served: Served, pictures: Path, tmp_path: Path
):
    out = tmp_path / "out"
    asked = SMALL | {"jobs": str(pictures), "out": str(out), "takes": 40, "steps": 20}
    run = served.run("generate/generate", asked)
    wait_for(lambda: list(out.glob("latents/[!.]*.safetensors")), "the first clip")
    served.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.wait_for_end(run)[0] == "CANCELLED"
    made = len(list(out.glob("latents/[!.]*.safetensors")))
    assert 1 <= made < 120, "it did not go on to the end"
    again = served.run("generate/generate", asked | {"takes": 1, "steps": 1, "out": str(tmp_path / "second")})
    assert served.wait_for_end(again)[0] == "COMPLETED"
    assert len(list(out.glob("latents/[!.]*.safetensors"))) == made, "nothing went on in the background"
