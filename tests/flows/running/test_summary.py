"""The summary of a run that ended: numbers, funnel, failures and pictures, and a link by the server that started it."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from flows.curate import CurateOutcome
from flows.generate import GenerateOutcome
from flows.running.config import Tally
from flows.running.contact_sheet import CELL, COLUMNS, draw_contact_sheet, fit, join_pictures
from flows.running.metrics import UP
from flows.running.summary import URL, find_folder, make_key, make_summary, register_pages
from flows.serving.gate import find_page
from tasks.caching import Step, make_lineage
from tasks.keep_verdicts import Funnel, ReasonCount
from tasks.ledger import mark
from tasks.manifest import make_table, publish, publish_text, write_manifest
from tasks.media.video import write_video

SCHEMA = pa.schema(
    [("source", pa.string()), ("status", pa.string()), ("video", pa.string()), ("error_message", pa.string())]
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with a red and a blue clip, a failure with a hostile name, and a page."""
    folder = tmp_path / "My Night!"
    folder.mkdir()
    mark(folder, "generate", "0")
    (folder / "videos").mkdir()
    for name, colour in (("a.mp4", (200, 0, 0)), ("b.mp4", (0, 0, 200))):
        with publish(folder / "videos" / name) as aside:
            write_video(aside, np.full((4, 48, 64, 3), colour, np.uint8), 8)
    rows = [
        {"source": "a", "status": "ok", "video": "videos/a.mp4", "error_message": None},
        {"source": "b", "status": "ok", "video": "videos/b.mp4", "error_message": None},
        {"source": "x | <img>", "status": "failed", "video": None, "error_message": "x | <img>: no such file"},
        {"source": "later", "status": "waiting", "video": None, "error_message": "its time was over"},
    ]
    table = make_table(rows, SCHEMA)
    write_manifest(folder / "outputs.parquet", table, make_lineage(Step("outputs", 1, SCHEMA), None, []))
    publish_text(folder / "report/index.html", "<h1>page</h1>")
    return folder


OUTCOME = GenerateOutcome(
    failed=2,
    tally=Tally(items=4, done=2, waiting=1),
    clips=2,
    duplicates=0,
    waiting=1,
    stopped="the time limit | was reached",
    outputs=Path("o"),
    page=Path("p"),
)


def test_it_says_what_failed_and_why_and_not_what_waits(out: Path):
    text = make_summary(out, OUTCOME)
    assert text.startswith("**Waiting")
    assert r"| x \| \<img\> | no such file |" in text
    assert "later" not in text
    assert r"It stopped early: the time limit \| was reached." in text


def test_it_has_a_picture_of_each_clip(out: Path):
    sheet = draw_contact_sheet(out)
    assert sheet
    content = base64.b64decode(sheet.partition(",")[2])
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    picture = decoded[..., ::-1].astype(int)
    assert picture.shape == (CELL[1], 2 * CELL[0], 3)
    for place, colour in ((CELL[0] // 2, (200, 0, 0)), (CELL[0] * 3 // 2, (0, 0, 200))):
        assert np.abs(picture[CELL[1] // 2, place] - colour).max() < 20
    assert sheet in make_summary(out, OUTCOME)


def test_a_folder_without_pictures_has_none(tmp_path: Path):
    assert draw_contact_sheet(tmp_path) is None


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (90, 160), (5, 5)])
def test_a_picture_of_any_shape_fits_its_place(shape: tuple[int, int]):
    small = fit(np.zeros((*shape, 3), np.uint8), CELL)
    assert small.shape[0] <= CELL[1]
    assert small.shape[1] <= CELL[0]
    assert join_pictures([np.zeros((*shape, 3), np.uint8)] * (COLUMNS + 1))[:2] == b"\xff\xd8"


def test_the_funnel_of_a_dataset_is_a_table(out: Path):
    reasons = (ReasonCount(reason="no_motion", failing=3, first=2, only=1),)
    funnel = Funnel(clips=9, kept=7, seconds=30.0, kept_seconds=21.5, reasons=reasons)
    text = make_summary(out, CurateOutcome(videos=4, funnel=funnel, clips=Path("c"), page=Path("p")))
    assert r"| dropped\: no\_motion | \-2 |  |" in text
    assert r"| kept | 7 | 21\.5 s |" in text


def test_the_page_is_shown_by_the_server_that_started_the_run(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert register_pages(out) is None
    assert "](http" not in make_summary(out, OUTCOME)
    (tmp_path / "home/pages").mkdir(parents=True)
    monkeypatch.setenv(UP, str(tmp_path / "home"))
    monkeypatch.setenv(URL, "http://127.0.0.1:4200")
    address = register_pages(out)
    assert address
    assert f"]({address}/report/index.html)" in make_summary(out, OUTCOME)
    shown = find_page(tmp_path / "home/pages", f"{address.rsplit('/', 1)[1]}/report/index.html")
    assert shown == (out / "report/index.html").resolve()


def test_a_folder_keeps_its_place_in_the_ui(out: Path):
    assert make_key("generate", out) == "generate-my-night"
    assert make_key("curate", Path("/tmp/犬")) == "curate-folder"
    assert find_folder(None) is None
