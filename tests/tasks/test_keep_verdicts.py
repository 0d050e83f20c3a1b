"""Verdicts become columns and come back; counting them by their few different values is counting them one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.keep_rules import REASONS, Verdict
from tasks.keep_verdicts import SCHEMA, count_funnel, make_verdict_columns, read_bits

verdicts = st.lists(st.integers(0, (1 << len(REASONS)) - 1), max_size=30).map(lambda codes: np.array(codes, np.uint16))


@settings(max_examples=100)
@given(verdicts)
def test_verdicts_come_back_from_their_columns(bits: np.ndarray):
    columns = make_verdict_columns(bits)
    assert columns.schema == SCHEMA
    assert read_bits(columns["drop_reasons"]).tolist() == bits.tolist()


def test_columns_name_the_reasons_in_their_order():
    rows = make_verdict_columns(np.array([0, 0b1001, 0b10], np.uint16)).to_pylist()
    assert rows == [
        {"keep": True, "drop_reason": None, "drop_reasons": []},
        {"keep": False, "drop_reason": REASONS[0], "drop_reasons": [REASONS[0], REASONS[3]]},
        {"keep": False, "drop_reason": REASONS[1], "drop_reasons": [REASONS[1]]},
    ]


@settings(max_examples=100)
@given(verdicts)
def test_what_is_kept_and_what_each_rule_drops_first_add_up_to_all(bits: np.ndarray):
    seconds = np.arange(len(bits), dtype=float)
    funnel = count_funnel(Verdict(bits), seconds)
    assert funnel.kept + sum(count.first for count in funnel.reasons) == funnel.clips == len(bits)
    assert funnel.kept_seconds == pytest.approx(seconds[bits == 0].sum())
    assert all(count.only <= count.first <= count.failing for count in funnel.reasons)
