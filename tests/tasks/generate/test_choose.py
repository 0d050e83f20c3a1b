"""The gate keeps the best take, and never one that misses the motion while another meets it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gate as planted
from tasks.generate.choose import (
    SCHEMA,
    GateConfig,
    Take,
    choose,
    choose_takes,
    list_failed_rules,
    list_unmet_jobs,
    make_choice_rows,
    measure_quality,
    score,
)
from tasks.generate.decode import SCHEMA as CLIP_SCHEMA
from tasks.generate.encode import SCHEMA as VIDEO_SCHEMA
from tasks.generate.jobs import SCHEMA as JOB_SCHEMA
from tasks.manifest import Lineage, ManifestRef, make_table, read_manifest, read_rows, write_manifest
from tests.declared import declared

GATE = GateConfig()

CLEAN = Take("a", "pan_left", "pan_left", 8, 8, 0.9, 3.0, 0.8, 0.5, 0.0)

shares = st.floats(0, 1)
takes = st.builds(
    Take,
    item_key=st.just("k"),
    motion_asked=st.just("pan_left"),
    motion_measured=st.sampled_from(["pan_left", "pan_right", "static"]),
    frames=st.just(8),
    good_frames=st.integers(0, 8),
    sharpness=st.floats(0, 5),
    colour=st.floats(0, 200),
    identity=st.floats(-1, 1),
    flicker=st.floats(0, 100),
    frozen_share=shares,
)


def clip(key: str, **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(CLIP_SCHEMA.names) | {
        "item_key": key, "motion_measured": "pan_left", "sharpness": 0.9, "colour": 3.0,
        "identity": 0.8, "flicker": 0.5, "frozen_share": 0.0, "good_until": 8, "change_curve": [1.0] * 8, "attempt": 1,
    }  # fmt: skip
    return row | changes


def video(key: str, **changes: Any) -> dict[str, Any]:
    return dict.fromkeys(VIDEO_SCHEMA.names) | {"item_key": key, "video": f"{key}.mp4", "attempt": 1} | changes


def job(number: int, take: int, key: str, **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(JOB_SCHEMA.names) | {"status": "ready", "motion": "pan_left", "frames": 8, "attempt": 1}
    return row | {"job": number, "take": take, "item_key": key} | changes


@given(st.lists(takes, min_size=1, max_size=6))
def test_a_take_that_misses_the_motion_is_never_chosen_over_one_that_meets_it(several):
    best = several[choose(several, GATE).best]
    assert best.met or not any(take.met for take in several)


@given(takes)
def test_scores_and_their_parts_are_between_0_and_1(take):
    assert all(0 <= part <= 1 for part in measure_quality(take).values())
    assert 0 <= score(take) <= 1


@settings(max_examples=50)
@given(takes, st.integers(0, 8))
def test_fewer_good_frames_never_score_higher(take, fewer):
    assert score(replace(take, good_frames=min(fewer, take.good_frames))) <= score(take)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"motion_measured": "static"}, "camera static, asked pan_left"),
        ({"good_frames": 5}, "good until frame 5 of 8"),
        ({"frozen_share": 0.5}, "50% of the frames repeated"),
    ],
)
def test_what_fails_the_gate_is_said_in_words(change, said):
    assert list_failed_rules(CLEAN, GATE) == ()
    assert list_failed_rules(replace(CLEAN, **change), GATE) == (said,)


def test_the_gates_thresholds_are_its_settings():
    assert list_failed_rules(replace(CLEAN, motion_measured="static"), GateConfig(motion=False)) == ()
    assert list_failed_rules(replace(CLEAN, good_frames=5), GateConfig(good_share=0.5)) == ()
    assert list_failed_rules(CLEAN, GateConfig(score_min=0.99)) == (f"score {score(CLEAN):.2f} below 0.99",)


def test_a_still_clip_passes_where_the_camera_is_to_stand_still_but_ranks_after_one_in_which_something_moves():
    still = replace(CLEAN, motion_asked="static", motion_measured="static", frozen_share=1.0)
    moving = replace(still, frozen_share=0.0, sharpness=0.6)
    assert list_failed_rules(still, GATE) == ()
    assert choose([still, moving], GATE).best == 1


def test_of_takes_that_meet_the_motion_the_best_is_chosen_and_of_equal_ones_the_first():
    blurred = replace(CLEAN, sharpness=0.3)
    assert choose([blurred, CLEAN, CLEAN], GATE).best == 1


def test_without_an_asked_motion_any_camera_will_do():
    assert list_failed_rules(replace(CLEAN, motion_asked=None, motion_measured="roll"), GATE) == ()


def test_a_clip_that_ended_before_the_frames_asked_for_lacks_them():
    jobs = [job(0, take, key, frames=16) for take, key in enumerate("ab")]
    clips = [clip("a"), clip("b", good_until=12, change_curve=[1.0] * 16)]
    short, long = make_choice_rows(jobs, clips, [video("a"), video("b")], GATE)
    assert short["reasons"] == ("good until frame 8 of 16",)
    assert (long["passed"], long["chosen"]) == (True, True)


def test_each_job_has_one_chosen_take_even_where_none_passes():
    jobs = [job(0, 1, "b"), job(0, 0, "a"), job(1, 0, "c"), job(2, 0, "d"), job(3, 0, "e")]
    clips = [clip("a", motion_measured="static"), clip("b"), clip("c", motion_measured="roll"), clip("d")]
    videos = [video("c"), video("b"), video("a"), video("d", video=None)]
    rows = {row["item_key"]: row for row in make_choice_rows(jobs, clips, videos, GATE)}
    assert {key: (row["chosen"], row["passed"]) for key, row in rows.items()} == {
        "a": (False, False),
        "b": (True, True),
        "c": (True, False),
    }
    assert rows["c"]["reasons"] == ("camera roll, asked pan_left",)
    assert list_unmet_jobs(jobs, list(rows.values())) == {1}, "what has no file is a failure, not a miss"


def test_the_step_writes_a_row_for_each_take_that_has_a_file_and_finds_it_again(tmp_path):
    def manifest(name: str, rows: list[dict[str, Any]], schema: Any) -> ManifestRef:
        return write_manifest(tmp_path / name, make_table(rows, schema), Lineage(step=name, version=1))

    jobs = manifest("jobs", [job(0, 0, "a"), job(0, 1, "b"), job(1, 0, "c", status="duplicate")], JOB_SCHEMA)
    clips = [manifest("a", [clip("a")], CLIP_SCHEMA), manifest("b", [clip("b", sharpness=0.2)], CLIP_SCHEMA)]
    videos = [manifest(f"video {key}", [video(key)], VIDEO_SCHEMA) for key in "ab"]
    made = choose_takes.fn(tmp_path, GATE, jobs, clips, videos)
    assert read_manifest(made).schema == SCHEMA
    assert [(row["item_key"], row["chosen"]) for row in read_rows(made)] == [("a", True), ("b", False)]
    assert choose_takes.fn(tmp_path, GATE, jobs, clips, videos).cached
    assert not choose_takes.fn(tmp_path, GateConfig(score_min=0.5), jobs, clips, videos).cached


@pytest.mark.slow
def test_on_rendered_takes_with_planted_faults_the_clean_one_is_ranked_first():
    first, passed, wrong = planted.run(16)
    assert first["clean"] >= 15, wrong
    assert passed["clean"] >= 14
    assert passed["wrong motion"] == passed["flickering"] == 0


@pytest.mark.parametrize(
    ("changes", "parts", "whole"),
    [
        ({}, (0.9, 0.925, 0.8, 0.95, 1.0), 0.915),
        ({"sharpness": 2.0, "colour": 20.0, "flicker": 2.5}, (0.5, 0.5, 0.8, 0.75, 1.0), 0.71),
        ({"colour": 60.0, "identity": -0.5, "flicker": 30.0, "frozen_share": 0.25}, (0.9, 0.0, 0.0, 0.0, 0.75), 0.33),
        ({"good_frames": 2}, (0.9, 0.925, 0.8, 0.95, 1.0), 0.22875),
    ],
)
def test_the_score_is_the_share_of_good_frames_times_the_mean_of_these_parts(
    changes: dict[str, Any], parts: tuple[float, ...], whole: float
):
    take = replace(CLEAN, **changes)
    names = ("sharpness", "colour", "identity", "flicker", "moving")
    assert measure_quality(take) == pytest.approx(dict(zip(names, parts, strict=True)))
    assert score(take) == pytest.approx(whole)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(GateConfig) == {
        "": "frozen=True, extra='forbid'",
        "extra_takes": "0, ge=0, le=64",
        "good_share": "0.75, ge=0, le=1",
        "score_min": "0.0, ge=0, le=1",
        "frozen_max": "0.3, ge=0, le=1",
        "motion": "True",
    }


def test_the_step_goes_by_its_name():
    assert choose_takes.name == "choose"
