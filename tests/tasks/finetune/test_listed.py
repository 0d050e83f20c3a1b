"""A table of clips as a dataset: whole files, what is known of them, and rows for those that cannot be read."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from models.errors import BadInput
from tasks.finetune.listed import ListedConfig, list_clips
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tasks.media.video import find_ffmpeg, run_ffmpeg, write_video
from tests.declared import declared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two films of half a second and a second."""
    for name, frames in (("a.mp4", 6), ("b.mp4", 12)):
        write_video(tmp_path / "in" / name, render_shot(Scene(frames), Camera(), frames, 12.0, (48, 32)), 12.0)
    return tmp_path / "in"


def listed(table: Path) -> list[dict[str, Any]]:
    return read_rows(list_clips.fn(table.parent.parent / "run", ListedConfig(), table))


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder / "metadata.csv"


def test_each_row_is_a_clip_of_its_whole_file_with_what_is_known_of_it(folder: Path):
    known = {"caption": 'a "film"', "camera_motion": "pan_left", "motion_score": 0.25}
    first, second = listed(written(folder, {"file_name": "a.mp4"} | known, {"file_name": "b.mp4"}))
    assert {name: first[name] for name in known} == known
    assert (first["start_s"], first["end_s"], first["keep"]) == (0.0, 0.5, True)
    assert (second["end_s"], second["caption"], second["motion_score"]) == (1.0, None, None)
    assert first["path"] == str(folder / "a.mp4")
    assert first["clip_id"] != second["clip_id"]


@pytest.mark.parametrize(("files", "captions"), [("file_name", "caption"), ("video", "text"), ("path", "prompt")])
def test_the_columns_of_other_tools_are_understood(folder: Path, files: str, captions: str):
    (row,) = listed(written(folder, {files: "a.mp4", captions: "hello"}))
    assert (row["source"], row["caption"], row["error_code"]) == ("a.mp4", "hello", None)


def test_what_cannot_be_used_is_a_row_with_its_number_and_the_rest_is_kept(folder: Path):
    (folder / "text.mp4").write_text("no film\n")
    names = ("gone.mp4", "../secret.mp4", "text.mp4", "b.mp4")
    rows = listed(written(folder, {"file_name": "a.mp4", "motion_score": "fast"}, *({"file_name": n} for n in names)))
    assert [row["keep"] for row in rows] == [False, False, False, False, True]
    said = [row["error_message"] or "" for row in rows]
    for message, words in zip(
        said, ("is not a number", "no such file", "is outside", "is a text file", ""), strict=True
    ):
        assert words in message
    assert "metadata.csv row 2: " in said[1]


def test_what_a_table_says_of_film_split_and_captions_is_kept(folder: Path):
    told = {"film": "f", "side": "validation", "caption_image": "a dog", "caption_video": "it runs"}
    (row,) = listed(written(folder, {"file_name": "a.mp4"} | told))
    assert {name: row[name] for name in told} == told
    assert (row["width"], row["height"]) == (48, 32)


def test_a_picture_is_a_clip_without_length(folder: Path):
    Image.new("RGB", (40, 30), "teal").save(folder / "p.png")
    (row,) = listed(written(folder, {"file_name": "p.png"}))
    assert (row["error_message"], row["keep"], row["end_s"], row["width"]) == (None, True, 0.0, 40)


def test_a_file_named_twice_is_one_clip(folder: Path):
    assert len(listed(written(folder, {"file_name": "a.mp4"}, {"file_name": "a.mp4"}))) == 1


def test_a_table_without_files_is_one_sentence(folder: Path):
    with pytest.raises(BadInput, match="needs a column of files, named file_name, video, file, path"):
        listed(written(folder, {"title": "a"}))
    (folder / "empty.csv").write_text("file_name\n")
    with pytest.raises(BadInput, match="has no rows"):
        listed(folder / "empty.csv")


def test_a_second_look_finds_all_and_a_changed_file_is_looked_at_again(folder: Path, tmp_path: Path):
    table = written(folder, {"file_name": "a.mp4"})
    first = list_clips.fn(tmp_path / "run", ListedConfig(), table)
    assert list_clips.fn(tmp_path / "run", ListedConfig(), table).cached
    (folder / "a.mp4").write_bytes((folder / "b.mp4").read_bytes())
    again = list_clips.fn(tmp_path / "run", ListedConfig(), table)
    assert not again.cached
    assert again.digest != first.digest
    assert read_rows(tmp_path / "run" / "videos.parquet") == read_rows(again)


def test_a_clip_that_does_not_say_how_long_it_is_is_a_row_with_the_reason(folder: Path):
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(folder / "a.mp4"), "-c", "copy", str(folder / "raw.h264")]
    run_ffmpeg(command, None, "raw.h264")
    (row,) = listed(written(folder, {"file_name": "raw.h264"}))
    assert (row["keep"], row["error_code"]) == (False, "bad_media")
    assert row["error_message"].endswith("raw.h264: its length is unknown. Convert it to mp4.")


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ListedConfig) == {"": "frozen=True, extra='forbid'", "probe_limit_s": "30.0, gt=0"}


def test_the_step_goes_by_its_name():
    assert list_clips.name == "listed"
