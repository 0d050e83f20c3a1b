"""Log lines and progress, off a terminal."""

import logging

import pytest

from flows.running.progress import progress, show_log


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logging.getLogger("reelmill"), name, getattr(logging.getLogger("reelmill"), name))


def test_a_line_is_logged_once_however_often_the_log_is_shown(capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        show_log(debug=False)
    logging.getLogger("reelmill").info("scan: %d ran", 3)
    logging.getLogger("reelmill").debug("not shown")
    assert capsys.readouterr().err == "reelmill: scan: 3 ran\n"


def test_debug_shows_every_line(capsys: pytest.CaptureFixture[str]):
    show_log(debug=True)
    logging.getLogger("reelmill").debug("scan runs")
    assert capsys.readouterr().err == "reelmill: scan runs\n"


def test_the_handlers_of_others_stay():
    other = logging.NullHandler()
    logging.getLogger("reelmill").addHandler(other)
    show_log(debug=False)
    assert other in logging.getLogger("reelmill").handlers


def test_there_are_no_progress_bars_in_a_log_file(capsys: pytest.CaptureFixture[str]):
    with progress() as bars:
        bars.advance(bars.add_task("scan", total=2))
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""
