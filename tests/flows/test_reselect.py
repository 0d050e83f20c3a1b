"""Deciding again, by the command and by the flow: presets, what is remembered, what is said."""

import logging
from pathlib import Path

import pytest
from prefect import Flow

from flows.command.main import main
from flows.reselect import select
from flows.running.config import read_settings
from flows.selection import PRESETS, ReselectConfig, decide_again, read_thresholds
from models.errors import BadInput
from tasks.caching import make_lineage
from tasks.curate import join
from tasks.curate.select import select_clips
from tasks.keep_rules import SelectConfig
from tasks.ledger import mark
from tasks.manifest import make_table, publish_text, read_rows, write_manifest
from tests.declared import declared


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Eight clips of two seconds with rising motion, and text on the last; no aesthetic score."""
    rows = [
        {"clip_id": f"c{i}", "video_id": "v", "start_s": 2.0 * i, "end_s": 2.0 * i + 2, "shot_start_pts": i}
        | {"contrast": 40.0, "change": 3.0, "motion_score": i / 10, "text_area": 0.2 * (i == 7)}
        for i in range(8)
    ]
    joined = write_manifest(tmp_path / "join.parquet", make_table(rows, join.SCHEMA), make_lineage(join.STEP, None, ()))
    return select_clips(tmp_path, SelectConfig(), joined).clips.path.parent


def kept(dataset: Path) -> list[bool]:
    return [row["keep"] for row in read_rows(dataset / "clips.parquet", ("keep",))]


def test_a_quantile_is_a_flag(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["select", str(dataset), "--motion-quantile", "0.25"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "clips: 8, 5 kept (10.0 of 16.0 s)",
        "dropped: 1 too_much_text, 2 low_motion",
    ]
    assert kept(dataset) == [False, False, True, True, True, True, True, False]


def test_the_papers_set_is_a_preset_and_says_what_rests(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["select", str(dataset), "--preset", "paper"]) == 0
    printed = capsys.readouterr()
    assert "2 low_motion" in printed.out
    assert "aesthetic_quantile 0.25 is ignored: nobody measured aesthetic" in printed.err
    assert "clip_similarity_quantile 0.5 is ignored" in printed.err


def test_a_preset_leaves_nothing_of_what_was_set_before_and_a_flag_lies_on_top(dataset: Path):
    main(["select", str(dataset), "--min-motion", "0.55", "--max-text-area", "none"])
    assert sum(kept(dataset)) == 2
    main(["select", str(dataset), "--preset", "default"])
    assert sum(kept(dataset)) == 7
    main(["select", str(dataset), "--preset", "default", "--min-motion", "0.55"])
    assert sum(kept(dataset)) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_sets_every_threshold(name: str):
    assert set(PRESETS[name]()) == set(SelectConfig.model_fields)


def test_what_was_decided_is_remembered_beside_the_other_settings(dataset: Path):
    publish_text(dataset / "curate.yaml", "out: somewhere\nselect:\n  min_clip_s: 0.5\n")
    assert read_thresholds(str(dataset)) == {"min_clip_s": 0.5}
    main(["select", str(dataset), "--motion-quantile", "0.5"])
    settings = read_settings(dataset / "curate.yaml")
    assert settings["out"] == "somewhere"
    assert (settings["select"]["min_clip_s"], settings["select"]["motion_quantile"]) == (0.5, 0.5)


def test_thresholds_that_a_changed_byte_made_others_are_said(dataset: Path, caplog: pytest.LogCaptureFixture):
    mark(dataset, "curate", "1")
    publish_text(dataset / "curate.yaml", "select:\n  min_clip_s: 0.5\n")
    assert (read_thresholds(str(dataset)), caplog.records) == ({"min_clip_s": 0.5}, [])
    (dataset / "curate.yaml").write_text("select:\n  min_clip_s: 9.5\n")
    read_thresholds(str(dataset))
    (said,) = [record.getMessage() for record in caplog.records]
    wanted = "has other bytes than were written. Its settings are used as they stand there now."
    assert said == f"{dataset / 'curate.yaml'}: {wanted}"


def test_an_unknown_preset_names_those_there_are(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["select", str(dataset), "--preset", "papper"]) == 2
    assert "did you mean paper?" in capsys.readouterr().err


def test_the_flow_does_what_the_command_does(dataset: Path, caplog: pytest.LogCaptureFixture):
    config = ReselectConfig(dataset=dataset, motion_quantile=0.5, sharpness_quantile=0.5)
    with caplog.at_level(logging.WARNING, "reelmill"):
        outcome = select.fn(config)
    assert isinstance(select, Flow)
    assert outcome == decide_again(config)
    assert outcome.funnel.kept == 3
    assert "sharpness_quantile 0.5 is ignored" in caplog.text


def test_a_dataset_that_is_not_there_is_named_and_not_made(tmp_path: Path):
    with pytest.raises(BadInput, match=r"gone: no such folder\. Name a dataset that `reelmill curate` made\."):
        decide_again(ReselectConfig(dataset=tmp_path / "gone"))
    assert list(tmp_path.iterdir()) == []


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ReselectConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "dataset": "required",
        "preset": "None",
    }


def test_the_flow_goes_by_its_name():
    assert select.name == "select"
