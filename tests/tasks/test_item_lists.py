"""Lists of items: folders and tables become the same rows, and what is wrong is said with its place."""

from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import BadInput
from tasks.item_lists import Listing, TableRow, locate, read_listing, read_names, read_table

Form = Literal["NFC", "NFD"]

SUFFIXES, COLUMNS = (".png",), ("image", "seed", "motion")


def listed(path: Path) -> Listing:
    return read_listing(path, SUFFIXES, "image", COLUMNS)


def values(path: Path) -> list[dict]:
    return [dict(row.values) for row in listed(path).rows]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_a_name_is_found_in_whatever_form_its_letters_are_on_the_disk(tmp_path: Path, written: Form, stored: Form):
    path = tmp_path / normalize(stored, "Größe/Ärger é.png")
    path.parent.mkdir()
    path.touch()
    assert locate(tmp_path, normalize(written, "Größe/Ärger é.png")) == path


def test_a_folder_gives_its_files_by_name_and_leaves_out_others(tmp_path: Path):
    for name in ("b.png", "a.PNG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert values(tmp_path) == [{"image": "a.PNG"}, {"image": "b.png"}]


def test_what_a_folder_has_beside_its_pictures_is_said_once_by_names_and_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("a.png", ".hidden.heic", *(f"{n}.heic" for n in range(5))):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert values(tmp_path) == values(tmp_path) == [{"image": "a.png"}]
    said = f"{tmp_path}: not taken, 6 files: .hidden.heic (hidden), 0.heic, 1.heic, 2.heic, 3.heic, 4.heic."
    assert [record.getMessage() for record in caplog.records] == [said]
    (tmp_path / "new.bmp.part").touch()
    listed(tmp_path)
    assert (
        caplog.records[1]
        .getMessage()
        .endswith(
            "7 files: .hidden.heic (hidden), 0.heic, 1.heic, 2.heic, 3.heic, 4.heic, new.bmp.part (not complete)."
        )
    )


def test_a_folder_of_nothing_but_pictures_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "a.png").touch()
    listed(tmp_path)
    assert caplog.records == []


def test_one_file_is_a_list_of_one(tmp_path: Path):
    (tmp_path / "a.png").touch()
    assert listed(tmp_path / "a.png") == Listing(tmp_path, [TableRow({"image": "a.png"})])


def test_the_three_kinds_of_table_give_the_same_rows(tmp_path: Path):
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "seed": [3, None], "motion": [None, "pan_left"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    expected = [{"image": "a.png", "seed": 3.0}, {"image": "b.png", "motion": "pan_left"}]
    assert values(tmp_path / "t.parquet") == expected
    assert values(tmp_path / "t.jsonl") == expected
    assert values(tmp_path / "t.csv") == [{"image": "a.png", "seed": "3.0"}, expected[1]]


def test_spaces_and_a_byte_order_mark_are_no_part_of_names_or_values(tmp_path: Path):
    path = written(tmp_path / "t.csv", "\ufeffimage, motion\n a.png , pan_left \n\n")
    assert values(path) == [{"image": "a.png", "motion": "pan_left"}]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_parted_by_semicolons_or_tabs_is_the_same_and_its_decimals_stay_as_they_are(
    tmp_path: Path, delimiter: str
):
    lines = ("image", "seed", "motion"), ("a, b.png", "0,5", ""), ("c.png", "", "pan_left")
    path = written(tmp_path / "t.csv", "\ufeff" + "\n".join(map(delimiter.join, lines)))
    assert values(path) == [{"image": "a, b.png", "seed": "0,5"}, {"image": "c.png", "motion": "pan_left"}]
    quoted = written(tmp_path / "q.csv", '"image";"motion"\n"a;b.png";"pan_left"\n')
    assert values(quoted) == [{"image": "a;b.png", "motion": "pan_left"}]


def test_the_header_alone_decides_what_parts_a_table(tmp_path: Path):
    commas = written(tmp_path / "t.csv", "image,motion\n a;b;c.png ,x;y\tz\n")
    assert values(commas) == [{"image": "a;b;c.png", "motion": "x;y\tz"}]
    one = written(tmp_path / "one.csv", "image\na;b.png\n")
    assert values(one) == [{"image": "a;b.png"}]


def test_a_parquet_table_with_a_column_twice_is_refused(tmp_path: Path):
    pq.write_table(pa.table([["a.png"], ["b.png"]], names=["image", "image"]), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match=r"t\.parquet: duplicate column image"):
        listed(tmp_path / "t.parquet")


def test_a_broken_line_is_a_row_with_its_problem_and_the_others_stay(tmp_path: Path):
    lines = written(tmp_path / "t.jsonl", '{"image": "a.png"}\n{"image": \n[1]\n{"image": "b.png"}\n')
    rows = listed(lines).rows
    assert [row.values.get("image") for row in rows] == ["a.png", None, None, "b.png"]
    assert "line 2 is not JSON" in (rows[1].problem or "")
    assert rows[2].problem == "line 3 is not a JSON object."
    commas = written(tmp_path / "t.csv", "image,seed\na.png,1,2\nb.png,2\n")
    assert listed(commas).rows[0].problem == "line 2 has more fields than the header."
    assert dict(listed(commas).rows[1].values) == {"image": "b.png", "seed": "2"}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.csv", "image,sede\na.png,1\n", "unknown column sede. Known: image, seed, motion"),
        ("t.csv", "seed\n1\n", "needs a column 'image'"),
        ("t.csv", "image,image\na,b\n", "duplicate column image"),
        ("t.csv", "image\n", "the table has no rows"),
        ("t.csv", "", "the table has no rows"),
        ("t.jsonl", '{"image": "a", "sed": 1}\n', "unknown column sed. Known: image, seed, motion"),
        ("t.csv", "image,\na.png,x\n", "unknown column without a name"),
        ("t.csv", "Image,IMAGE\na.png,b.png\n", "unknown column Image, IMAGE"),
        ("t.csv", "image,a\x1b[2J\na.png,x\n", r"a column cannot be named 'a\\x1b\[2J'"),
        ("t.parquet", "not parquet", "cannot be read as a parquet table"),
        ("t.xlsx", "", "cannot be read as a xlsx table \\(File is not a zip file\\)"),
        ("t.xls", "", "neither a folder nor a file of a known kind"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, name: str, text: str, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        listed(written(tmp_path / name, text))


def test_a_table_in_another_encoding_is_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("image\nm\u00fcll.png\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"cannot be read as a csv table \(.*\). Save it as UTF-8."):
        read_table(tmp_path / "t.csv")


def test_missing_and_empty_folders_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no such folder or file"):
        listed(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"no file of a known kind in this folder \(.png\)"):
        listed(tmp_path)


def test_a_named_file_is_found_below_the_folder_only(tmp_path: Path):
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "a.png").touch()
    (tmp_path / "secret.png").touch()
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    assert locate(home, "deep/a.png") == (home / "deep" / "a.png").resolve()
    assert locate(home, str(home / "deep" / "a.png")) == (home / "deep" / "a.png").resolve()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "deep/../../secret.png"):
        with pytest.raises(BadInput, match="is outside"):
            locate(home, name)
    for name in ("gone.png", "deep"):
        with pytest.raises(BadInput, match="no such file"):
            locate(home, name)
    with pytest.raises(BadInput, match="not a usable path"):
        locate(home, "a\0.png")


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes("caf\u00e9.mp4\n".encode("latin-1"))
    for name in ("list.txt", "gone.txt"):
        with pytest.raises(BadInput, match=rf"{name}: cannot be read as a list, one entry to a line \("):
            read_names(tmp_path / name, ("source",))


def test_a_list_of_more_names_than_a_table_may_have_is_refused_before_any_is_looked_for(tmp_path: Path):
    path = tmp_path / "l.txt"
    path.write_text("# a note\n" + "x\n" * 1_000_001)
    with pytest.raises(BadInput, match=r"has 1000001 lines, more than 1000000 are not read\. Give several lists"):
        read_names(path, ("source",))
