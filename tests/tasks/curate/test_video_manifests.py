"""What steps that measure clips have in common: which manifests they read, and a row for each clip."""

from pathlib import Path

import pyarrow as pa
import pytest

from models.errors import BadManifest, BadMedia, TooShort
from tasks.caching import Step
from tasks.curate.look import LookConfig
from tasks.curate.scan import SCHEMA as SCAN
from tasks.curate.video_manifests import (
    VideoManifests,
    add_manifests,
    list_frame_stores,
    make_clip_rows,
    measure_video,
    read_clips,
)
from tasks.manifest import ERROR_FIELDS, Lineage, ManifestRef, make_table, read_lineage, read_rows, write_manifest

STEP = Step("tried", 1, pa.schema([("clip_id", pa.string()), ("frames", pa.int64()), *ERROR_FIELDS]))

NEEDS = {"scan": ("frame_store",), "split": ("clip_id", "frames")}


def ref(name: str) -> ManifestRef:
    return ManifestRef(path=Path(name), digest=name, rows=1)


def test_manifests_are_found_by_the_steps_names_as_far_as_these_have_run():
    video = VideoManifests(ref("a"), ref("b"))
    (looked,) = add_manifests([video], look=[ref("c")])
    assert (looked.split, looked.look, looked.motion) == (ref("b"), ref("c"), None)
    assert looked.of(["look", "motion", "scan"]) == [ref("c"), ref("a")]


def test_what_two_steps_made_is_added_to_each_video_in_order():
    videos = add_manifests(
        [VideoManifests(ref(n), ref(n)) for n in "ab"], look=[ref("1"), ref("2")], text=[ref("3"), ref("4")]
    )
    assert [(video.scan, video.look, video.text) for video in videos] == [
        (ref("a"), ref("1"), ref("3")),
        (ref("b"), ref("2"), ref("4")),
    ]


def test_a_step_that_left_a_video_out_is_noticed():
    with pytest.raises(ValueError, match="shorter"):
        add_manifests([VideoManifests(ref(n), ref(n)) for n in "ab"], look=[ref("1")])


def test_a_clip_that_cannot_be_measured_is_a_row_that_says_why_beside_the_others(dataset, flat):
    video = dataset.add("v", [flat(4), flat(6)])

    def frames(clip) -> dict[str, int]:
        if clip["frames"] == 4:
            raise BadMedia("too short.")
        return {"frames": clip["frames"]}

    made = measure_video(
        STEP, dataset.root, LookConfig(), NEEDS, video, lambda _, clips: make_clip_rows(clips, frames, "look")
    )
    first, second = read_rows(made)
    assert (first["frames"], first["error_code"], first["error_message"]) == (None, "bad_media", "too short.")
    assert (second["frames"], second["error_code"], second["attempt"]) == (6, None, 1)
    assert read_lineage(made.path).inputs == (video.scan.digest, video.split.digest)


def test_frames_that_a_table_names_outside_of_its_dataset_are_not_measured(dataset, flat):
    video = dataset.add("v", [flat(4)])
    (row,) = read_rows(video.scan)
    table = make_table([row | {"frame_store": "../elsewhere.parquet"}], SCAN)
    tampered = write_manifest(dataset.root / "tampered.parquet", table, Lineage(step="scan", version=1))
    with pytest.raises(BadManifest, match=r"'\.\./elsewhere\.parquet': is outside of"):
        list_frame_stores(dataset.root, video._replace(scan=tampered))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyError("roll"), "look_failed", "look failed (KeyError: 'roll')."),
        (Exception("no size"), "look_failed", "look failed (Exception: no size)."),
        (TooShort("frames stored: 1."), None, "frames stored: 1."),
    ],
)
def test_whatever_a_library_raises_is_the_clips_row_and_a_clip_that_is_too_short_has_not_failed(error, code, said):
    def measure(clip) -> dict[str, int]:
        if clip["clip_id"] == "a":
            raise error
        return {"frames": 6}

    first, second = make_clip_rows([{"clip_id": "a"}, {"clip_id": "b"}], measure, "look")
    assert (first["error_code"], first["error_message"], "frames" in first) == (code, said, False)
    assert second == {"clip_id": "b", "frames": 6, "attempt": 1}


def test_clips_have_the_columns_of_every_step_that_has_run(dataset, flat):
    video = dataset.add("v", [flat(4)])
    video = video._replace(look=video.split)
    (clip,) = read_clips(video, {"scan": ("frame_store",), "split": ("clip_id",), "look": ("clip_id", "width")})
    assert clip == {"clip_id": "v-0-167", "width": 64}
