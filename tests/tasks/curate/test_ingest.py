import hashlib
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tasks.curate import ingest as step
from tasks.curate.ingest import SCHEMA, STEP, IngestConfig, ingest_videos, list_unreadable, list_videos
from tasks.curate.source_list import Entry, expand_sources
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import ManifestRef, read_rows
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video
from tests.declared import declared

HARD_NAMES = ("two words.mp4", 'it\'s "quoted".mp4', "film 🎬 é.mp4", "[1]*.mp4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("source") / "plain.mp4"
    write_video(path, render_shot(Scene(1), Camera(), 12, size=(96, 64)), 24)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, clip: bytes) -> Path:
    """Good and bad files side by side, and some that are none of ours."""
    folder = tmp_path / "footage"
    (folder / "deeper").mkdir(parents=True)
    (folder / "good.mp4").write_bytes(clip)
    (folder / "deeper" / "again.MOV").write_bytes(clip)
    (folder / "other.mp4").write_bytes(clip + b"\0\0\0\x08free")
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a film\n")
    (folder / "cut.mp4").write_bytes(clip[:200])
    (folder / "notes.txt").write_text("no video by its name")
    (folder / ".hidden.mp4").write_bytes(clip)
    return folder


def ingest(root: Path, *sources: Path | str) -> ManifestRef:
    return ingest_videos.fn(root, IngestConfig(), [str(source) for source in sources])


def by_name(ref: ManifestRef) -> dict[str, dict[str, Any]]:
    return {Path(row["source"]).name: row for row in read_rows(ref)}


def test_every_file_is_a_row_with_its_status(tmp_path: Path, folder: Path):
    rows = by_name(ingest(tmp_path / "data", folder))
    assert {name: row["status"] for name, row in rows.items()} == {
        "again.MOV": "ok",
        "cut.mp4": "unreadable",
        "good.mp4": "duplicate",
        "other.mp4": "ok",
        "text.mp4": "unreadable",
        "zero.mp4": "unreadable",
    }


def test_what_cannot_be_read_says_why_and_the_rest_says_nothing(tmp_path: Path, folder: Path):
    rows = by_name(ingest(tmp_path / "data", folder))
    reasons = {name: row["error_message"] for name, row in rows.items() if row["error_code"]}
    assert set(reasons) == {"cut.mp4", "text.mp4", "zero.mp4"}
    assert "is a text file" in reasons["text.mp4"]
    assert "is empty" in reasons["zero.mp4"]
    assert all(name in reason and reason.count("\n") == 0 for name, reason in reasons.items())
    assert {row["attempt"] for row in rows.values()} == {1}


def test_a_row_has_the_files_facts(tmp_path: Path, folder: Path, clip: bytes):
    ref = ingest(tmp_path / "data", folder)
    row = by_name(ref)["again.MOV"]
    digest = hashlib.sha256(clip).hexdigest()
    assert set(row) == set(SCHEMA.names)
    assert (
        row
        | {
            "video_id": digest[:16],
            "digest": digest,
            "bytes": len(clip),
            "source": str(folder / "deeper" / "again.MOV"),
            "codec": "h264",
            "width": 96,
            "height": 64,
            "rotation": 0,
            "fps": 24.0,
            "fps_nominal": 24.0,
            "variable_rate": False,
            "time_base": "1/12288",
            "duration_s": 0.5,
            "has_audio": False,
            "path": str(folder / "deeper" / "again.MOV"),
            "bit_depth": 8,
            "coded_width": 96,
            "coded_height": 64,
            "sample_aspect": "1",
            "hdr": False,
            "field_order": "progressive",
            "interlaced": False,
            "streams": 1,
            "anomalies": ["one_keyframe"],
            "color_primaries": "bt709",
        }
        == row
    )


def test_rows_are_ordered_by_path(tmp_path: Path, folder: Path):
    sources = [row["source"] for row in read_rows(ingest(tmp_path / "data", folder / "other.mp4", folder))]
    assert sources == sorted(sources)
    assert len(sources) == len(set(sources)) == 6


def test_the_next_step_gets_each_readable_video_once(tmp_path: Path, folder: Path):
    videos = list_videos(tmp_path / "data", ingest(tmp_path / "data", folder))
    assert [video.path.name for video in videos] == ["again.MOV", "other.mp4"]
    assert (videos[0].width, videos[0].height, videos[0].duration_s) == (96, 64, 0.5)
    assert videos[0].video_id == videos[0].digest[:16]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_hard_names_are_read(tmp_path: Path, clip: bytes, name: str):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(clip)
    for source in (path, path.parent):
        (row,) = read_rows(ingest(tmp_path / "data", source))
        assert (row["status"], row["source"]) == ("ok", str(path))


def test_a_file_named_outright_is_taken_whatever_its_ending(tmp_path: Path, folder: Path, clip: bytes):
    (folder / "film.dat").write_bytes(clip)
    (row,) = read_rows(ingest(tmp_path / "data", folder / "film.dat"))
    assert row["status"] == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="The superuser may read every file.")
def test_a_file_that_may_not_be_opened_is_a_row(tmp_path: Path, folder: Path):
    (folder / "good.mp4").chmod(0)
    assert by_name(ingest(tmp_path / "data", folder))["good.mp4"]["status"] == "unreadable"


def test_a_file_that_is_gone_is_a_row(tmp_path: Path, folder: Path):
    (folder / "good.mp4").unlink()
    (folder / "good.mp4").symlink_to(folder / "nowhere.mp4")
    row = by_name(ingest(tmp_path / "data", folder))["good.mp4"]
    assert (row["status"], row["digest"], row["error_code"]) == ("unreadable", None, "bad_media")


def test_a_url_is_fetched_and_read_and_one_that_fails_is_a_row(tmp_path: Path, clip: bytes):
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/films/a.mp4", clip)
    ref = ingest(tmp_path / "data", "memory://films/a.mp4", "memory://films/gone.mp4", "http://127.0.0.1:9/b.mp4")
    bucket.rm("/films", recursive=True)
    rows = by_name(ref)
    assert {name: (row["status"], row["error_code"]) for name, row in rows.items()} == {
        "a.mp4": ("ok", None),
        "gone.mp4": ("unreadable", "fetch_failed"),
        "b.mp4": ("unreadable", "fetch_failed"),
    }
    digest = hashlib.sha256(clip).hexdigest()
    assert (rows["a.mp4"]["source"], rows["a.mp4"]["path"]) == ("memory://films/a.mp4", f"sources/{digest[:32]}.mp4")
    (video,) = list_videos(tmp_path / "data", ref)
    assert video.path.read_bytes() == clip


def test_a_list_with_a_missing_file_gives_a_row_for_it(tmp_path: Path, folder: Path):
    (folder / "list.txt").write_text("good.mp4\ngone.mp4\n")
    rows = by_name(ingest(tmp_path / "data", folder / "list.txt"))
    assert {name: row["status"] for name, row in rows.items()} == {"good.mp4": "ok", "gone.mp4": "unreadable"}
    assert "no such file" in rows["gone.mp4"]["error_message"]


def test_a_pipe_named_like_a_film_is_a_row_and_not_waited_for(tmp_path: Path, folder: Path):
    os.mkfifo(folder / "pipe.mp4")
    row = by_name(ingest(tmp_path / "data", folder))["pipe.mp4"]
    assert (row["status"], row["path"]) == ("unreadable", None)
    assert "not a regular file" in row["error_message"]


def test_a_file_that_changes_while_it_is_probed_is_a_row_that_says_so(
    tmp_path: Path, folder: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
):
    run = step.run_in_child

    def change(function: Any, path: Path, *arguments: Any, **named: Any) -> Any:
        found = run(function, path, *arguments, **named)
        path.write_bytes(clip + b"\0\0\0\x09free\0")
        return found

    monkeypatch.setattr(step, "run_in_child", change)
    row = by_name(ingest(tmp_path / "data", folder / "good.mp4"))["good.mp4"]
    assert (row["status"], row["error_code"], row["codec"]) == ("unreadable", "source_changed", None)


def test_of_several_video_streams_the_one_that_is_used_is_said(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
):
    two = ("-map", "0", "-map", "0", "-c:v", "libx264", "-filter:v:0", "scale=32:16", "-disposition:0", "0")
    path = folder / "two.mp4"
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(folder / "good.mp4"), *two, "-disposition:1", "default"]
    run_ffmpeg([*command, str(path)], None, "two")
    (row,) = read_rows(ingest(tmp_path / "data", path))
    assert (row["stream"], row["streams"], row["status"]) == (1, 2, "ok")
    said = f"two.mp4: has several video streams. Stream 1 ({row['width']} x {row['height']}) is used; --ingest.stream"
    assert said in caplog.text
    assert row["width"] > 32


def test_a_probe_that_hangs_is_a_row(tmp_path: Path, folder: Path):
    config = IngestConfig(probe_limit_s=1e-6)
    (row,) = read_rows(ingest_videos.fn(tmp_path / "data", config, [str(folder / "good.mp4")]))
    assert (row["status"], row["error_code"]) == ("unreadable", "decoder_timeout")


def test_a_second_run_finds_everything(tmp_path: Path, folder: Path):
    first, second = ingest(tmp_path / "data", folder), ingest(tmp_path / "data", folder)
    assert (first.cached, second.cached) == (False, True)
    assert second.digest == first.digest


def test_the_same_path_with_new_content_runs_again(tmp_path: Path, folder: Path, clip: bytes):
    first = ingest(tmp_path / "data", folder)
    (folder / "zero.mp4").write_bytes(clip + b"\0\0\0\x09free\0")
    second = ingest(tmp_path / "data", folder)
    assert not second.cached
    assert (by_name(first)["zero.mp4"]["status"], by_name(second)["zero.mp4"]["status"]) == ("unreadable", "ok")


def test_a_second_root_gets_an_equal_manifest_of_its_own(tmp_path: Path, folder: Path):
    first, second = ingest(tmp_path / "one", folder), ingest(tmp_path / "two", folder)
    assert not second.cached
    assert second.path.is_relative_to(tmp_path / "two")
    assert second.path.read_bytes() == first.path.read_bytes()


def test_what_cannot_be_read_is_known_before_a_run(tmp_path: Path, folder: Path):
    entries = [
        *expand_sources([str(folder)], None),
        Entry("https://nowhere/a.mp4"),
        Entry("/x.mp4", problem="is gone."),
    ]
    said = list_unreadable(entries, IngestConfig())
    rows = [row for row in read_rows(ingest(tmp_path / "data", folder)) if row["status"] == "unreadable"]
    assert said == [*(row["error_message"] for row in rows), "is gone."]
    assert len(rows) == 3


def test_ingest_prints_nothing(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]):
    ingest(tmp_path / "data", folder)
    assert capfd.readouterr() == ("", "")


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(IngestConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "suffixes": "None",
        "stream": "None, ge=0",
        "probe_limit_s": "30.0, gt=0",
        "fetch": "FetchConfig()",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert ingest_videos.name == "ingest"
    assert STEP.files == ("path",)
