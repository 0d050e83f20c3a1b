"""Cut clips show exactly the frames they should: each frame of the source carries its number as two grey levels."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tasks.curate.clip_cutting import Packet, choose_packets
from tasks.curate.clips import (
    SCHEMA,
    STEP,
    ClipsConfig,
    CutSpan,
    Cutting,
    cut_clips,
    gather_cuts,
    list_spans,
)
from tasks.manifest import digest_file, read_rows
from tasks.media.canonical_picture import make_picture
from tasks.media.video import read_frames
from tests.declared import declared
from tests.numbered_films import KEYFRAMES_EVERY, Make, all_pts, cut, encoded, numbers, shots


def test_a_copied_clip_goes_from_keyframe_to_keyframe_and_never_across_a_cut(source: Path, tmp_path: Path):
    rows = cut(tmp_path, shots(source), "copy")
    assert [row["error_message"] for row in rows] == [None] * 3
    assert [numbers(tmp_path / row["cut_path"]) for row in rows] == [
        [*range(36)],
        [*range(48, 96)],
        [*range(108, 144)],
    ]
    assert [(row["cut_start_s"], row["cut_end_s"], row["cut_frames"]) for row in rows] == [
        (0.0, 1.5, 36),
        (2.0, 4.0, 48),
        (4.5, 6.0, 36),
    ]


FILES = {
    "matroska.mkv": (),
    "broadcast.ts": (),
    "far.mp4": ("-output_ts_offset", "90000"),
    "late.mp4": ("-output_ts_offset", "3.5"),
    "fragmented.mp4": ("-movflags", "+frag_keyframe+empty_moov"),
}


@pytest.mark.slow
@pytest.mark.parametrize("gop", ["open-gop=0", "open-gop=1"])
@pytest.mark.parametrize("name", FILES)
def test_frames_stored_out_of_order_and_odd_clocks_leave_no_foreign_frame(
    make: Make, tmp_path: Path, name: str, gop: str
):
    path = encoded(make, f"{gop[-1]}{name}", *FILES[name], gop=gop)
    rows = cut(tmp_path, shots(path), "copy")
    assert [row["error_message"] for row in rows] == [None] * 3
    for row, (a, b) in zip(rows, ((0, 40), (40, 100), (100, 144)), strict=True):
        shown = numbers(tmp_path / row["cut_path"])
        assert a <= shown[0] <= shown[-1] < b
        assert shown == sorted(set(shown))
        assert len(shown) == row["cut_frames"] >= 33
    assert numbers(tmp_path / rows[1]["cut_path"])[0] == 48


def test_frames_that_an_edit_list_hides_stay_hidden(make: Make, source: Path, tmp_path: Path):
    path = make("edited.mp4", "-c", "copy", source=source, before=("-ss", "0.7"))
    visible = numbers(path)
    assert visible[0] > KEYFRAMES_EVERY, "the file stores frames from the keyframe before, and hides them"
    rows = cut(tmp_path, shots(path, (0, 50, len(visible))), "copy")
    for row, shot in zip(rows, (visible[:50], visible[50:]), strict=True):
        assert row["error_message"] is None
        assert set(numbers(tmp_path / row["cut_path"])) <= set(shot)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["source.mp4", "matroska.mkv", "broadcast.ts", "far.mp4"])
def test_an_exact_clip_has_every_frame_and_no_other(make: Make, tmp_path: Path, name: str):
    path = encoded(make, f"exact-{name}", *FILES.get(name, ()))
    rows = cut(tmp_path, shots(path), "exact")
    assert [row["error_message"] for row in rows] == [None] * 3
    assert [numbers(tmp_path / row["cut_path"]) for row in rows] == [
        [*range(40)],
        [*range(40, 100)],
        [*range(100, 144)],
    ]


@pytest.mark.parametrize("mode", ["copy", "exact"])
def test_of_a_film_whose_clock_is_set_back_the_exact_frames_are_cut_or_none(make: Make, tmp_path: Path, mode: str):
    halves = [
        encoded(make, f"{a}.ts", "-vf", f"trim=start_frame={a}:end_frame={a + 72},setpts=PTS-STARTPTS") for a in (0, 72)
    ]
    path = halves[0].with_name("joined.ts")
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    start, ticks = all_pts(path)[0][0], 3750
    spans = [
        CutSpan(f"clip-{a}-{b}", "1/90000", start + a * ticks, start + b * ticks, b - a)
        for a, b in pairwise((0, 40, 72, 100, 144))
    ]
    rows = cut(tmp_path, replace(shots(path), spans=tuple(spans)), mode)
    if mode == "copy":
        assert {row["error_code"] for row in rows} == {"no_keyframes"}
        assert "clock is set back" in rows[0]["error_message"]
        return
    shown = [numbers(tmp_path / row["cut_path"]) for row in rows]
    assert shown == [list(range(a, b)) for a, b in pairwise((0, 40, 72, 100, 144))]


def test_exact_clips_of_a_film_whose_size_changes_have_the_frames_of_each_size(make: Make, tmp_path: Path):
    first = encoded(make, "half 0.ts", "-vf", "trim=end_frame=72")
    larger = "trim=start_frame=72,setpts=PTS-STARTPTS,scale=192:128"
    halves = [first, encoded(make, "half 72.ts", "-vf", larger, "-output_ts_offset", "3.2")]
    path = halves[0].with_name("two sizes.ts")
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    rows = cut(tmp_path, shots(path, (0, 40, 72, 100, 144)), "exact")
    assert [row["error_message"] for row in rows] == [None] * 4
    assert [row["cut_frames"] for row in rows] == [40, 32, 28, 44]
    sizes = [next(iter(read_frames(tmp_path / row["cut_path"])))[1].width for row in rows]
    assert sizes == [96, 96, 192, 192]


@pytest.mark.parametrize("mode", ["copy", "exact"])
def test_a_variable_rate_keeps_its_times(make: Make, tmp_path: Path, mode: str):
    slow = "setpts='if(lt(N,70),N,70+(N-70)*3)/24/TB'"
    path = encoded(make, "variable.mp4", "-vf", slow, "-fps_mode", "vfr")
    row = cut(tmp_path, shots(path), mode)[1]
    assert row["error_message"] is None
    _, time_base = all_pts(path)
    start, end = row["cut_start_pts"] * time_base, row["cut_end_pts"] * time_base
    truth = [float(time - start) for time, _ in read_frames(path) if start <= time < end]
    assert [float(time) for time, _ in read_frames(tmp_path / row["cut_path"])] == pytest.approx(truth)
    assert max(np.diff(truth)) > 2 * min(np.diff(truth))


@pytest.mark.slow
def test_a_turned_picture_stays_turned_in_a_copy_and_is_upright_in_a_new_encoding(
    make: Make, source: Path, tmp_path: Path
):
    path = make("turned.mp4", "-c", "copy", source=source, before=("-display_rotation", "90"))
    (_, first) = next(read_frames(path))
    for mode, stored in (("copy", (96, 64)), ("exact", (64, 96))):
        row = cut(tmp_path, shots(path), mode)[0]
        _, frame = next(read_frames(tmp_path / row["cut_path"]))
        assert (frame.width, frame.height) == stored
        assert make_picture(frame).shape == make_picture(first).shape


def test_a_clip_that_is_there_already_is_not_cut_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = cut(tmp_path, shots(source), "copy")
    monkeypatch.setattr("tasks.curate.clips.run_ffmpeg", None)
    fewer = replace(shots(source), spans=shots(source).spans[1:])
    assert cut(tmp_path, fewer, "copy") == first[1:]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "exact"])
def test_the_same_clip_has_the_same_bytes(source: Path, tmp_path: Path, mode: str):
    one, two = (cut(tmp_path / folder, shots(source), mode) for folder in "ab")
    assert [row["cut_sha256"] for row in one] == [row["cut_sha256"] for row in two]
    assert one[0]["cut_sha256"] == digest_file(tmp_path / "a" / one[0]["cut_path"])


def test_only_kept_clips_are_cut_unless_all_are_asked_for(source: Path, tmp_path: Path):
    video = shots(source).video
    clips = [
        {"clip_id": f"c{n}", "video_id": "v", "time_base": "1/24", "start_pts": n, "end_pts": n + 1, "frames": 1}
        | {"keep": n == 1}
        for n in (2, 1, 0)
    ]
    other = video.model_copy(update={"video_id": "w"})
    assert [[span.clip_id for span in found.spans] for found in list_spans([video, other], clips, "kept")] == [["c1"]]
    assert [[span.clip_id for span in found.spans] for found in list_spans([video], clips, "all")] == [
        ["c0", "c1", "c2"]
    ]


def test_the_table_has_the_clips_of_all_sources(source: Path, tmp_path: Path):
    config = ClipsConfig(mode="copy")
    cuts = cut_clips.fn(tmp_path, config, [shots(source, (0, 40)), shots(source, (40, 100))])
    table = gather_cuts.fn(tmp_path, config, cuts)
    assert [row["clip_id"] for row in read_rows(tmp_path / "cuts.parquet")] == ["clip-0-40", "clip-40-100"]
    assert table.rows == 2
    assert gather_cuts.fn(tmp_path / "none", config, []).rows == 0
    assert set(read_rows(table)[0]) == set(SCHEMA.names)


def test_the_frames_before_an_ending_keyframe_that_need_it_are_left_out():
    packets = [Packet(0, True), Packet(2, False), Packet(1, False), Packet(5, True), Packet(3, False), Packet(4, False)]
    packets += [Packet(7, False), Packet(6, False), Packet(9, True), Packet(8, False)]
    cut = choose_packets(packets, 0, 9, "x")
    assert (cut.start_pts, cut.end_pts, cut.shown, cut.skipped) == (0, 8, (0, 1, 2, 3, 4, 5, 6, 7), ())
    cut = choose_packets(packets, 1, 10, "x")
    assert (cut.start_pts, cut.end_pts, cut.shown, cut.skipped) == (5, 10, (5, 6, 7, 8, 9), ())
    cut = choose_packets(packets, 0, 6, "x")
    assert (cut.end_pts, cut.shown) == (3, (0, 1, 2))


def test_a_cut_clip_that_was_deleted_or_cut_short_is_cut_again(source: Path, tmp_path: Path):
    def cut_again() -> tuple[bool, bytes]:
        (ref,) = cut_clips.fn(tmp_path, ClipsConfig(mode="exact"), [shots(source, (0, 12))])
        return not ref.cached, (tmp_path / read_rows(ref)[0]["cut_path"]).read_bytes()

    _, whole = cut_again()
    (path,) = (tmp_path / "clips").iterdir()
    assert cut_again() == (False, whole)
    path.unlink()
    assert cut_again() == (True, whole)
    for left in (len(whole) - 1, len(whole) // 2, 0):
        path.write_bytes(whole[:left])
        assert cut_again() == (True, whole)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(Cutting) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "mode": "'off'",
        "crf": "16, ge=0, le=51",
    }
    assert declared(ClipsConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "which": "'kept'",
        "limit_factor": "60.0, gt=0",
        "limit_floor_s": "60.0, gt=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert cut_clips.name == "clips"
    assert gather_cuts.name == "cuts"
    assert STEP.files == ("cut_path",)
