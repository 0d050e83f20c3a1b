"""The table of a run has a row for every job and take, whatever became of it."""

from typing import Any

import pytest

from tasks.further_columns import pack
from tasks.generate import choose, decode, encode, jobs, sample
from tasks.generate.outputs import (
    CHOICE_COLUMNS,
    CLIP_COLUMNS,
    JOB_COLUMNS,
    SAMPLE_COLUMNS,
    SCHEMA,
    VIDEO_COLUMNS,
    add_further_takes,
    collect_outputs,
    make_output_rows,
    make_output_table,
    measure_strength,
)
from tasks.manifest import Lineage, make_table, read_manifest, read_manifest_ref, write_manifest

ERRORS = {"error_code": None, "error_message": None, "attempt": 1}


def job(number: int, key: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(jobs.SCHEMA.names) | ERRORS
    return row | {"job": number, "take": 0, "name": f"p{number}", "item_key": key, "status": "ready"} | changes


def sampled(key: str, **changes: Any) -> dict[str, Any]:
    return (
        {"item_key": key, "latents": f"latents/{key}", "latents_sha256": "d" + key, "batch": [key]} | ERRORS | changes
    )


def decoded(key: str, **changes: Any) -> dict[str, Any]:
    return dict.fromkeys(decode.SCHEMA.names) | ERRORS | {"item_key": key} | changes


def encoded(key: str, **changes: Any) -> dict[str, Any]:
    return dict.fromkeys(encode.SCHEMA.names) | ERRORS | {"item_key": key, "video": f"videos/{key}.mp4"} | changes


FAULT = {"error_code": "bad", "error_message": "why", "attempt": 3}

JOBS = [
    job(0, "a", motion="pan_left"),
    job(1, None, status="failed", error_code="bad_media", error_message="broken"),
    job(2, "a", status="duplicate", error_code="duplicate", error_message="again"),
    job(3, "b"),
    job(4, "c", take=1),
    job(4, "d", take=0),
    job(5, "e"),
]
SAMPLES = [
    sampled("a"),
    sampled("b", latents=None, latents_sha256=None, **FAULT),
    sampled("c"),
    sampled("d"),
    sampled("e"),
]
CLIPS = [decoded("d", **FAULT), decoded("a", motion_measured="static"), decoded("c"), decoded("e", good_until=3)]
VIDEOS = [encoded("c"), encoded("e", video=None, **FAULT), encoded("a")]


def test_every_job_has_a_row_in_order_with_its_state_and_the_step_that_failed():
    rows = make_output_rows(JOBS, SAMPLES, CLIPS, VIDEOS)
    assert [(r["job"], r["take"], r["status"], r["stage"], r["error_code"]) for r in rows] == [
        (0, 0, "ok", None, None),
        (1, 0, "failed", "jobs", "bad_media"),
        (2, 0, "duplicate", "jobs", "duplicate"),
        (3, 0, "failed", "sample", "bad"),
        (4, 0, "failed", "decode", "bad"),
        (4, 1, "ok", None, None),
        (5, 0, "failed", "encode", "bad"),
    ]
    assert [row["attempt"] for row in rows] == [1, 1, 1, 3, 3, 1, 3]


def test_asked_and_measured_stand_side_by_side_and_files_are_named():
    first, *_, last, _ = make_output_rows(JOBS, SAMPLES, CLIPS, VIDEOS)
    assert (first["motion_asked"], first["motion_measured"]) == ("pan_left", "static")
    assert (first["video"], first["latents"], first["latents_sha256"]) == ("videos/a.mp4", "latents/a", "da")
    assert last["video"] == "videos/c.mp4"


@pytest.mark.parametrize(
    ("motion", "speed", "measured"),
    [
        ("pan_left", {"camera_pan": -0.4}, 0.4),
        ("pan_left", {"camera_pan": 0.3}, -0.3),
        ("tilt_up", {"camera_tilt": 0.2}, 0.2),
        ("zoom_out", {"camera_zoom": -0.1}, 0.1),
        ("roll", {"camera_roll": -20.0}, 20.0),
        ("static", {"motion_score": 0.01}, 0.01),
        (None, {"motion_score": 0.5}, 0.5),
        ("pan_left", {}, None),
    ],
)
def test_strength_is_measured_in_the_motions_own_unit_and_is_negative_the_other_way(motion, speed, measured):
    assert measure_strength(motion, speed) == measured


def test_the_choice_among_takes_stands_in_the_row_and_only_where_a_clip_is():
    choices = [
        {"item_key": key, "chosen": True, "score": 0.5, "passed": False, "reasons": ["blurred"]} for key in ("a", "b")
    ]
    rows = make_output_rows(JOBS, SAMPLES, CLIPS, VIDEOS, choices)
    assert [row.get("chosen") for row in rows] == [True, *[None] * 6]
    assert (rows[0]["score"], rows[0]["reasons"]) == (0.5, ["blurred"])


def test_of_further_takes_only_those_that_were_tried_have_rows():
    further = [*JOBS, job(3, "g", take=1), job(4, "f", take=2), job(2, "a", take=1, status="duplicate")]
    rows = add_further_takes(JOBS, further, [*SAMPLES, sampled("g")])
    assert [row["item_key"] for row in rows] == ["a", None, "a", "b", "c", "d", "e", "g"]


def test_a_clip_that_was_sampled_but_not_decoded_keeps_its_latents():
    row = make_output_rows(JOBS, SAMPLES, CLIPS, VIDEOS)[4]
    assert (row["latents"], row["video"]) == ("latents/d", None)


def test_a_clip_that_was_measured_but_not_encoded_keeps_its_meters():
    row = make_output_rows(JOBS, SAMPLES, CLIPS, VIDEOS)[-1]
    assert (row["latents"], row["good_until"], row["video"]) == ("latents/e", 3, None)


def test_the_columns_that_steps_share_have_the_same_names_and_types():
    for columns, schema in (
        (JOB_COLUMNS, jobs.SCHEMA),
        (SAMPLE_COLUMNS, sample.SCHEMA),
        (CLIP_COLUMNS, decode.SCHEMA),
        (VIDEO_COLUMNS, encode.SCHEMA),
        (CHOICE_COLUMNS, choose.SCHEMA),
    ):
        assert [schema.field(column.name) for column in columns] == list(columns)


def test_the_table_is_the_same_bytes_whatever_the_order_of_the_manifests_rows(tmp_path):
    def manifest(name: str, rows: list[dict[str, Any]], schema) -> Any:
        return write_manifest(tmp_path / name, make_table(rows, schema), Lineage(step=name, version=1))

    listed = manifest("jobs", JOBS, jobs.SCHEMA)
    one = [manifest(f"s{i}", [row], sample.SCHEMA) for i, row in enumerate(SAMPLES)]
    clips = [manifest(f"c{i}", [row], decode.SCHEMA) for i, row in enumerate(CLIPS)]
    videos = [manifest(f"v{i}", [row], encode.SCHEMA) for i, row in enumerate(VIDEOS)]
    first = collect_outputs.fn(tmp_path, listed, one, clips, videos).path.read_bytes()
    again = collect_outputs.fn(tmp_path, listed, one, clips, videos)
    assert again.path.read_bytes() == first
    assert read_manifest(again).schema == SCHEMA
    assert read_manifest_ref(tmp_path / "outputs.parquet").rows == 7


def test_a_job_of_which_no_step_says_anything_failed_to_be_sampled():
    (row,) = make_output_rows([job(0, "z")], [], [], [])
    assert (row["status"], row["stage"], row["error_code"]) == ("failed", "sample", None)


def test_the_step_goes_by_its_name():
    assert collect_outputs.name == "collect outputs"


def test_what_further_columns_of_the_jobs_say_has_columns_of_its_own():
    rows = make_output_rows([job(0, "a", further=pack({"notes": "hello", "status": "draft"})), job(1, "b")], [], [], [])
    first, second = make_output_table(rows).to_pylist()
    assert (first["notes"], first["given_status"], second["notes"]) == ("hello", "draft", None)
    assert first["status"] == "failed"
    assert make_output_table(make_output_rows([job(0, "a")], [], [], [])).schema == SCHEMA
