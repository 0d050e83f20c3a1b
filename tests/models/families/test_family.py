"""Rounding as each family needs it, and what an item may ask, over any numbers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadInput
from models.families.family import Family, Inputs, Request, check_request
from models.families.known import FAMILIES

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
a_family = st.sampled_from(FAMILIES)


@given(a_family, st.integers(-10, 2000))
def test_fitted_frames_keep_the_rule_the_limits_and_themselves(family: Family, frames: int) -> None:
    rules, fitted = family.RULES, family.RULES.fit_frames(frames)
    assert (fitted.value - rules.frame_offset) % rules.frame_step == 0
    assert rules.frames_min <= fitted.value <= (rules.frames_max or fitted.value)
    assert rules.fit_frames(fitted.value) == replace(fitted, note=None)
    assert (fitted.note is None) == (fitted.value == frames)


@given(a_family, st.integers(1, 400))
def test_no_other_number_of_frames_is_nearer(family: Family, frames: int) -> None:
    rules = family.RULES
    able = range(rules.frames_min, (rules.frames_max or 500) + 1)
    nearest = min(abs(n - frames) for n in able if (n - rules.frame_offset) % rules.frame_step == 0)
    assert abs(rules.fit_frames(frames).value - frames) == nearest


@given(a_family, st.integers(1, 4000), st.integers(1, 4000))
def test_fitted_sides_are_multiples_and_within_half_a_unit(family: Family, width: int, height: int) -> None:
    rules, fitted = family.RULES, family.RULES.fit_size(width, height)
    for side, asked in zip(fitted.value, (width, height), strict=True):
        assert side % rules.size_unit == 0
        assert side >= rules.size_unit
        assert abs(side - asked) <= max(rules.size_unit / 2, rules.size_unit - asked)
    assert rules.fit_size(*fitted.value).note is None


@families
def test_native_numbers_keep_the_familys_own_rules(family: Family) -> None:
    rules = family.RULES
    assert rules.fit_frames(rules.frames).note is None
    assert rules.fit_size(rules.width, rules.height).note is None
    assert rules.fps > 0
    assert rules.licence


@families
def test_every_pipeline_needs_a_text_or_a_picture(family: Family) -> None:
    for inputs in family.PIPELINES.values():
        assert inputs.needs & {"text", "picture"}
        assert not inputs.needs & inputs.takes


@pytest.mark.parametrize(
    ("name", "frames", "fitted"),
    [("CogVideoX", 50, 49), ("LTX-Video", 120, 121), ("Wan", 80, 81), ("AnimateDiff", 40, 32), ("CogVideoX", 1, 9)],
)
def test_known_frames_round_to_known_ones(name: str, frames: int, fitted: int) -> None:
    family = next(each for each in FAMILIES if name == each.NAME)
    assert family.RULES.fit_frames(frames).value == fitted


def test_what_was_rounded_is_said() -> None:
    rules = next(each for each in FAMILIES if each.NAME == "LTX-Video").RULES
    assert rules.fit_size(700, 500).note == "size 700x500: made as 704x512, because sides must be multiples of 32."
    assert replace(rules, only_native_size=True).fit_size(64, 64).value == (704, 512)


def test_a_request_says_all_that_it_lacks_and_the_item(asked: Request) -> None:
    rules = FAMILIES[0].RULES
    inputs = Inputs(needs=frozenset({"picture", "fps"}))
    with pytest.raises(BadInput, match="Item ball: M needs fps and picture"):
        check_request(asked, inputs, rules, "M")


def test_noise_is_the_items_own_by_seed_key_and_take(asked: Request) -> None:
    states = [
        replace(asked, **change).generator().get_state().numpy().tobytes()
        for change in ({}, {"seed": 2}, {"item_key": "cube"}, {"take": 1}, {"frames": 16, "prompt": "x"})
    ]
    assert len(set(states[:4])) == 4
    assert states[4] == states[0]
