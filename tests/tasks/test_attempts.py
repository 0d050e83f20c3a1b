"""What a failed clip says: the error's own sentence, or what to do where memory was too small, or what happened."""

import logging
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pydantic import BaseModel

from models.errors import NO_ROOM, BadMedia, EncoderOutOfMemory
from tasks.attempts import ItemCall, error_columns, failure_of, tried
from tasks.caching import Step
from tasks.manifest import ERROR_FIELDS, make_table, read_lineage, read_rows

SCHEMA = pa.schema([pa.field("item_key", pa.string()), *ERROR_FIELDS])

RAW = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(RAW), MemoryError(), RuntimeError(f"DefaultCPU: {RAW}")])
@pytest.mark.parametrize("doing", ["sampling", "decoding", "encoding"])
def test_where_memory_ran_out_the_row_says_what_to_do_in_place_of_torchs_text(error: BaseException, doing: str):
    assert failure_of(error, "a", doing) == {
        "error_code": "out_of_memory",
        "error_message": f"a: {doing} ran out of memory, however little it took at a time; ask for a smaller size or "
        "fewer frames, or choose another --device.",
    }


def test_an_error_raised_on_purpose_keeps_its_word_and_its_sentence():
    assert failure_of(BadMedia("x: broken."), "a", "decoding") == {
        "error_code": "bad_media",
        "error_message": "x: broken.",
    }
    assert failure_of(EncoderOutOfMemory("x: ffmpeg."), "a", "encoding")["error_message"] == "x: ffmpeg."


def test_an_unforeseen_error_is_named_with_what_was_being_done():
    failed = failure_of(RuntimeError("no kernel\n"), "a", "decoding")
    assert failed == {"error_code": "decoding_failed", "error_message": "a: decoding failed (no kernel)."}
    assert failure_of(ValueError(), "a", "sampling")["error_message"] == "a: sampling failed (ValueError)."


def test_an_error_names_its_item_where_its_sentence_does_not():
    assert error_columns(BadMedia("broken."), "a") == {"error_code": "bad_media", "error_message": "a: broken."}
    assert error_columns(BadMedia("x: broken."))["error_message"] == "x: broken."


class Settings(BaseModel):
    """What decides an item."""

    name: str = "a"


def call_of(root: Path, failure_has_own_key: bool = False) -> ItemCall:
    return ItemCall(Step("draw", 1, SCHEMA), root, Settings(), ("digest",), "model@1", failure_has_own_key)


def stop(_: str) -> pa.Table:
    raise BadMedia("a: broken.")


def work(_: str) -> pa.Table:
    return make_table([{"item_key": "a", "attempt": 1}], SCHEMA)


def row_of(error: Exception) -> dict[str, str]:
    return {"item_key": "a", **failure_of(error, "a", "drawing")}


@pytest.mark.parametrize("own_key", [False, True])
def test_each_failure_of_an_item_counts_one_more_attempt_until_it_is_made(tmp_path: Path, own_key: bool):
    call = call_of(tmp_path, own_key)
    for attempt in (1, 2, 3):
        failed = call.tried(stop, row_of)
        assert read_rows(failed) == [
            {"item_key": "a", "error_code": "bad_media", "error_message": "a: broken.", "attempt": attempt}
        ]
    assert failed.path.parent.name == "draw_failed"
    assert read_lineage(failed.path).step == "draw_failed"
    made = call.tried(work, row_of)
    assert (made.path.parent.name, made.path.stem) == ("draw", call.key)
    assert not failed.path.exists(), "what is made has not failed"
    assert read_rows(call.failed(row_of(BadMedia("a: broken."))))[0]["attempt"] == 1


def test_a_failure_is_named_by_the_manifest_that_is_missing_or_by_its_own_lineage(tmp_path: Path):
    call, own = call_of(tmp_path), call_of(tmp_path, failure_has_own_key=True)
    assert call.tried(stop, row_of).path.stem == call.key
    assert own.tried(stop, row_of).path.stem == "b7585523bdf35440d495127275a3dace"


class FontMissing(Exception):
    """An error of a library that is of no kind that this project knows."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("roll"), "drawing failed (KeyError: 'roll')."),
        (FontMissing(), "drawing failed (FontMissing)."),
        (AssertionError("width"), "drawing failed (AssertionError: width)."),
    ],
)
def test_whatever_an_item_raises_is_its_row_and_its_traceback_is_logged(tmp_path: Path, caplog, error, said):
    def break_off(_: str) -> pa.Table:
        raise error

    with caplog.at_level(logging.DEBUG, "reelmill"):
        failed = call_of(tmp_path).tried(break_off, row_of)
    assert [row["error_message"] for row in read_rows(failed)] == [f"a: {said}"]
    assert "in break_off" in caplog.text
    with caplog.at_level(logging.DEBUG, "reelmill"):
        assert tried(lambda: break_off(""), lambda failure: failure["error_message"], "drawing", "b") == f"b: {said}"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143), GeneratorExit()])
def test_what_stops_the_run_is_no_items_row(tmp_path: Path, stop: BaseException):
    def stopped(*_: str) -> pa.Table:
        raise stop

    with pytest.raises(type(stop)):
        call_of(tmp_path).tried(stopped, row_of)
    with pytest.raises(type(stop)):
        tried(stopped, lambda _: None, "drawing")


@pytest.mark.parametrize("number", sorted(NO_ROOM))
def test_a_full_disk_stops_a_run_whose_rows_are_kept(number: int):
    def write() -> None:
        raise OSError(number, os.strerror(number), "scan.parquet")

    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        tried(write, lambda _: None, "scanning")


def test_a_librarys_message_is_cut():
    failed = failure_of(ValueError("no " * 10_000), "a", "drawing")
    assert len(failed["error_message"]) < 400
