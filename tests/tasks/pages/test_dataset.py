"""The funnel counts each rule alone and together with the others, and says its threshold."""

import pytest

from models.errors import BadManifest
from tasks.keep_rules import REASONS, RULES, SelectConfig
from tasks.manifest import Lineage, read_manifest, write_manifest
from tasks.pages.dataset import describe_decoding, describe_reason, make_funnel, read_dataset

SHORT = {"end_s": 0.5, "start_s": 0.0}
TEXT, STILL = {"text_area": 0.2}, {"motion_score": 0.001, "change": 0.0}
MIXED = [{}, {}, SHORT, SHORT | TEXT, TEXT, TEXT | STILL, STILL, STILL]


def test_every_rule_counts_what_it_drops_first_at_all_and_alone(curated):
    funnel = make_funnel(read_dataset(curated(MIXED)))
    counts = {stage.reason: (stage.removed, stage.failing, stage.only, stage.left) for stage in funnel.stages}
    assert counts == {"too_short": (2, 2, 1, 6), "too_much_text": (2, 3, 1, 4), "no_motion": (2, 3, 2, 2)}
    assert (funnel.clips, funnel.kept) == (8, 2)
    assert (funnel.seconds, funnel.kept_seconds) == (13.0, 4.0)


def test_shares_of_the_bars_add_up(curated):
    stages = make_funnel(read_dataset(curated(MIXED))).stages
    assert [stage.share_left for stage in stages] == [0.75, 0.5, 0.25]
    assert [stage.share_removed for stage in stages] == [0.25, 0.25, 0.25]


def test_a_rule_says_the_threshold_it_was_asked_with(curated):
    funnel = make_funnel(read_dataset(curated(MIXED, config=SelectConfig(min_clip_s=1.5, max_text_area=0.1))))
    assert [(s.title, s.limit) for s in funnel.stages] == [
        ("Too short", "under 1.5 s"),
        ("Too much text", "over 10% of the picture"),
        ("Nothing moves", "under 0.005 sides/s"),
    ]


def test_rules_without_a_case_are_named(curated):
    idle = make_funnel(read_dataset(curated(MIXED))).idle
    assert "no picture" in idle
    assert "too short" not in idle


def test_a_dataset_without_clips_has_an_empty_funnel(curated):
    dataset = read_dataset(curated([], files=[{"video_id": "a"}]))
    assert make_funnel(dataset) == (0, 0, 0.0, 0.0, [], [words.title.lower() for words in RULES.values()], [])
    assert dataset.shots == 0


def test_every_reason_of_the_rules_has_words_in_their_order():
    assert tuple(RULES) == REASONS


def test_a_limit_is_said_in_the_rules_own_words():
    assert describe_reason("too_much_text", {"too_much_text": 0.065}) == ("Too much text", "over 6.5% of the picture")
    assert describe_reason("too_short", {}) == ("Too short", "")


def test_limits_are_those_in_use_quantiles_resolved(curated):
    clips = [{"motion_score": i / 10} for i in range(4)]
    config = SelectConfig(motion_quantile=0.5, max_text_area=None, max_still_motion=None)
    assert read_dataset(curated(clips, config=config)).limits == {
        "too_short": 1.0, "no_picture": 2.0, "low_motion": pytest.approx(0.2),
    }  # fmt: skip


def test_pairs_of_rules_are_counted(curated):
    together = make_funnel(read_dataset(curated(MIXED))).together
    assert together == [[2, 1, 0], [1, 3, 1], [0, 1, 3]]


def test_shots_are_counted_not_their_pieces(curated):
    pieces = [{"shot_start_pts": 0}, {"shot_start_pts": 0}, {"shot_start_pts": 2000}]
    assert read_dataset(curated([*pieces, {"video_id": "b", "shot_start_pts": 0}])).shots == 3


def test_only_files_in_use_have_frame_stores(curated):
    broken = {"video_id": "b", "status": "unreadable", "frame_store": None, "decodes": None}
    copy = {"video_id": "a", "status": "duplicate", "frame_store": None, "decodes": None}
    dataset = read_dataset(curated([{}], files=[{"video_id": "a"}, broken, copy]))
    assert dataset.stores == {"a": "frames/a.parquet"}


@pytest.mark.parametrize(
    ("decodes", "said"),
    [([1], "1 file was decoded, each once"), ([1, 1, None], "2 files were decoded, each once"),
     ([1, 3], "2 files were decoded, each at most 3 times"), ([None], "No file could be decoded")],
)  # fmt: skip
def test_decodes_are_said_as_counted(curated, decodes, said):
    files = [{"video_id": f"v{i}", "decodes": number} for i, number in enumerate(decodes)]
    assert describe_decoding(read_dataset(curated([], files=files))) == said


def test_an_older_table_is_refused_with_what_it_lacks(curated, tmp_path):
    clips = curated([{}])
    path = clips.path.parent / "videos.parquet"
    write_manifest(path, read_manifest(path).drop_columns(["frame_store"]), Lineage(step="videos", version=1))
    with pytest.raises(BadManifest, match="frame_store"):
        read_dataset(clips)
