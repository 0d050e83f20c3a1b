"""Sides: whole films, drawn by content alone, and what looks alike is never on two of them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.errors import BadInput
from tasks.export.samples import HoldOutConfig, assign_splits, choose_split, collect_samples, make_samples
from tasks.manifest import read_lineage, read_rows
from tests.declared import declared

THIRDS = HoldOutConfig(validation=1 / 3, test=1 / 3)


def clip(video: int, group: int | None = None) -> dict[str, str | None]:
    return {"video_id": f"{video:016x}", "dedup_group": None if group is None else f"g{group}"}


CLIPS = st.lists(st.builds(clip, st.integers(0, 30), st.none() | st.integers(0, 6)), max_size=60)


@given(CLIPS)
def test_no_film_and_no_group_of_lookalikes_stands_on_two_sides(clips: list[dict]):
    sides = [side for side, _ in assign_splits(clips, THIRDS)]
    for name in ("video_id", "dedup_group"):
        for value in {clip[name] for clip in clips} - {None}:
            assert len({side for c, side in zip(clips, sides, strict=True) if c[name] == value and side}) <= 1


@given(CLIPS, CLIPS)
def test_more_sources_move_no_clip_to_another_side(clips: list[dict], more: list[dict]):
    before, after = assign_splits(clips, THIRDS), assign_splits([*clips, *more], THIRDS)
    for (old, _), (new, _) in zip(before, after, strict=False):
        assert old is None or new in (old, None)


@given(CLIPS)
def test_only_lookalikes_across_sides_are_left_out_and_the_held_out_one_stays(clips: list[dict]):
    sides = assign_splits(clips, THIRDS)
    for c, (side, reason) in zip(clips, sides, strict=True):
        assert (side is None) == (reason is not None)
        assert c["dedup_group"] is not None or side == choose_split(c["video_id"], THIRDS)
        if choose_split(c["video_id"], THIRDS) == "test":
            assert side == "test"


def test_the_shares_are_those_asked_for():
    config = HoldOutConfig(validation=0.2, test=0.1)
    counts = Counter(choose_split(f"{video:016x}", config) for video in range(5000))
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert counts["validation"] / 5000 == pytest.approx(0.2, abs=0.02)


def test_the_draw_is_the_same_for_ever_and_another_seed_draws_others():
    """Computed once, by hand: a film that moved to another side would be trained on and then tested on."""
    other = THIRDS.model_copy(update={"seed": 1})
    assert [choose_split(f"{video:016x}", THIRDS) for video in range(6)] == [
        "train",
        "validation",
        "validation",
        "train",
        "train",
        "train",
    ]
    assert [choose_split(f"{video:016x}", other) for video in range(6)] == [
        "validation",
        "test",
        "test",
        "test",
        "train",
        "train",
    ]
    assert [choose_split(f"{video:016x}", HoldOutConfig()) for video in (0, 29, 11)] == ["train", "validation", "test"]


def test_more_than_all_cannot_be_held_out():
    with pytest.raises(ValidationError, match="are together more than 1"):
        HoldOutConfig(validation=0.6, test=0.6)


def test_kept_clips_become_samples_with_all_that_is_known(films, tmp_path: Path):
    ref = films.samples(tmp_path / "out", [{}, {"keep": False}, {"broken": True}, {"caption": None}])
    first, broken, silent = read_rows(ref)
    facts = json.loads(first["facts"])
    assert (facts["caption"], facts["source"], facts["motion_score"], facts["cut_frames"]) == (
        "clip 0", "/in/0.mp4", 0.25, 4,
    )  # fmt: skip
    assert not {"keep", "cut_path", "aesthetic"} & set(facts)
    assert first["sha256"] == facts["cut_sha256"]
    assert (broken["side"], broken["error_code"], broken["video"]) == (None, "bad_media", None)
    assert silent["caption"] is None
    assert read_lineage(ref.path).step == "samples"


@pytest.mark.parametrize("name", ["../../x", "/x", "a/x"])
def test_a_clip_whose_id_is_no_name_of_a_file_is_a_row_and_on_no_side(name: str):
    """Files are named by it, in folders and in shards; a table from a stranger may hold any."""
    clip = {"clip_id": "v-0-4", "video_id": "v", "caption": None, "dedup_group": None, "keep": True}
    cut = {"error_message": None, "cut_path": "clips/v.mp4", "cut_bytes": 1, "cut_sha256": "0"}
    every = HoldOutConfig(validation=0.0, test=0.0)
    bad, good = make_samples([clip | {"clip_id": name}, clip], {name: cut, "v-0-4": cut}, every)
    assert (bad["error_code"], bad.get("side"), bad.get("video")) == ("bad_manifest", None, None)
    assert f"{name!r}: is no name of a clip" in bad["error_message"]
    assert (good.get("error_code"), good["side"]) == (None, "train")


def test_a_dataset_that_keeps_nothing_says_so(films, tmp_path: Path):
    with pytest.raises(BadInput, match="no clip is kept"):
        films.samples(tmp_path / "out", [{"keep": False}])


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(HoldOutConfig) == {
        "": "frozen=True, extra='forbid'",
        "validation": "0.05, ge=0, le=1",
        "test": "0.05, ge=0, le=1",
        "seed": "0",
    }


def test_the_step_goes_by_its_name():
    assert collect_samples.name == "samples"
