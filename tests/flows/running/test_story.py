"""The story of a run: its name, the names of its tasks, and a progress that moves with rate and time left."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flows.running.config import FlowConfig, Outcome
from flows.running.run import run_flow, running
from flows.running.story import Story, make_run_name
from flows.running.told import told_flow
from tasks.manifest import ManifestRef


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_story(seconds: float = 0.0) -> tuple[Story, Clock]:
    clock = Clock()
    story = Story("curate", Path("dataset"), None, clock)
    story.call(40, "film", seconds)
    return story, clock


def test_names_say_flow_folder_and_number(tmp_path: Path):
    assert make_run_name("curate", tmp_path / "harbour", "9 films") == "curate harbour: 9 films"
    assert make_run_name("curate", tmp_path / "a\nb\x1b", None) == "curate a\\nb\\x1b"
    story, _ = make_story()
    assert story.name_chunk("scan", 3, 12, 40) == "scan 3 of 12: 40 films"
    assert story.name_chunk("scan", 3, None, 1) == "scan 3: 1 film"


def test_progress_is_the_share_of_all_work_with_rate_and_time_left():
    story, clock = make_story(seconds=400.0)
    story.begin("scan", 40, 200.0)
    clock.now = 50.0
    story.advance("scan", 20)
    assert story.describe("scan") == (25.0, "scan: 20 of 40 films, 24.0 a minute, about 2.5 min left of the run")


def test_what_was_found_does_not_count_as_speed():
    story, clock = make_story(seconds=400.0)
    story.begin("scan", 40, 200.0)
    story.advance("scan", 20, found=True)
    assert story.describe("scan") == (25.0, "scan: 20 of 40 films")
    clock.now = 100.0
    story.advance("scan", 10)
    assert "about 8.3 min left" in story.describe("scan")[1]


def test_it_is_100_percent_at_the_end_alone():
    story, clock = make_story()
    story.begin("scan", 2, 2.0)
    story.advance("scan", 2)
    assert story.describe("scan")[0] == 99.0
    clock.now = 3.0
    assert story.describe(None) == (100.0, "done in 3.0 s")


class Settings(FlowConfig):
    out: Path


class Made(Outcome):
    clips: int = 3


@task(name="measure")
def measure(folder: Path, config: Settings, items: list[str]) -> list[ManifestRef]:
    return []


@told_flow(name="story")
def a_flow(config: Settings) -> Made:
    with running(config.out, "story", config) as run:
        run.story.call(3, "film", 3.0)
        run.chunks(measure, config, ["a", "b", "c"], [1.0, 1.0, 1.0])
        context = FlowRunContext.get()
        assert context
        assert context.flow_run
        (config.out / "id").write_text(str(context.flow_run.id))
        return Made()


@pytest.fixture
def told(prefect_server: str, tmp_path: Path) -> dict[str, Any]:
    """What the server knows of a run."""
    out = tmp_path / "night <b>|"
    run_flow(a_flow, Settings(out=out, workers=2))
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID((out / "id").read_text()))
        tasks = [each.name for each in client.read_task_runs() if each.flow_run_id == run.id]
        artifacts = [each for each in client.read_artifacts() if each.flow_run_id == run.id]
    return {"run": run, "tasks": tasks, "artifacts": {each.type: each for each in artifacts}}


def test_the_server_is_told_all_of_it(told: dict[str, Any]):
    assert told["run"].name == "story night <b>|: 3 films"
    assert {"reelmill", "story", "folder:night <b>|"} <= set(told["run"].tags)
    assert sorted(told["tasks"]) == ["measure 1 of 2: 1 film", "measure 2 of 2: 2 films"]
    progress, summary = told["artifacts"]["progress"], told["artifacts"]["markdown"]
    assert float(progress.data) == 100.0
    assert summary.key == "story-night-b"
    assert summary.data.startswith("**All done**")
    assert "| clips | 3 |" in summary.data
