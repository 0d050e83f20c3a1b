"""Measured costs are kept in a file that may be lost, broken or another's; a broken one is said and written anew."""

import json
import logging
from pathlib import Path

import pytest
import torch

from models.device import CPU
from models.memory.measured_costs import Cost, costs_file, costs_of, learn_cost, place_of

PLACE = place_of("a" * 64, CPU, "float32")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "costs.json"


def test_a_cost_is_known_again_by_model_device_precision_and_rung(file):
    assert costs_of(PLACE, file) == {}
    learn_cost(PLACE, "whole", Cost(2.0, 100.0), file)
    learn_cost(PLACE, "decoded whole", Cost(1.0), file)
    assert costs_of(PLACE, file) == {"whole": Cost(2.0, 100.0), "decoded whole": Cost(1.0)}
    for other in (place_of("b" * 64, CPU, "float32"), place_of("a" * 64, CPU, "float16")):
        assert costs_of(other, file) == {}


def test_all_cards_of_a_name_share_their_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    one, other = (place_of("a", torch.device("cuda", n), "float16") for n in (0, 1))
    assert one == other == "a float16 NVIDIA H200"


def test_the_most_memory_and_the_shortest_time_are_kept(file):
    for cost in (Cost(2.0, 100.0), Cost(1.0, 50.0), Cost(3.0, 200.0), Cost(5.0)):
        learn_cost(PLACE, "whole", cost, file)
    assert costs_of(PLACE, file)["whole"] == Cost(1.0, 200.0)


def test_small_changes_are_not_written(file):
    learn_cost(PLACE, "whole", Cost(2.0, 100.0), file)
    before = file.stat().st_mtime_ns, file.stat().st_ino
    learn_cost(PLACE, "whole", Cost(1.95, 105.0), file)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": 2, "costs": {}}',
        b'{"format": 1}',
        b'{"format": 1, "costs": {"a": {"whole": {"seconds": -1, "bytes": null}}}}',
        b'{"format": 1, "costs": {"a": {"whole": {"seconds": NaN, "bytes": 3}}}}',
        b'{"format": 1, "costs": {"a": {"whole": 7}}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_or_foreign_file_is_said_not_used_and_written_anew(file, content, caplog):
    file.parent.mkdir()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, "reelmill"):
        assert costs_of(PLACE, file) == {}
    assert "not a table of costs" in caplog.text
    learn_cost(PLACE, "whole", Cost(2.0, 100.0), file)
    assert costs_of(PLACE, file) == {"whole": Cost(2.0, 100.0)}
    assert [each.name for each in file.parent.iterdir()] == ["costs.json"], "nothing is left beside it"


def test_where_nothing_can_be_written_it_is_said_and_work_goes_on(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "reelmill"):
        learn_cost(PLACE, "whole", Cost(2.0), tmp_path / "cache" / "costs.json")
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_not_kept(file, seconds):
    learn_cost(PLACE, "whole", Cost(seconds), file)
    assert not file.exists()


def test_the_file_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert costs_file() == tmp_path / "reelmill" / "costs.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert costs_file() == Path("/home/someone/.cache/reelmill/costs.json")
    learn_cost(PLACE, "whole", Cost(2.0), tmp_path / "costs.json")
    assert json.loads((tmp_path / "costs.json").read_text())["format"] == 1
