"""Tables as people make them: every cell stays what was written, whatever program wrote the table."""

import csv
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import BadInput
from tasks.child_process import run_in_child
from tasks.table_files import DELIMITERS, TableRow, match_columns, read_table, read_within, rename_columns

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

KEPT = ["007", "NA", "null", "9007199254740993", "1e5", "0,02", "True", "-", "1.10", "2024-01-02", "nan", "None"]

CELLS = st.sampled_from(["", " ", *KEPT]) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=8
)

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=4, unique=True)


def read(path: Path) -> list[dict]:
    rows = read_table(path)
    assert [row.problem for row in rows] == [None] * len(rows)
    return [dict(row.values) for row in rows]


def read_or_hear(path: Path) -> tuple[list[TableRow], str | None]:
    """The rows, or none and what was said; nothing else may happen."""
    try:
        return read_table(path), None
    except BadInput as error:
        return [], str(error)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_csv(path: Path, lines: Sequence[Sequence[str]], delimiter: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    return path


def write_excel(path: Path, lines: Sequence[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    assert book.active is not None
    for line in lines:
        book.active.append(list(line))
    book.save(path)
    return path


def read_by_hand(path: Path, delimiter: str) -> list[dict[str, str]]:
    """The rows as the csv module alone reads them, which was this project's reader."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=delimiter))
    plain = [{name.strip(): (value or "").strip() for name, value in row.items()} for row in rows]
    kept = [{name: value for name, value in row.items() if value} for row in plain]
    return [row for row in kept if row]


@QUICK
@given(data=st.data(), names=NAMES, delimiter=st.sampled_from(DELIMITERS))
def test_a_csv_is_read_as_the_csv_module_reads_it(tmp_path: Path, data: st.DataObject, names: list, delimiter: str):
    # A header of one column does not say what parts the table; what does is looked for in the header alone.
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=6))
    path = write_csv(tmp_path / "t.csv", [names, *rows], delimiter if len(names) > 1 else ",")
    assert read(path) == read_by_hand(path, delimiter if len(names) > 1 else ",")


@QUICK
@given(names=NAMES, text=st.text(st.sampled_from('ab",;\t\n\r 07'), max_size=40))
def test_any_text_is_rows_or_one_sentence(tmp_path: Path, names: list, text: str):
    path = written(tmp_path / "t.csv", ",".join(names) + "\n" + text)
    rows, said = read_or_hear(path)
    assert said is None or "t.csv: " in said
    assert "\n" not in (said or "")
    assert all(row.problem or row.values for row in rows)


@settings(QUICK, max_examples=8)
@given(data=st.data(), names=NAMES)
def test_an_excel_table_says_what_the_same_csv_says(tmp_path: Path, data: st.DataObject, names: list):
    cells = st.sampled_from(KEPT) | st.text("aö犬 ,;'\n", max_size=5)
    rows = data.draw(st.lists(st.lists(cells, min_size=len(names), max_size=len(names)), max_size=4))
    excel = write_excel(tmp_path / "t.xlsx", [names, *rows])
    assert read(excel) == read(write_csv(tmp_path / "t.csv", [names, *rows], ","))


def test_numbers_of_a_spreadsheet_are_written_as_a_person_would(tmp_path: Path):
    path = write_excel(tmp_path / "t.xlsx", [["seed", "noise", "on"], [7, 0.02, True], [3.0, 1e-3, None], [], [2**40]])
    assert read(path) == [
        {"seed": "7", "noise": "0.02", "on": "True"},
        {"seed": "3", "noise": "0.001"},
        {"seed": str(2**40)},
    ]


def test_cells_of_a_spreadsheet_without_a_value_are_their_rows_problem(tmp_path: Path):
    book = openpyxl.Workbook()
    assert book.active is not None
    for line in (["image", "seed"], ["a.png", "=1+1"], ["b.png", 2], ["c.png", "#N/A"]):
        book.active.append(line)
    book.save(tmp_path / "t.xlsx")
    rows = read_table(tmp_path / "t.xlsx")
    assert rows[1] == TableRow({"image": "b.png", "seed": "2"})
    assert "line 2 has a formula without its value in its cell B2; open the table" in (rows[0].problem or "")
    assert rows[2].problem == "line 4 has an error in its cell B4."


def test_the_first_sheet_is_read_and_the_others_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["image"])
    book.active.append(["a.png"])
    book.create_sheet("old").append(["image"])
    book.save(tmp_path / "t.xlsx")
    assert read(tmp_path / "t.xlsx") == [{"image": "a.png"}]
    assert "t.xlsx: only its first sheet is read, Sheet, not old." in caplog.text


@pytest.mark.parametrize("stated", ["sep=;", "SEP=;", '"sep=;"', "sep=;\r"])
def test_a_first_line_may_say_what_parts_the_table(tmp_path: Path, stated: str):
    assert read(written(tmp_path / "t.csv", f"{stated}\nimage;a,b\nx.png;1,5\n")) == [{"image": "x.png", "a,b": "1,5"}]
    assert read(written(tmp_path / "t.csv", "sep=|\na|b\n1|2\n")) == [{"a": "1", "b": "2"}]
    assert read(written(tmp_path / "t.csv", "sep=\t\na\tb\n1\t2\n")) == [{"a": "1", "b": "2"}]


def test_blank_rows_are_left_out_and_lines_are_counted_with_them(tmp_path: Path):
    text = ',\n\nimage,seed\n"a\nb.png",1\n\n , \n,\nc.png,2,3\nd.png\n'
    rows = read_table(written(tmp_path / "t.csv", text))
    assert [dict(row.values) for row in rows] == [{"image": "a\nb.png", "seed": "1"}, {}, {"image": "d.png"}]
    assert rows[1].problem == "line 9 has more fields than the header."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_table_in_an_encoding_that_says_so_is_read(tmp_path: Path, encoding: str):
    for name, text in (("t.csv", "image\ncafé.png\n"), ("t.jsonl", '{"image": "café.png"}\n')):
        assert read(written(tmp_path / name, text.encode(encoding))) == [{"image": "café.png"}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image\ncafé\n".encode("latin-1"), "it is not UTF-8 but probably Latin-1: byte 0xE9 in line 2"),
        ("image\na’b\n".encode("cp1252"), "it is not UTF-8 but probably Windows-1252: byte 0x92 in line 2"),
        ("image\na\n".encode("utf-16-le"), "it has NUL characters, as UTF-16 without its mark has"),
        ("image\nab\n".encode("utf-16")[:-1], "it begins as UTF-16 and is damaged at byte"),
    ],
)
def test_another_encoding_is_named_with_what_to_do(tmp_path: Path, content: bytes, sentence: str):
    with pytest.raises(BadInput, match=rf"t\.csv: .*\({sentence}.*\)\. Save it as UTF-8\."):
        read_table(written(tmp_path / "t.csv", content))


def test_names_of_columns_are_known_in_any_case_unless_two_would_be_one():
    assert match_columns(["Image", "SEED ", "notes"], ["image", "seed"]) == {"Image": "image", "SEED ": "seed"}
    assert match_columns(["image", "Image"], ["image"]) == {"image": "image"}
    assert match_columns(["IMAGE", "Image"], ["image"]) == {}
    rows = [TableRow({"Image": "a", "x": 1}), TableRow(problem="broken")]
    assert rename_columns(rows, ["image"]) == [TableRow({"image": "a", "x": 1}), TableRow(problem="broken")]


def write_rows(path: Path) -> None:
    """Forty million rows of one word, in a hundred kilobytes."""
    table = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), ["a.png"])})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(pa.concat_tables([table] * 4000).combine_chunks(), row_group_size=40_000_000)


def write_list(path: Path) -> None:
    values = pa.ListArray.from_arrays(pa.array([0, 6_000_000], pa.int32()), pa.nulls(6_000_000, pa.int8()))
    pq.write_table(pa.table({"image": values}), path, compression="zstd")


def write_long_words(path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 1_000_000])
    pq.write_table(pa.table({"image": words}), path, compression="zstd")


def write_wide_csv(path: Path) -> None:
    path.write_text("," * 1_000_000 + "\n")


def write_cells_csv(path: Path) -> None:
    path.write_text(",".join(f"c{n}" for n in range(999)) + "\n" + "\n" * 900_000)


def write_zipped(path: Path) -> None:
    """A spreadsheet whose sheet has half a gigabyte of text in half a megabyte."""
    write_excel(path, [["image"], ["a.png"]])
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in parts.items():
            with book.open(name, "w") as part:
                head, mark, tail = content.partition(b"<sheetData>")
                part.write(head + mark)
                for _ in range(500 if mark else 0):
                    part.write(b"<row><c t='inlineStr'><is><t>" + b"x" * 1_000_000 + b"</t></is></c></row>")
                part.write(tail)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.parquet", write_rows),
        ("list.parquet", write_list),
        ("words.parquet", write_long_words),
        ("wide.csv", write_wide_csv),
        ("cells.csv", write_cells_csv),
        ("zipped.xlsx", write_zipped),
    ],
)
def test_a_small_file_that_stands_for_more_than_memory_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path], None]
):
    write(tmp_path / name)
    with pytest.raises(BadInput, match=rf"{name}: cannot be read as a .* table \("):
        read_table(tmp_path / name)


def test_what_takes_too_long_is_stopped_by_its_processor_time(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["image"], *([["a.png"]] * 400_000)], ",")
    with pytest.raises(Exception, match="takes more than"):
        run_in_child(read_within, path, 10**9, 0, limit_s=60)


@settings(QUICK, max_examples=40)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["t.parquet", "t.xlsx"]))
@pytest.mark.slow
def test_a_damaged_file_is_rows_or_one_sentence(tmp_path: Path, seed: int, kind: str):
    path = tmp_path / kind
    if kind.endswith("xlsx"):
        write_excel(path, [["image", "seed"], *([f"{n}.png", n] for n in range(9))])
    else:
        pq.write_table(pa.table({"image": [f"{n}.png" for n in range(9)], "seed": list(range(9))}), path)
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 20])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)
    assert "\n" not in (read_or_hear(path)[1] or "")


def test_a_long_text_that_is_no_json_lines_is_given_up_after_its_first_hundred_thousand_lines(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "a.png"}\n' + "x\n" * 150_000)
    with pytest.raises(BadInput, match="more than 100,000 of its lines are no JSON objects, line 100002 for one"):
        read_table(path)
    path.write_text("{}\n" * 1_000_001)
    with pytest.raises(BadInput, match="it has 1000001 rows of 1 columns, more than 1000000 rows"):
        read_table(path)
    path.write_text("x\n" * 9 + '{"image": "a.png"}\n')
    assert [row.problem is None for row in read_table(path)] == [False] * 9 + [True]
