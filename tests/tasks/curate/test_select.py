"""Selecting writes verdicts beside measurements, from the start or again, and never touches the measurements."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.errors import BadInput, BadManifest
from tasks.caching import make_lineage
from tasks.curate import join
from tasks.curate.select import NEEDS, reselect, select_clips
from tasks.keep_rules import SelectConfig
from tasks.manifest import ManifestRef, digest_file, read_lineage, read_manifest, read_rows, write_manifest
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
    "phash": ["00"],
}


def joined(root: Path, *clips: dict[str, Any]) -> ManifestRef:
    rows = [GOOD | {"clip_id": f"c{i}", "start_pts": i, "shot_start_pts": i} | clip for i, clip in enumerate(clips)]
    table = pa.Table.from_pylist(rows, join.SCHEMA)
    return write_manifest(root / "manifests" / "join" / "k.parquet", table, make_lineage(join.STEP, None, ["x"]))


def test_selecting_writes_the_table_people_open(tmp_path: Path):
    selection = select_clips(tmp_path, SelectConfig(), joined(tmp_path, {}, {"end_s": 0.5}))
    rows = read_rows(tmp_path / "clips.parquet")
    assert selection.clips.path == tmp_path / "clips.parquet"
    assert (selection.clips.rows, selection.funnel.kept) == (2, 1)
    assert [(row["keep"], row["drop_reason"]) for row in rows] == [(True, None), (False, "too_short")]
    lineage = read_lineage(tmp_path / "clips.parquet")
    assert (lineage.step, lineage.parameters["min_clip_s"]) == ("select", 1.0)


def test_selecting_again_from_the_table_alone_gives_the_same_file_as_from_the_start(tmp_path: Path):
    clips = ({}, {"end_s": 0.5, "dedup_group": "g"}, {"dedup_group": "g"}, {"text_area": None})
    other = SelectConfig(min_clip_s=0.2, max_text_area=None)
    select_clips(tmp_path, other, joined(tmp_path, *clips))
    expected = digest_file(tmp_path / "clips.parquet")
    manifest = joined(tmp_path, *clips)
    first = select_clips(tmp_path, SelectConfig(), manifest)
    manifest.path.unlink()
    again = reselect(tmp_path, other)
    assert digest_file(tmp_path / "clips.parquet") == expected
    assert again.funnel.kept > first.funnel.kept
    assert read_lineage(tmp_path / "clips.parquet").inputs == (manifest.digest,)


def test_a_dataset_without_clips_is_selected(tmp_path: Path):
    selection = select_clips(tmp_path, SelectConfig(), joined(tmp_path))
    assert (selection.funnel.clips, selection.funnel.kept) == (0, 0)
    assert reselect(tmp_path, SelectConfig()).clips.digest == selection.clips.digest


def test_selecting_without_a_dataset_says_what_to_do(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no clips\.parquet.*reelmill curate"):
        reselect(tmp_path, SelectConfig())


def test_a_table_that_lacks_a_column_is_named(tmp_path: Path):
    select_clips(tmp_path, SelectConfig(), joined(tmp_path, {}))
    path = tmp_path / "clips.parquet"
    write_manifest(path, read_manifest(path).drop_columns(["contrast"]), read_lineage(path))
    with pytest.raises(BadManifest, match="contrast"):
        reselect(tmp_path, SelectConfig())
    assert set(NEEDS) <= set(join.SCHEMA.names)


def test_a_rule_on_a_column_that_an_older_table_lacks_is_ignored(tmp_path: Path):
    select_clips(tmp_path, SelectConfig(), joined(tmp_path, {}, {"end_s": 0.5}))
    path = tmp_path / "clips.parquet"
    write_manifest(path, read_manifest(path).drop_columns(["frozen_s"]), read_lineage(path))
    funnel = reselect(tmp_path, SelectConfig(max_frozen_s=0.5)).funnel
    assert (funnel.kept, funnel.skipped) == (
        1, ("max_frozen_s 0.5 is ignored: nobody measured frozen_s, so nothing is dropped by it",),
    )  # fmt: skip


def test_the_table_is_the_measured_one_with_the_verdicts(tmp_path: Path):
    clips = joined(tmp_path, {}, {"end_s": 0.5}, {"text_area": 0.5, "caption": "Ein Café."}, {"text_area": None})
    for config in (SelectConfig(), SelectConfig(max_text_area=None, motion_quantile=0.5)):
        select_clips(tmp_path, config, clips)
        assert read_manifest(tmp_path / "clips.parquet").equals(decide(read_manifest(clips), config))


def test_a_table_that_another_tool_wrote_is_refused(tmp_path: Path):
    selection = select_clips(tmp_path, SelectConfig(), joined(tmp_path, {}))
    lineage = read_lineage(selection.clips.path).model_copy(update={"inputs": ()})
    write_manifest(selection.clips.path, read_manifest(selection.clips.path), lineage)
    with pytest.raises(BadManifest, match="was not made by select"):
        reselect(tmp_path, SelectConfig())


def test_the_same_verdicts_have_the_same_digest_and_others_another(tmp_path: Path):
    clips = joined(tmp_path, {}, {"end_s": 0.5})
    digests = [select_clips(tmp_path, SelectConfig(min_clip_s=s), clips).clips.digest for s in (1.0, 0.9, 0.1, 1.0)]
    assert digests[0] == digests[1] == digests[3] != digests[2]


def test_deciding_does_not_load_prefect():
    code = "import sys, flows.selection; print('prefect' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
