from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.caching import Step, make_lineage
from tasks.curate import ingest
from tasks.curate.join import SCHEMA, join_measures, make_videos_schema, read_changes
from tasks.curate.video_manifests import VideoManifests
from tasks.further_columns import pack
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_lineage, read_manifest, read_rows, write_manifest

FIXED_NAMES = {
    *("clip_id", "video_id", "source", "time_base", "fps", "width", "height", "frames"),
    *("start_s", "end_s", "start_pts", "end_pts", "shot_start_s", "shot_end_s"),
    *("motion_score", "camera_motion", "text_area", "caption", "caption_image", "caption_video"),
    *("clip_similarity", "aesthetic", "dedup_group"),
}


def ingested(root: Path, *rows: dict[str, Any]) -> ManifestRef:
    """An ingest of files given by what matters of them: by default all can be read."""
    whole = [{"status": "ok", "digest": row["video_id"], "attempt": 1} | row for row in rows]
    path = root / "manifests" / "ingest" / "all.parquet"
    return write_manifest(path, make_table(whole, ingest.SCHEMA), make_lineage(ingest.STEP, None, []))


def measured(root: Path, name: str, column: pa.Field, rows: list[dict[str, Any]]) -> ManifestRef:
    """The manifest of a step that measures one column."""
    step = Step(name, 1, pa.schema([("clip_id", pa.string()), column, *ERROR_FIELDS]))
    path = root / "manifests" / name / f"{len(rows)}.parquet"
    return write_manifest(path, make_table(rows, step.schema), make_lineage(step, None, []))


def join(dataset, files: ManifestRef, *videos: VideoManifests) -> ManifestRef:
    """The joined clips of videos of which none looks like another."""
    groups = measured(dataset.root, "dedup", pa.field("dedup_group", pa.string()), [])
    return join_measures.fn(dataset.root, files, videos, groups)


SCORE = pa.field("motion_score", pa.float32())
AREA = pa.field("text_area", pa.float32())


def test_every_fixed_name_is_a_column_whoever_measured(dataset, flat):
    video = dataset.add("v", [flat(4)])
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    joined = read_manifest(join(dataset, files, video))
    assert joined.schema == SCHEMA
    assert set(SCHEMA.names) >= FIXED_NAMES
    (row,) = joined.to_pylist()
    assert (row["source"], row["frames"], row["width"], row["height"]) == ("/a.mp4", 4, 64, 48)
    assert {row[name] for name in ("motion_score", "caption", "clip_similarity", "aesthetic", "error")} == {None}


def test_measures_are_found_by_clip_whatever_their_order(dataset, flat):
    video = dataset.add("v", [flat(4), flat(6), flat(5)])
    names = [row["clip_id"] for row in read_rows(video.split)]
    scores = measured(dataset.root, "motion", SCORE, [{"clip_id": names[i], "motion_score": i} for i in (2, 0)])
    areas = measured(dataset.root, "text", AREA, [{"clip_id": n, "text_area": 0.5} for n in names])
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    rows = read_rows(join(dataset, files, video._replace(motion=scores, text=areas)))
    assert [row["motion_score"] for row in rows] == [0, None, 2]
    assert [row["text_area"] for row in rows] == [0.5] * 3


def test_clips_are_sorted_by_source_and_time(dataset, flat):
    videos = [dataset.add(name, [flat(4), flat(4)]) for name in ("v", "w")]
    files = ingested(dataset.root, {"video_id": "v", "source": "/z.mp4"}, {"video_id": "w", "source": "/b.mp4"})
    rows = read_rows(join(dataset, files, *videos))
    assert [(row["source"], row["start_pts"]) for row in rows] == [
        ("/b.mp4", 0),
        ("/b.mp4", 167),
        ("/z.mp4", 0),
        ("/z.mp4", 167),
    ]


def test_the_errors_of_all_steps_are_told(dataset, flat):
    video = dataset.add("v", [flat(4), flat(4)])
    failed, fine = (row["clip_id"] for row in read_rows(video.split))
    scores = measured(
        dataset.root, "motion", SCORE, [{"clip_id": failed, "error_code": "x", "error_message": "too dark."}]
    )
    areas = measured(
        dataset.root,
        "text",
        AREA,
        [{"clip_id": failed, "error_code": "x", "error_message": "no frame."}, {"clip_id": fine, "text_area": 0.0}],
    )
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    rows = read_rows(join(dataset, files, video._replace(motion=scores, text=areas)))
    assert [row["error"] for row in rows] == ["motion: too dark.; text: no frame.", None]


def test_what_is_too_short_to_be_measured_is_noted_and_is_no_error(dataset, flat):
    video = dataset.add("v", [flat(4)])
    (short,) = (row["clip_id"] for row in read_rows(video.split))
    scores = measured(dataset.root, "motion", SCORE, [{"clip_id": short, "error_message": "frames stored: 1."}])
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    (row,) = read_rows(join(dataset, files, video._replace(motion=scores)))
    assert (row["error"], row["note"], row["motion_score"]) == (None, "motion: frames stored: 1.", None)


def test_the_change_of_a_clip_leaves_out_the_cut_before_it(dataset, flat):
    still, moving = flat(5, 200), np.concatenate([flat(1, level) for level in (0, 10, 20, 30)])
    scan, split, *_ = dataset.add("v", [still, moving, flat(1, 99)])
    assert read_changes(scan, read_manifest(split))[:, 0] == pytest.approx([0, 10, np.nan], nan_ok=True)
    failed = dataset.failed("w")
    assert read_changes(failed.scan, read_manifest(failed.split)).shape == (0, 3)


def test_the_longest_freeze_of_a_clip_is_that_of_its_frames_that_show_one_picture(dataset, flat):
    moving = np.concatenate([flat(1, level) for level in (0, 40, 80)])
    shots = [
        flat(24),  # a still, as long as it is
        moving,  # never
        np.concatenate([moving, flat(6, 120), moving, flat(12, 200), moving]),  # the longer one of two
        np.concatenate([moving, flat(3, 120)]),  # up to the end
        flat(1),  # nothing to compare
    ]
    scan, split, *_ = dataset.add("v", shots)
    found = read_changes(scan, read_manifest(split))[:, 1]
    assert found == pytest.approx([1, 0, 12 / 24, 3 / 24, np.nan], abs=0.002, nan_ok=True)
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    rows = read_rows(join(dataset, files, VideoManifests(scan, split)))
    assert [row["frozen_s"] for row in rows] == [pytest.approx(each, abs=0.002) for each in found[:4]] + [None]


def test_every_source_file_is_a_row_of_videos(dataset, flat):
    good, broken = dataset.add("v", [flat(4), flat(4)]), dataset.failed("w")
    files = ingested(
        dataset.root,
        {"video_id": "v", "source": "/good.mp4"},
        {"video_id": "v", "source": "/copy.mp4", "status": "duplicate"},
        {"video_id": "w", "source": "/cut.mp4"},
        {
            "video_id": "x",
            "source": "/text.mp4",
            "status": "unreadable",
            "error_code": "bad_media",
            "error_message": "no.",
        },
    )
    join(dataset, files, good, broken)
    rows = {Path(row["source"]).stem: row for row in read_rows(dataset.root / "videos.parquet")}
    found = {name: (row["status"], row["clips"], row["decodes"], row["error_message"]) for name, row in rows.items()}
    assert found == {
        "good": ("ok", 2, 1, None),
        "copy": ("duplicate", None, None, None),
        "cut": ("unreadable", 0, None, "w: broken."),
        "text": ("unreadable", None, None, "no."),
    }


def test_both_tables_say_where_they_come_from(dataset, flat):
    video = dataset.add("v", [flat(4)])
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    joined = join(dataset, files, video)
    assert (read_lineage(joined.path).step, read_lineage(dataset.root / "videos.parquet").step) == ("join", "videos")
    assert read_lineage(joined.path).inputs[0] == files.digest
    assert joined.digest in read_lineage(dataset.root / "videos.parquet").inputs


def test_a_dataset_without_clips_has_empty_tables(dataset):
    files = ingested(dataset.root, {"video_id": "x", "source": "/text.mp4", "status": "unreadable"})
    joined = join(dataset, files)
    assert read_manifest(joined).schema == SCHEMA
    assert joined.rows == 0
    assert len(read_rows(dataset.root / "videos.parquet")) == 1


def test_the_same_inputs_are_joined_once(dataset, flat):
    video = dataset.add("v", [flat(4)])
    files = ingested(dataset.root, {"video_id": "v", "source": "/a.mp4"})
    refs = [join(dataset, files, video) for _ in range(2)]
    assert [ref.cached for ref in refs] == [False, True]


def test_the_error_stands_last_in_videos():
    names = make_videos_schema(ingest.SCHEMA).names
    assert names[-3:] == [field.name for field in ERROR_FIELDS]
    assert len(names) == len(set(names))


def test_the_step_goes_by_its_name():
    assert join_measures.name == "join"


def test_what_a_list_says_of_a_source_stays_with_its_clips_and_its_file(dataset, flat):
    videos = [dataset.add("v", [flat(4)]), dataset.add("w", [flat(5)])]
    said = pack({"license": "CC-BY-4.0", "fps": "film", "keep": "yes"})
    files = ingested(
        dataset.root,
        {"video_id": "v", "source": "/a.mp4", "further": said},
        {"video_id": "w", "source": "/b.mp4", "further": pack({"license": "own"})},
    )
    first, second = read_rows(join(dataset, files, *videos))
    assert (first["license"], second["license"]) == ("CC-BY-4.0", "own")
    assert (first["given_fps"], first["given_keep"], second["given_fps"]) == ("film", "yes", None)
    assert isinstance(first["fps"], float)
    one, other = read_rows(dataset.root / "videos.parquet")
    assert (one["license"], one["keep"], other["license"], other["keep"]) == ("CC-BY-4.0", "yes", "own", None)
    assert "further" not in one
