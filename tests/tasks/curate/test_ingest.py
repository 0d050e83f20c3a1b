import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadInput
from tasks.curate.ingest import SCHEMA, IngestConfig, expand, ingest_videos, source_videos
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import ManifestRef, read_rows
from tasks.video import write_video

SUFFIXES = IngestConfig().suffixes
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
        }
        == row
    )


def test_rows_are_ordered_by_path(tmp_path: Path, folder: Path):
    sources = [row["source"] for row in read_rows(ingest(tmp_path / "data", folder / "other.mp4", folder))]
    assert sources == sorted(sources)
    assert len(sources) == len(set(sources)) == 6


def test_the_next_step_gets_each_readable_video_once(tmp_path: Path, folder: Path):
    videos = source_videos(ingest(tmp_path / "data", folder))
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


def test_a_file_named_outright_is_taken_whatever_its_ending(tmp_path: Path, folder: Path):
    (row,) = read_rows(ingest(tmp_path / "data", folder / "notes.txt"))
    assert row["status"] == "unreadable"


def test_globs_and_relative_paths_are_followed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    assert [path.name for path in expand(["footage/*o*.mp4"], SUFFIXES)] == ["good.mp4", "other.mp4", "zero.mp4"]
    assert expand(["footage/**/*.MOV"], SUFFIXES) == [folder / "deeper" / "again.MOV"]
    assert expand(["foot*"], SUFFIXES) == expand([str(folder)], SUFFIXES)
    assert len(expand(["footage", "footage/good.mp4", str(folder)], SUFFIXES)) == 6


def test_the_dataset_itself_is_no_source(folder: Path, clip: bytes):
    clips = folder / "dataset" / "clips"
    clips.mkdir(parents=True)
    (clips / "cut.mp4").write_bytes(clip)
    assert clips / "cut.mp4" not in expand([str(folder)], SUFFIXES, exclude=folder / "dataset")
    assert clips / "cut.mp4" in expand([str(folder)], SUFFIXES)


def bad_sources(folder: Path) -> Iterator[tuple[list[str], str]]:
    (folder / "empty").mkdir()
    yield [str(folder / "missing")], "missing: no such file or folder"
    yield [str(folder / "*.webm")], r"\*\.webm: no such file or folder"
    yield [str(folder / "empty")], "empty: no video in this folder"
    yield [str(folder / "*.txt")], "no video among its 1 matches"
    yield [str(folder), str(folder / "missing")], "missing: no such file or folder"
    yield [], "No source is given"


def test_a_source_without_video_is_one_clear_sentence(tmp_path: Path, folder: Path):
    for sources, message in bad_sources(folder):
        with pytest.raises(BadInput, match=message) as caught:
            ingest(tmp_path / "data", *sources)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="The superuser may read every file.")
def test_a_file_that_may_not_be_opened_is_a_row(tmp_path: Path, folder: Path):
    (folder / "good.mp4").chmod(0)
    assert by_name(ingest(tmp_path / "data", folder))["good.mp4"]["status"] == "unreadable"


def test_a_file_that_is_gone_is_a_row(tmp_path: Path, folder: Path):
    (folder / "good.mp4").unlink()
    (folder / "good.mp4").symlink_to(folder / "nowhere.mp4")
    row = by_name(ingest(tmp_path / "data", folder))["good.mp4"]
    assert (row["status"], row["digest"], row["error_code"]) == ("unreadable", None, "bad_media")


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


def test_ingest_prints_nothing(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]):
    ingest(tmp_path / "data", folder)
    assert capfd.readouterr() == ("", "")
