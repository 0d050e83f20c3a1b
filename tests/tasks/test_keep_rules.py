"""Each rule drops what it is for; quantiles drop the share asked for; counts do not depend on the rules' order."""

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.cleanest import find_repeats
from tasks.clip_columns import measure_seconds
from tasks.curate import join
from tasks.keep_rules import (
    AXES,
    PRESETS,
    REASONS,
    SelectConfig,
    find_cut,
    judge_clips,
    keep_all,
    paper,
)
from tasks.keep_verdicts import SCHEMA, count_funnel, read_bits
from tests.declared import declared
from tests.verdicts import decide

GOOD: dict[str, Any] = {
    "video_id": "v",
    "start_s": 0.0,
    "end_s": 3.0,
    "contrast": 40.0,
    "text_area": 0.01,
    "motion_score": 0.2,
    "change": 3.0,
    "camera_motion": "pan_left",
    "width": 640,
    "height": 360,
    "caption": "A sentence.",
    "phash": ["00"],
}


def table(*clips: dict[str, Any]) -> pa.Table:
    """Joined clips, good but for what is given; each a shot of its own."""
    rows = [GOOD | {"clip_id": f"c{i}", "start_pts": i, "shot_start_pts": i} | clip for i, clip in enumerate(clips)]
    return pa.Table.from_pylist(rows, join.SCHEMA)


def reasons(clip: dict[str, Any], **thresholds: Any) -> list[str]:
    (found,) = decide(table(clip), SelectConfig(**thresholds))["drop_reasons"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ({}, []),
        ({"end_s": 0.9}, ["too_short"]),
        ({"contrast": 1.0}, ["no_picture"]),
        ({"text_area": 0.08}, ["too_much_text"]),
        ({"text_area": 0.07}, []),
        ({"motion_score": 0.001, "change": 0.01}, ["no_motion"]),
        ({"motion_score": 0.001, "change": 0.3}, []),
        ({"motion_score": 0.01, "change": 0.0}, []),
        ({"camera_motion": "static"}, []),
        ({"motion_score": 5.0}, []),
        ({"text_area": None}, ["measurement_failed"]),
        ({"motion_score": None, "camera_motion": None}, ["measurement_failed"]),
        ({"end_s": 0.1, "motion_score": None}, ["too_short", "measurement_failed"]),
        ({"motion_score": None, "note": "motion: frames stored: 1."}, ["too_short"]),
        ({"text_area": 0.5, "motion_score": None, "note": "motion: frames stored: 1."}, ["too_short", "too_much_text"]),
        ({"contrast": 0.0, "motion_score": 0.0, "change": 0.0}, ["no_picture", "no_motion"]),
        ({"width": None, "height": None}, []),
        ({"caption": None, "aesthetic": None}, []),
    ],
)
def test_each_rule_drops_what_it_is_for_and_nothing_else(clip: dict[str, Any], expected: list[str]):
    assert reasons(clip) == expected


@pytest.mark.parametrize(
    ("clip", "thresholds", "expected"),
    [
        ({"end_s": 0.5}, {"min_clip_s": 0.25}, []),
        ({"end_s": 0.5}, {"min_clip_s": None}, []),
        ({"text_area": 0.9}, {"max_text_area": None}, []),
        ({"text_area": None}, {"max_text_area": None}, []),
        ({"motion_score": 0.0, "change": 0.0}, {"max_still_motion": None}, []),
        ({"motion_score": 0.1}, {"min_motion": 0.15}, ["low_motion"]),
        ({"motion_score": 0.15}, {"min_motion": 0.15}, []),
        ({"motion_score": None}, {"max_still_motion": None}, []),
        ({"aesthetic": 4.0}, {"min_aesthetic": 4.5}, ["low_aesthetic"]),
        ({"clip_similarity": 0.2}, {"min_clip_similarity": 0.25}, ["low_similarity"]),
        ({"motion_score": 0.0, "change": 0.4}, {"max_still_change": 0.5}, ["no_motion"]),
        ({"contrast": 0.0}, {"min_contrast": None}, []),
        ({"motion_score": 2.0}, {"max_motion": 1.5}, ["too_much_motion"]),
        ({"frozen_s": 1.5}, {"max_frozen_s": 1.0}, ["frozen"]),
        ({"frozen_s": 1.0}, {"max_frozen_s": 1.0}, []),
        ({"frozen_s": 9.0}, {}, []),
        ({"camera_motion": "static"}, {"drop_motions": ["static", "complex"]}, ["unwanted_motion"]),
        ({"camera_motion": None}, {"drop_motions": ["static"]}, ["measurement_failed"]),
        ({"camera_motion": None}, {}, []),
    ],
)
def test_thresholds_move_the_rules_and_null_turns_them_off(clip: dict, thresholds: dict, expected: list[str]):
    assert reasons(clip, **thresholds) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_motoin": 1},
        {"max_text_area": 7},
        {"motion_quantile": 1},
        {"drop_motions": ["statc"]},
        {"min_aesthetic": float("nan")},
        {"min_motion": float("inf")},
    ],
)
def test_a_threshold_that_cannot_be_meant_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SelectConfig(**wrong)


def test_a_length_that_is_exact_as_a_fraction_is_long_enough():
    assert reasons({"start_s": 1.3, "end_s": 1.3 + 1.0}) == []


def test_the_first_reason_is_the_drop_reason_in_the_order_of_the_rules():
    decided = decide(table({"end_s": 0.5, "text_area": 0.5}, {}, {"text_area": 0.5}), SelectConfig())
    assert decided["keep"].to_pylist() == [False, True, False]
    assert decided["drop_reason"].to_pylist() == ["too_short", None, "too_much_text"]
    assert decided["drop_reasons"].to_pylist() == [["too_short", "too_much_text"], [], ["too_much_text"]]


def test_of_alike_clips_the_longest_is_kept():
    clips = table(*({"dedup_group": "g", "end_s": end} for end in (2.0, 4.0, 3.0)), {})
    assert decide(clips, SelectConfig())["drop_reason"].to_pylist() == ["duplicate", None, "duplicate", None]
    assert decide(clips, SelectConfig(drop_duplicates=False))["keep"].to_pylist() == [True] * 4


def test_of_equally_long_clips_the_first_is_kept():
    decided = decide(table(*[{"dedup_group": "g"}] * 3), SelectConfig())
    assert decided["keep"].to_pylist() == [True, False, False]


def test_the_clip_kept_is_one_that_nothing_else_drops():
    clips = table({"dedup_group": "g", "end_s": 9.0, "text_area": 0.5}, {"dedup_group": "g"}, {"dedup_group": "g"})
    found = decide(clips, SelectConfig())["drop_reasons"].to_pylist()
    assert found == [["too_much_text", "duplicate"], [], ["duplicate"]]


def test_when_all_alike_clips_are_dropped_none_is_a_duplicate():
    decided = decide(table(*[{"dedup_group": "g", "text_area": 0.5}] * 2), SelectConfig())
    assert decided["drop_reasons"].to_pylist() == [["too_much_text"]] * 2


def test_the_pieces_of_a_shot_are_kept_together():
    pieces = [{"dedup_group": "g", "shot_start_pts": 7, "end_s": 2.0}] * 2
    longer = {"dedup_group": "g", "video_id": "w", "shot_start_pts": 7}
    assert decide(table(*pieces, longer), SelectConfig())["keep"].to_pylist() == [True, True, False]


def test_groups_are_judged_each_for_itself():
    names = ["a", None, "b", "a", "b", None]
    repeats = find_repeats(table(*({"dedup_group": name} for name in names)), np.ones(6, bool))
    assert repeats.tolist() == [False, False, False, True, True, False]


def test_deciding_again_replaces_the_verdict():
    decided = decide(table({"text_area": 0.05}), SelectConfig(max_text_area=0.01))
    again = decide(decided, SelectConfig())
    assert again["keep"].to_pylist() == [True]
    assert again.column_names == decided.column_names == [*join.SCHEMA.names, *SCHEMA.names]


def funnel(clips: pa.Table, **thresholds: Any):
    return count_funnel(judge_clips(clips, SelectConfig(**thresholds)), measure_seconds(clips))


def test_the_funnel_counts_what_fails_first_and_alone():
    clips = table({}, {"end_s": 0.5}, {"end_s": 0.5, "text_area": 0.5}, {"text_area": 0.5, "end_s": 2.0})
    found = funnel(clips)
    counts = {c.reason: (c.failing, c.first, c.only) for c in found.reasons if c.failing}
    assert counts == {"too_short": (2, 2, 1), "too_much_text": (2, 1, 1)}
    assert (found.clips, found.kept, found.seconds, found.kept_seconds) == (4, 1, 6.0, 3.0)
    assert tuple(c.reason for c in found.reasons) == REASONS


def test_pairs_of_rules_count_the_clips_that_fail_both():
    bad = {"too_short": {"end_s": 0.5}, "no_picture": {"contrast": 0.0}, "too_much_text": {"text_area": 0.5}}
    clips = [first | second for first, second in combinations(bad.values(), 2)]
    together = funnel(table(*clips, {"text_area": 0.5})).together
    short, flat, text = (REASONS.index(name) for name in bad)
    assert (together[short][flat], together[flat][text], together[text][short]) == (1, 1, 1)
    assert [together[i][i] for i in (short, flat, text)] == [2, 2, 3]


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3, st.floats(0.1, 3)), min_size=1, max_size=40))
def test_every_count_is_what_counting_by_hand_gives(rows: list[tuple[float, ...]]):
    clips = table(*({"text_area": t, "motion_score": m, "aesthetic": a, "end_s": s} for t, m, a, s in rows))
    config: dict[str, Any] = {"max_text_area": 0.5, "motion_quantile": 0.3, "aesthetic_quantile": 0.2}
    decided = decide(clips, SelectConfig(**config))
    every = decided["drop_reasons"].to_pylist()
    found = funnel(clips, **config)
    for i, count in enumerate(found.reasons):
        assert count.failing == sum(count.reason in each for each in every)
        assert count.only == sum([count.reason] == each for each in every)
        assert count.first == decided["drop_reason"].to_pylist().count(count.reason)
        for j, other in enumerate(REASONS):
            assert found.together[i][j] == sum({count.reason, other} <= set(each) for each in every)
    assert found.kept == sum(not each for each in every) == sum(decided["keep"].to_pylist())
    assert (read_bits(decided["drop_reasons"]) == judge_clips(clips, SelectConfig(**config)).bits).all()


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (0.125, 2), (0.25, 5), (0.5, 10), (0.99, 19)])
def test_a_quantile_drops_its_share_of_the_lowest_and_of_the_highest(share: float, dropped: int):
    scores = np.random.default_rng(3).permutation(20) / 20
    clips = table(*({"motion_score": s, "text_area": s / 2} for s in scores.tolist()))
    low = decide(clips, SelectConfig(motion_quantile=share, max_text_area=None))
    gone = [m for m, keep in zip(low["motion_score"].to_pylist(), low["keep"].to_pylist(), strict=True) if not keep]
    assert sorted(gone) == pytest.approx(sorted(scores)[:dropped])
    high = decide(clips, SelectConfig(text_area_quantile=share, max_text_area=None))
    gone = [t for t, keep in zip(high["text_area"].to_pylist(), high["keep"].to_pylist(), strict=True) if not keep]
    assert sorted(gone) == pytest.approx([s / 2 for s in sorted(scores)[20 - dropped :]])


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0, 0.99))
def test_a_quantile_never_drops_more_than_its_share_and_tears_no_ties_apart(values: list[float], share: float):
    array = np.array(values, np.float32)
    for upper in (False, True):
        cut = find_cut(array, share, upper)
        gone = array > cut if upper else array < cut
        assert gone.sum() <= share * len(values) + 1e-6
        assert cut in array
        if len(set(values)) == len(values):
            assert gone.sum() == int(share * len(values) + 1e-9)


def test_what_was_not_measured_has_no_part_in_a_quantile():
    clips = table(*({"aesthetic": a} for a in (1.0, 2.0, 3.0, 4.0, None)))
    decided = decide(clips, SelectConfig(aesthetic_quantile=0.25))
    assert decided["drop_reasons"].to_pylist() == [["low_aesthetic"], [], [], [], ["measurement_failed"]]


def test_of_a_number_and_a_quantile_the_stricter_holds():
    clips = table(*({"motion_score": s / 10, "text_area": s / 100} for s in range(1, 9)))
    both = [(0.25, 0.05), (0.25, 0.5)]
    assert [
        judge_clips(clips, SelectConfig(motion_quantile=q, min_motion=m)).limits["low_motion"] for q, m in both
    ] == (pytest.approx([0.3, 0.5]))
    found = [SelectConfig(text_area_quantile=0.25, max_text_area=limit) for limit in (0.02, 0.9)]
    assert [judge_clips(clips, c).limits["too_much_text"] for c in found] == pytest.approx([0.02, 0.06])


def test_a_setting_that_has_nothing_to_judge_rests_and_says_so():
    clips = table({}, {})
    found = judge_clips(clips, SelectConfig(aesthetic_quantile=0.25, min_clip_similarity=0.2, sharpness_quantile=0.5))
    assert found.bits.tolist() == [0, 0]
    assert found.skipped == (
        "aesthetic_quantile 0.25 is ignored: nobody measured aesthetic, so nothing is dropped by it",
        "min_clip_similarity 0.2 is ignored: nobody measured clip_similarity, so nothing is dropped by it",
        "sharpness_quantile 0.5 is ignored: nobody measured sharpness, so nothing is dropped by it",
    )
    unmeasured = judge_clips(table({"motion_score": None}), SelectConfig(motion_quantile=0.5, max_still_motion=None))
    assert "motion_quantile 0.5 is ignored" in unmeasured.skipped[0]


def test_a_measured_sharpness_is_judged_and_decides_between_duplicates():
    group = {"dedup_group": "g"}
    clips = table(group | {"sharpness": 0.3}, group | {"sharpness": 0.9}, {"sharpness": 0.5}, {"sharpness": 0.2})
    decided = decide(clips, SelectConfig(sharpness_quantile=0.25))
    assert decided["drop_reasons"].to_pylist() == [["duplicate"], [], [], ["not_sharp"]]


def kept(*clips: dict[str, Any]) -> list[bool]:
    """Which of clips that look alike are kept, none dropped by another rule."""
    alike = [{"dedup_group": "g", "fineness": 0.5, "blockiness": 1.1, "sharpness": 0.6} | clip for clip in clips]
    return decide(table(*alike), SelectConfig())["keep"].to_pylist()


def test_of_alike_clips_one_without_text_over_it_is_kept():
    subtitled = {"text_area": 0.04, "sharpness": 0.9, "fineness": 0.7, "width": 1280, "height": 720}
    assert kept(subtitled, {"text_area": 0.0}) == [False, True]
    assert kept({"text_area": 0.014}, {"text_area": 0.01, "end_s": 1.5}) == [True, False]


def test_of_alike_clips_an_enlarged_one_is_not_kept_and_a_larger_one_is():
    enlarged = {"width": 1280, "height": 720, "fineness": 0.35}
    larger = {"width": 1280, "height": 720, "fineness": 0.52}
    assert kept(enlarged, {"fineness": 0.57}) == [False, True]
    assert kept({"fineness": 0.57}, larger) == [False, True]
    assert kept({"fineness": 0.57}, enlarged, larger, larger) == [False, False, True, False]


def test_of_alike_clips_of_one_size_the_least_blocky_is_kept():
    assert kept({"blockiness": 1.6, "sharpness": 0.9}, {"blockiness": 1.1}) == [False, True]
    assert kept({"blockiness": 1.13}, {"sharpness": 0.9}) == [False, True]


def test_what_was_not_measured_decides_nothing_between_alike_clips():
    old = {"fineness": None, "blockiness": None, "sharpness": None}
    assert kept(old, old | {"width": 1280, "height": 720}) == [False, True]


def test_of_alike_clips_the_largest_picture_is_kept_before_the_longest():
    small = {"dedup_group": "g", "end_s": 9.0}
    decided = decide(table(small, {"dedup_group": "g", "width": 1280, "height": 720}), SelectConfig())
    assert decided["keep"].to_pylist() == [False, True]


def test_the_papers_set_is_a_quarter_by_motion_aesthetics_and_text_and_half_by_similarity():
    rng = np.random.default_rng(0)
    columns: tuple[str, ...] = ("motion_score", "aesthetic", "text_area", "clip_similarity")
    drawn = rng.random((400, 4)).astype(np.float32) * [1, 10, 0.06, 1]
    rows: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in drawn.tolist()]
    clips = table(*rows)
    failing = {c.reason: c.failing for c in funnel(clips, **paper().model_dump()).reasons if c.failing}
    assert failing == {"low_motion": 100, "low_aesthetic": 100, "too_much_text": 100, "low_similarity": 200}
    assert paper().max_text_area == 0.07


@pytest.mark.parametrize(("name", "share"), [("worst-12.5", 0.125), ("worst-25", 0.25), ("worst-50", 0.5)])
def test_the_levels_of_the_papers_search_are_presets(name: str, share: float):
    config = PRESETS[name]()
    axes = (axis.quantile for axis in AXES if axis.quantile not in (None, "sharpness_quantile"))
    assert {getattr(config, axis or "") for axis in axes} == {share}


def test_keeping_all_keeps_what_nobody_measured():
    worst: dict[str, Any] = dict.fromkeys(("contrast", "text_area", "motion_score", "change", "camera_motion"))
    clips = table(worst, {"end_s": 0.01, "text_area": 1.0}, *[{"dedup_group": "g"}] * 2)
    assert judge_clips(clips, keep_all()).bits.tolist() == [0, 0, 0, 0]


def test_the_order_of_the_clips_does_not_matter():
    rng = np.random.default_rng(1)
    rows = [{"motion_score": m, "dedup_group": f"g{i % 7}"} for i, m in enumerate(rng.random(60).tolist())]
    clips, order = table(*rows), rng.permutation(60)
    config = SelectConfig(motion_quantile=0.3)
    alone, mixed = judge_clips(clips, config).bits, judge_clips(clips.take(pa.array(order)), config).bits
    motion = 1 << REASONS.index("low_motion")
    assert (alone[order] & motion == mixed & motion).all()
    assert (alone == 0).sum() == (mixed == 0).sum()


def test_thresholds_hold_at_the_columns_own_precision():
    assert reasons({"text_area": float(np.float32(0.07))}) == []
    assert reasons({"text_area": float(np.nextafter(np.float32(0.07), np.float32(1)))}) == ["too_much_text"]


def test_every_axis_has_its_settings_and_its_reason():
    assert {axis.reason for axis in AXES} < set(REASONS)
    assert {s for a in AXES for s in (a.limit, a.quantile) if s} < set(SelectConfig.model_fields)


def test_each_preset_sets_these_thresholds_and_no_other():
    axes = ("motion_quantile", "aesthetic_quantile", "text_area_quantile", "clip_similarity_quantile")
    off = ("min_clip_s", "min_contrast", "max_text_area", "max_still_motion")
    assert {name: preset().model_dump(exclude_unset=True) for name, preset in PRESETS.items()} == {
        "default": {},
        "keep-all": dict.fromkeys(off) | {"drop_duplicates": False},
        "training": {"min_clip_s": 2.0, "min_motion": 0.02, "max_text_area": 0.03},
        "paper": dict.fromkeys(axes, 0.25) | {"clip_similarity_quantile": 0.5},
        "worst-12.5": dict.fromkeys(axes, 0.125),
        "worst-25": dict.fromkeys(axes, 0.25),
        "worst-50": dict.fromkeys(axes, 0.5),
    }


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(SelectConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "min_clip_s": "1.0, ge=0",
        "min_contrast": "2.0, ge=0",
        "max_text_area": "0.07, ge=0, le=1",
        "text_area_quantile": "None, ge=0, lt=1",
        "max_still_motion": "0.005, ge=0",
        "max_still_change": "0.05, ge=0",
        "max_frozen_s": "None, ge=0",
        "min_motion": "None, ge=0",
        "motion_quantile": "None, ge=0, lt=1",
        "max_motion": "None, gt=0",
        "min_aesthetic": "None",
        "aesthetic_quantile": "None, ge=0, lt=1",
        "min_clip_similarity": "None, ge=-1, le=1",
        "clip_similarity_quantile": "None, ge=0, lt=1",
        "min_sharpness": "None, ge=0",
        "sharpness_quantile": "None, ge=0, lt=1",
        "drop_motions": "()",
        "drop_duplicates": "True",
    }
