"""Texts and JSON from outside: what they say, or one reason why not, in bounded memory and time."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadInput
from models.generation.calibration import read_calibration
from models.given_files import DEEPEST, Unreadable, decode, parse_json, read_comma, read_json, read_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_read_as_it_was_written(value: object):
    assert parse_json(json.dumps(value)) == value


@given(st.text(st.sampled_from('[]{}",:0123456789eE+-.truefalsn\\u '), max_size=60) | st.text())
def test_any_text_is_a_value_or_one_reason(text: str):
    try:
        parse_json(text)
    except ValueError as error:
        said = str(error)
        assert type(error) is Unreadable, said  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1" * 400, "it has a number of 400 digits"),
        ("[1" + "0" * 5000 + "]", "it has a number of 5001 digits"),
        ("[1e999]", "it has the number 1e999, which is too large"),
        ("[" * 101 + "]" * 101, "it is more than 100 levels deep"),
        ("[" * 200_000, "it is more than 100 levels deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "it is more than 100 levels deep"),
    ],
)
def test_numbers_and_depths_past_any_use_are_refused(text: str, reason: str):
    with pytest.raises(Unreadable, match=reason):
        parse_json(text)


def test_what_is_as_deep_as_may_be_is_read():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)
    assert math.isnan(parse_json("NaN")), "ComfyUI writes it"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    (tmp_path / "a.json").write_text(" " * 11)
    with pytest.raises(Unreadable, match="it is larger than 0 MB"):
        read_text(tmp_path / "a.json", 10)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_text_or_one_reason(content: bytes):
    try:
        decode(content)
    except Unreadable as error:
        assert "UTF" in str(error)  # noqa: PT017


@pytest.mark.parametrize(("text", "number"), [("0,02", "0.02"), ("-1,5", "-1.5"), (",5", ".5"), ("1,2500", "1.2500")])
def test_a_decimal_comma_is_a_point(text: str, number: str):
    assert read_comma(text) == number


@pytest.mark.parametrize("value", ["1.5", "7", "a,b", "1,2,3", "", 1.5, None, "1.000,5"])
def test_what_has_no_decimal_comma_stays(value: object):
    assert read_comma(value) == value


def test_a_comma_that_may_part_thousands_is_not_guessed_at():
    for text in ("1,000", "12,500", "-1,234"):
        with pytest.raises(ValueError, match="may part thousands, so write it with a decimal point"):
            read_comma(text)
    assert read_comma("0,125") == "0.125"


def response(buckets: object, speeds: object) -> dict:
    return {"model_revision": "r", "responses": {"pan_left": {"buckets": buckets, "speeds": speeds}}}


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (response([], []), "pan_left has 0 buckets and 0 speeds"),
        (response([1, 2], [0.1]), "pan_left has 2 buckets and 1 speeds"),
        (response([2, 1], [0.1, 0.2]), "the buckets of pan_left do not rise from 0 to 255 at most"),
        (response([1, 256], [0.1, 0.2]), "the buckets of pan_left do not rise"),
        (response([1, 2], [0.1, 1e300]), "pan_left has a speed that is no speed"),
        (response([1, 2], [0.1, math.nan]), "pan_left has a speed that is no speed"),
        (response([1e308], [1]), "the buckets of pan_left do not rise"),
        ([], "list indices"),
    ],
)
def test_a_calibration_that_no_measuring_makes_is_refused(tmp_path: Path, kept: object, reason: str):
    (tmp_path / "c.json").write_text(json.dumps(kept))
    with pytest.raises(BadInput, match=rf"c\.json: not a calibration \({reason}.*\)\. Make one with"):
        read_calibration(tmp_path / "c.json")
