"""What cannot be cut, or would show other frames than it should, is a row for each clip and leaves no file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadMedia
from tasks.curate import clips
from tasks.curate.clip_cutting import inspect_clip
from tasks.curate.clip_encoding import encode_span
from tasks.curate.clips import (
    ClipsConfig,
    cut_clips,
)
from tasks.manifest import digest_file, read_rows
from tests.numbered_films import (
    FRAMES,
    Make,
    cut,
    shots,
)


def test_a_shot_without_two_keyframes_is_a_row_with_the_reason(source: Path, tmp_path: Path):
    rows = cut(tmp_path, shots(source, (0, 50, 58, 71, 144)), "copy")
    assert [row["error_code"] for row in rows] == [None, "no_keyframes", "no_keyframes", None]
    assert "no keyframe between its cuts" in rows[1]["error_message"]
    assert "only one keyframe between its cuts" in rows[2]["error_message"]
    assert [path.name for path in (tmp_path / "clips").iterdir() if "58" in path.name] == []


def test_a_codec_that_mp4_does_not_hold_says_what_to_do_and_the_same_each_time(make: Make, tmp_path: Path):
    film = shots(make("old.avi", "-c:v", "msmpeg4v2", "-g", "12"))
    messages = {row["error_message"].partition(": ")[2] for root in "ab" for row in cut(tmp_path / root, film, "copy")}
    (message,) = messages
    assert "ffmpeg failed: Could not write header" in message
    assert message.endswith("If mp4 cannot hold its codec, use --clips.mode exact.")
    assert "0x" not in message


def test_a_video_whose_packets_have_no_times_is_a_row_for_each_clip(make: Make, source: Path, tmp_path: Path):
    raw = make("raw.h264", "-c", "copy", source=source)
    video = shots(source).video.model_copy(update={"path": raw, "digest": digest_file(raw)})
    rows = cut(tmp_path, replace(shots(source), video=video), "copy")
    assert ["have no times" in row["error_message"] for row in rows] == [True] * 3


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_source_that_changes_is_a_row_for_each_clip_and_leaves_no_file(
    source: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
):
    film = tmp_path / "film.mp4"
    film.write_bytes(source.read_bytes())
    given = replace(shots(source), video=shots(source).video.model_copy(update={"path": film}))
    run = clips.run_in_child

    def change(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if function is encode_span:
            film.write_bytes(source.read_bytes() + b"0")
        return run(function, *arguments, **named)

    if when == "within":
        monkeypatch.setattr(clips, "run_in_child", change)
    else:
        film.write_bytes(source.read_bytes() + b"0")
    rows = cut(tmp_path / "out", given, "exact")
    assert [row["error_code"] for row in rows] == ["source_changed"] * 3
    assert not list(tmp_path.rglob("clips/*.mp4"))


@pytest.mark.parametrize("mode", ["copy", "exact"])
def test_a_clip_whose_id_leads_out_of_its_dataset_is_a_row_and_writes_nothing(source: Path, tmp_path: Path, mode: str):
    given = shots(source, (0, 48))
    given = replace(given, spans=(replace(given.spans[0], clip_id="../../elsewhere/x"),))
    (row,) = cut(tmp_path / "out", given, mode)
    assert (row["error_code"], row["cut_path"]) == ("bad_manifest", None)
    assert "is outside of" in row["error_message"]
    assert not (tmp_path / "elsewhere").exists()


def test_an_exact_clip_is_read_by_the_demuxer_that_the_films_probe_found(source: Path, tmp_path: Path):
    given = shots(source, (0, 48))
    other = replace(given, video=given.video.model_copy(update={"container": "matroska,webm"}))
    (row,) = cut(tmp_path / "out", other, "exact")
    assert "cannot be read as a video" in row["error_message"]


def test_a_source_that_is_gone_is_a_row_for_each_clip(source: Path, tmp_path: Path):
    video = shots(source).video.model_copy(update={"path": tmp_path / "gone.mp4"})
    rows = cut(tmp_path, replace(shots(source), video=video), "exact")
    assert [row["error_code"] for row in rows] == ["bad_media"] * 3


def test_a_slow_cut_is_given_up_and_leaves_nothing(source: Path, tmp_path: Path):
    config = ClipsConfig(mode="exact", limit_floor_s=2.0, limit_factor=1e-6)
    hurried = config.model_copy(update={"limit_floor_s": 1e-3})
    (ref,) = cut_clips.fn(tmp_path, hurried, [shots(source)])
    assert {row["error_code"] for row in read_rows(ref)} <= {"bad_media", "decoder_timeout"}
    assert list(tmp_path.rglob("*.mp4")) == []


def test_a_file_that_does_not_begin_with_a_keyframe_would_be_refused(make: Make, source: Path):
    path = make("headless.mp4", "-c", "copy", "-bsf:v", "noise=drop='lt(n,3)'", "-copyinkf", source=source)
    with pytest.raises(BadMedia, match="does not begin with a keyframe"):
        inspect_clip(path, "clip")


def test_a_clip_with_more_or_fewer_frames_than_its_span_is_refused_and_leaves_no_file(source: Path, tmp_path: Path):
    film = shots(source, (0, 40))
    for frames in (39, 41):
        wrong = replace(film, spans=(replace(film.spans[0], frames=frames),))
        (row,) = cut(tmp_path, wrong, "exact")
        assert row["error_message"] == (
            f"source.mp4, 0.00 to 1.67 s: expected {frames} frames in 1.667 s, but the file has 40 from 0.000 to 1.625 "
            "s. Convert the source to mp4."
        )
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_clip_that_begins_late_or_goes_on_past_its_span_is_refused(make: Make, plain: Path):
    late = make("begins late.mp4", "-c", "copy", "-output_ts_offset", "0.5")
    clips._check(plain, "clip", FRAMES, 6.0, 60.0)
    for path, seconds in ((plain, 5.9), (late, 6.5)):
        with pytest.raises(BadMedia, match=r"clip: expected 144 frames in .*, but the file has 144 from "):
            clips._check(path, "clip", FRAMES, seconds, 60.0)
