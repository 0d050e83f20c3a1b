from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from models.errors import BadInput, BadManifest
from tasks.caching import lineage_of
from tasks.curate import join
from tasks.curate.select import (
    NEEDS,
    REASONS,
    SCHEMA,
    SelectConfig,
    decide,
    funnel_of,
    repeated,
    reselect,
    select_clips,
)
from tasks.manifest import ManifestRef, file_digest, read_lineage, read_manifest, read_rows, write_manifest

GOOD: dict[str, Any] = {
    "video_id": "v",
    "start_s": 0.0,
    "end_s": 3.0,
    "contrast": 40.0,
    "text_area": 0.01,
    "motion_score": 0.2,
    "change": 3.0,
    "camera_motion": "pan_left",
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


def joined(root: Path, *clips: dict[str, Any]) -> ManifestRef:
    return write_manifest(root / "manifests" / "join" / "k.parquet", table(*clips), lineage_of(join.STEP, None, ["x"]))


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
        ({"contrast": 0.0, "motion_score": 0.0, "change": 0.0}, ["no_picture", "no_motion"]),
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
        ({"motion_score": 0.0, "change": 0.0}, {"min_motion": None}, []),
        ({"motion_score": 0.0, "change": 0.4}, {"max_still_change": 0.5}, ["no_motion"]),
        ({"contrast": 0.0}, {"min_contrast": None}, []),
        ({"motion_score": 2.0}, {"max_motion": 1.5}, ["too_much_motion"]),
        ({"camera_motion": "static"}, {"drop_motions": ["static", "complex"]}, ["unwanted_motion"]),
        ({"camera_motion": None}, {"drop_motions": ["static"]}, ["measurement_failed"]),
        ({"camera_motion": None}, {}, []),
    ],
)
def test_thresholds_move_the_rules_and_null_turns_them_off(clip: dict, thresholds: dict, expected: list[str]):
    assert reasons(clip, **thresholds) == expected


@pytest.mark.parametrize("wrong", [{"min_motoin": 1}, {"max_text_area": 7}, {"drop_motions": ["statc"]}])
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
    repeats = repeated(table(*({"dedup_group": name} for name in names)), np.ones(6, bool))
    assert repeats.tolist() == [False, False, False, True, True, False]


def test_deciding_again_replaces_the_verdict():
    decided = decide(table({"text_area": 0.05}), SelectConfig(max_text_area=0.01))
    again = decide(decided, SelectConfig())
    assert again["keep"].to_pylist() == [True]
    assert again.column_names == decided.column_names == [*join.SCHEMA.names, *SCHEMA.names]


def test_the_funnel_counts_what_fails_first_and_alone():
    clips = table({}, {"end_s": 0.5}, {"end_s": 0.5, "text_area": 0.5}, {"text_area": 0.5, "end_s": 2.0})
    funnel = funnel_of(decide(clips, SelectConfig()))
    counts = {c.reason: (c.failing, c.first, c.only) for c in funnel.reasons if c.failing}
    assert counts == {"too_short": (2, 2, 1), "too_much_text": (2, 1, 1)}
    assert (funnel.clips, funnel.kept, funnel.seconds, funnel.kept_seconds) == (4, 1, 6.0, 3.0)
    assert tuple(c.reason for c in funnel.reasons) == REASONS


def test_selecting_writes_the_table_people_open(tmp_path: Path):
    selection = select_clips.fn(tmp_path, SelectConfig(), joined(tmp_path, {}, {"end_s": 0.5}))
    rows = read_rows(tmp_path / "clips.parquet")
    assert selection.clips.path == tmp_path / "clips.parquet"
    assert (selection.clips.rows, selection.funnel.kept) == (2, 1)
    assert [(row["keep"], row["drop_reason"]) for row in rows] == [(True, None), (False, "too_short")]
    lineage = read_lineage(tmp_path / "clips.parquet")
    assert (lineage.step, lineage.parameters["min_clip_s"]) == ("select", 1.0)


def test_selecting_again_from_the_table_alone_gives_the_same_file_as_from_the_start(tmp_path: Path):
    clips = ({}, {"end_s": 0.5, "dedup_group": "g"}, {"dedup_group": "g"}, {"text_area": None})
    other = SelectConfig(min_clip_s=0.2, max_text_area=None)
    select_clips.fn(tmp_path, other, joined(tmp_path, *clips))
    expected = file_digest(tmp_path / "clips.parquet")
    manifest = joined(tmp_path, *clips)
    first = select_clips.fn(tmp_path, SelectConfig(), manifest)
    manifest.path.unlink()
    again = reselect(tmp_path, other)
    assert file_digest(tmp_path / "clips.parquet") == expected
    assert again.funnel.kept > first.funnel.kept
    assert read_lineage(tmp_path / "clips.parquet").inputs == (manifest.digest,)


def test_a_dataset_without_clips_is_selected(tmp_path: Path):
    selection = select_clips.fn(tmp_path, SelectConfig(), joined(tmp_path))
    assert (selection.funnel.clips, selection.funnel.kept) == (0, 0)
    assert reselect(tmp_path, SelectConfig()).clips.digest == selection.clips.digest


def test_selecting_without_a_dataset_says_what_to_do(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no clips\.parquet.*reelmill curate"):
        reselect(tmp_path, SelectConfig())


def test_a_table_that_lacks_a_column_is_named(tmp_path: Path):
    select_clips.fn(tmp_path, SelectConfig(), joined(tmp_path, {}))
    kept = read_manifest(tmp_path / "clips.parquet").drop_columns(["contrast"])
    write_manifest(tmp_path / "clips.parquet", kept, read_lineage(tmp_path / "clips.parquet"))
    with pytest.raises(BadManifest, match="contrast"):
        reselect(tmp_path, SelectConfig())
    assert set(NEEDS) <= set(join.SCHEMA.names)
