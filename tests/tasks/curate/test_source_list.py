"""What sources mean: each file once, in order, and what is wrong with an entry of a list stays with that entry."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from models.errors import BadInput
from tasks.curate.source_list import Entry, expand_sources

SUFFIXES = (".mp4", ".mov")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    (folder / "deeper").mkdir(parents=True)
    for name in ("one.mp4", "two.MOV", "deeper/three.mp4", "notes.dat", ".hidden.mp4"):
        (folder / name).touch()
    return folder


def names(entries: list[Entry], folder: Path) -> list[str]:
    """The entries' paths below `folder`; they have no problems."""
    assert [entry.problem for entry in entries] == [None] * len(entries)
    return [Path(entry.source).relative_to(folder).as_posix() for entry in entries]


ALL = ["deeper/three.mp4", "one.mp4", "two.MOV"]


def test_a_folder_stands_for_the_videos_in_it_and_below(folder: Path):
    assert names(expand_sources([str(folder)], SUFFIXES), folder) == ALL


def test_globs_and_relative_paths_are_followed_and_each_file_is_taken_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    assert names(expand_sources(["footage/*w*"], SUFFIXES), folder) == ["two.MOV"]
    assert names(expand_sources(["footage/**/t*"], SUFFIXES), folder) == ["deeper/three.mp4", "two.MOV"]
    assert names(expand_sources(["foot*"], SUFFIXES), folder) == ALL
    assert names(expand_sources(["footage", "footage/one.mp4", str(folder)], SUFFIXES), folder) == ALL


def test_the_dataset_itself_is_no_source(folder: Path):
    clips = folder / "dataset" / "clips"
    clips.mkdir(parents=True)
    (clips / "cut.mp4").touch()
    assert names(expand_sources([str(folder)], SUFFIXES, exclude=folder / "dataset"), folder) == ALL
    assert names(expand_sources([str(folder)], SUFFIXES), folder) == ["dataset/clips/cut.mp4", *ALL]


def test_a_source_inside_the_dataset_is_told_so_and_not_that_it_is_empty(folder: Path):
    for source in (folder, folder / "deeper"):
        with pytest.raises(BadInput, match=r"is inside the dataset folder\. Choose another folder for --out"):
            expand_sources([str(source)], SUFFIXES, exclude=folder)


def test_a_link_that_leads_back_is_followed_once(folder: Path):
    (folder / "deeper" / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    assert names(expand_sources([str(folder)], SUFFIXES), folder) == ALL


def test_a_folder_linked_from_elsewhere_is_searched(folder: Path, tmp_path: Path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "four.mp4").touch()
    (folder / "linked").symlink_to(tmp_path / "more")
    assert "linked/four.mp4" in names(expand_sources([str(folder)], SUFFIXES), folder)


def test_the_url_of_a_local_file_is_that_file(folder: Path):
    (folder / "a film.mp4").touch()
    assert names(expand_sources([f"file://{folder}/a%20film.mp4"], SUFFIXES), folder) == ["a film.mp4"]


def test_an_address_stands_for_itself_and_is_not_looked_up(folder: Path):
    films = ["https://example.invalid/a%20film.mp4", "nosuchscheme://a/b.mp4"]
    (folder / "list.txt").write_text("\n".join(films))
    for sources in (films, [str(folder / "list.txt")]):
        assert expand_sources(sources, SUFFIXES) == [Entry(film) for film in films]


def test_a_text_names_one_source_on_each_line_relative_to_itself(folder: Path):
    (folder / "list.txt").write_text("one.mp4\n\ndeeper\n" + str(folder / "two.MOV") + "\n*.mp4\n")
    assert names(expand_sources([str(folder / "list.txt")], SUFFIXES), folder) == ALL


def test_a_text_may_have_comments_and_spaces_and_names_with_odd_separators(folder: Path):
    (folder / "#1\u2028.mp4").touch()
    (folder / "list.txt").write_text("# films of May\r\n  one.mp4 \n#two.MOV\n./#1\u2028.mp4\n", encoding="utf-8")
    assert names(expand_sources([str(folder / "list.txt")], SUFFIXES), folder) == ["#1\u2028.mp4", "one.mp4"]


def test_json_lines_are_ended_by_line_feeds_alone(folder: Path):
    (folder / "a\u2028b.mp4").touch()
    (folder / "t.jsonl").write_text('{"path": "a\u2028b.mp4"}\n', encoding="utf-8")
    assert names(expand_sources([str(folder / "t.jsonl")], SUFFIXES), folder) == ["a\u2028b.mp4"]


def test_columns_of_a_table_that_are_not_read_are_said(folder: Path, caplog: pytest.LogCaptureFixture):
    pd.DataFrame({"path": ["one.mp4"], "start_s": [0.5], "end_s": [1.5]}).to_csv(folder / "t.csv", index=False)
    expand_sources([str(folder / "t.csv")], SUFFIXES)
    assert "t.csv: only the column path is read, not start_s, end_s. Each file is used in full." in caplog.text


@pytest.mark.parametrize("column", ["source", "path", "url"])
def test_a_table_names_sources_in_a_column(folder: Path, column: str):
    table = pd.DataFrame({"title": ["a", "b"], column: ["one.mp4", "deeper/three.mp4"]})
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet")
    table.to_json(folder / "t.jsonl", orient="records", lines=True)
    for name in ("t.csv", "t.parquet", "t.jsonl"):
        assert names(expand_sources([str(folder / name)], SUFFIXES), folder) == ["deeper/three.mp4", "one.mp4"]


def test_a_name_with_a_line_break_fits_in_a_table(folder: Path):
    (folder / "a\nb.mp4").touch()
    pd.DataFrame({"path": ["a\nb.mp4"]}).to_parquet(folder / "t.parquet")
    assert names(expand_sources([str(folder / "t.parquet")], SUFFIXES), folder) == ["a\nb.mp4"]


def test_what_is_wrong_with_an_entry_of_a_list_stays_with_it(folder: Path):
    lines = ["one.mp4", "gone.mp4", "x" * 5000 + ".mp4", "nowhere/*.mp4", "list.txt", "a\0b.mp4"]
    (folder / "list.txt").write_text("\n".join(lines))
    entries = expand_sources([str(folder / "list.txt")], SUFFIXES)
    assert len(entries) == 6
    problems = {Path(entry.source).name[:9]: entry.problem for entry in entries}
    assert problems.pop("one.mp4") is None
    assert problems.pop("list.txt") is None, "a list in a list is a file like any other"
    assert "no such file or folder" in (problems["gone.mp4"] or "")
    assert all(problem and "list.txt" in problem for problem in problems.values())


def test_a_broken_row_of_a_table_is_an_entry_with_its_problem(folder: Path):
    (folder / "t.jsonl").write_text('{"path": "one.mp4"}\n{"path": \n{"path": 3}\n')
    good, *bad = sorted(expand_sources([str(folder / "t.jsonl")], SUFFIXES), key=lambda entry: entry.problem or "")
    assert (Path(good.source).name, len(bad)) == ("one.mp4", 2)
    assert "line 2 is not JSON" in (bad[0].problem or "")
    assert "row 3 names no file under path" in (bad[1].problem or "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", "missing: no such file or folder"),
        ("*.webm", r"\*\.webm: no such file or folder"),
        ("empty", "empty: no video in this folder"),
        ("*.dat", "no video among its 1 matches"),
        ("no-names.csv", "needs a column of files, named source, path or url"),
        ("blank.txt", "lists no files"),
    ],
)
def test_a_source_without_video_is_one_clear_sentence(folder: Path, source: str, message: str):
    (folder / "empty").mkdir()
    (folder / "no-names.csv").write_text("title\nthe film\n")
    (folder / "blank.txt").write_text("\n \n")
    with pytest.raises(BadInput, match=message) as caught:
        expand_sources([str(folder), str(folder / source)], SUFFIXES)
    assert "\n" not in str(caught.value)


def test_no_source_at_all_is_said():
    with pytest.raises(BadInput, match="No source is given"):
        expand_sources([], SUFFIXES)


def test_a_name_that_is_not_utf_8_is_an_entry_with_its_problem(folder: Path):
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9.mp4", os.O_CREAT))
    (bad,) = [entry for entry in expand_sources([str(folder)], SUFFIXES) if entry.problem]
    assert bad.source.endswith(r"caf\udce9.mp4")
    assert "not UTF-8" in (bad.problem or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="The superuser may list every folder.")
def test_a_folder_that_may_not_be_listed_is_an_entry_with_its_problem(folder: Path):
    (folder / "deeper").chmod(0)
    (bad,) = [entry for entry in expand_sources([str(folder)], SUFFIXES) if entry.problem]
    (folder / "deeper").chmod(0o700)
    assert "cannot be listed" in (bad.problem or "")


def test_what_further_columns_say_goes_with_each_file_of_the_row(folder: Path):
    (folder / "t.csv").write_text("Path,url,License\none.mp4,https://example.org/1,CC-BY\ndeeper,,own\n")
    entries = expand_sources([str(folder / "t.csv")], SUFFIXES)
    said = {Path(entry.source).name: json.loads(entry.further or "{}") for entry in entries}
    assert said == {"one.mp4": {"License": "CC-BY", "url": "https://example.org/1"}, "three.mp4": {"License": "own"}}
