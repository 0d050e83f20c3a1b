"""Measured costs are kept in a file that may be lost, broken or another's; a broken one is said and written anew."""

import json
import logging
from pathlib import Path

import pytest
import torch

from models.device import CPU
from models.memory.measured_costs import Cost, learn_cost, locate_costs, name_place, read_costs

PLACE = name_place("a" * 64, CPU, "float32")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "costs.json"


def test_a_cost_is_known_again_by_model_device_precision_and_rung(file):
    assert read_costs(PLACE, file) == {}
    learn_cost(PLACE, "whole", Cost(2.0, 100.0), file)
    learn_cost(PLACE, "decoded whole", Cost(1.0), file)
    assert read_costs(PLACE, file) == {"whole": Cost(2.0, 100.0), "decoded whole": Cost(1.0)}
    for other in (name_place("b" * 64, CPU, "float32"), name_place("a" * 64, CPU, "float16")):
        assert read_costs(other, file) == {}


def test_all_gpus_of_a_name_share_their_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    one, other = (name_place("a", torch.device("cuda", n), "float16") for n in (0, 1))
    assert one == other == "a float16 NVIDIA H200"


def test_the_most_memory_and_the_shortest_time_are_kept(file):
    for cost in (Cost(2.0, 100.0), Cost(1.0, 50.0), Cost(3.0, 200.0), Cost(5.0)):
        learn_cost(PLACE, "whole", cost, file)
    assert read_costs(PLACE, file)["whole"] == Cost(1.0, 200.0)


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
        assert read_costs(PLACE, file) == {}
    assert "not a table of costs" in caplog.text
    learn_cost(PLACE, "whole", Cost(2.0, 100.0), file)
    assert read_costs(PLACE, file) == {"whole": Cost(2.0, 100.0)}
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
    assert locate_costs() == tmp_path / "reelmill" / "costs.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate_costs() == Path("/home/someone/.cache/reelmill/costs.json")
    learn_cost(PLACE, "whole", Cost(2.0), tmp_path / "costs.json")
    assert json.loads((tmp_path / "costs.json").read_text())["format"] == 1
