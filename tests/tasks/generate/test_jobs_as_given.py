"""Jobs as people give them: whatever a table or a picture holds is a row of its own, and leaves the others."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.errors import BadInput
from tasks.child_process import Child
from tasks.generate import jobs
from tasks.generate.job_columns import file_key
from tasks.generate.job_settings import COLUMNS
from tasks.limits import Limits, set_limits
from tests.job_tables import jobs_of, table

TEXT = st.text(alphabet=st.characters(), max_size=12)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(st.integers(), max_size=2),
    st.dictionaries(TEXT, st.integers(), max_size=2),
    st.sampled_from(["../a.png", "/etc/passwd", "a.png\x00", "~", "\ud800"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def one_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.dictionaries(st.sampled_from(COLUMNS), ANYTHING, max_size=5), named=st.booleans())
def test_whatever_a_row_holds_it_is_a_row_of_the_manifest(one_picture, model, line, named):
    (one_picture / "jobs.jsonl").write_text(
        json.dumps(line | ({"image": "a.png"} if named else {})) + '\n{"image": "a.png"}'
    )
    rows = jobs_of(one_picture / "out", one_picture / "jobs.jsonl", model)
    assert len(rows) == 2
    assert all((row["status"] == "ready") != bool(row["error_message"]) for row in rows)
    inside = [row for row in rows if row["image_sha256"]]
    assert {row["image"] for row in inside} == {str(one_picture / "a.png")}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("jobs.csv", b"image,seed\n\"a.png,1\n", "cannot be read as a csv table"),
        ("jobs.csv", "image\ncaf\u00e9.png\n".encode("latin-1"), "cannot be read as a csv table"),
        ("jobs.csv", b"image,image\na.png,a.png\n", "duplicate column"),
        ("jobs.csv", b"", "the table has no rows"),
        ("jobs.csv", b"image\n" + b"a" * 200_000, "cannot be read as a csv table"),
        ("jobs.parquet", b"PAR1 and nothing else", "cannot be read as a parquet table"),
        ("jobs.jsonl", b"\xff\xfe{}", "cannot be read as a jsonl table"),
        ("jobs.json", b"[1, 2", "cannot be read as JSON"),
        ("jobs.json", b"[]", "not a ComfyUI workflow"),
        ("gone.json", None, "no such folder or file"),
    ],
)  # fmt: skip
def test_a_list_that_is_broken_as_a_whole_is_refused_in_one_sentence(one_picture, tmp_path, model, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        jobs_of(tmp_path / "out", tmp_path / name, model)


def test_broken_lines_of_a_list_are_rows_of_their_own(pictures, tmp_path, model):
    home = pictures("a.png")
    (home / "jobs.csv").write_text("image,seed\na.png,1\na.png,1,2\na.png,many\n")
    (home / "jobs.jsonl").write_text('{"image": "a.png"}\n{"image": \n[1]\n' + "[" * 100_000 + "\n")
    said = [
        [row["error_message"] for row in jobs_of(tmp_path / "o", home / n, model)] for n in ("jobs.csv", "jobs.jsonl")
    ]
    assert said[0][1] == "line 3 has more fields than the header."
    assert (said[0][2] or "").startswith("column seed: input should be a valid integer")
    assert [text and text.partition(" (")[0] for text in said[1]] == [
        None, "line 2 is not JSON", "line 3 is not a JSON object.", "line 4 is not JSON",
    ]  # fmt: skip


@pytest.mark.parametrize("line", [{"lora": "a\0b"}, {"lora": "\ud800"}, {"lora": "loop"}, {"model": "loop"}])
def test_a_row_that_names_what_no_path_can_be_leaves_the_others(pictures, tmp_path, model, line):
    home = pictures("a.png")
    (home / "loop").symlink_to("loop")
    (home / "jobs.jsonl").write_text(json.dumps({"image": "a.png"} | line) + '\n{"image": "a.png"}\n')
    bad, good = jobs_of(tmp_path / "out", home / "jobs.jsonl", model)
    assert (bad["status"], good["status"]) == ("failed", "ready")
    assert "not a usable path" in bad["error_message"]


def test_a_key_of_half_a_character_is_a_key(pictures, tmp_path, model):
    home = pictures("a.png")
    (home / "jobs.jsonl").write_text('{"image": "a.png", "key": "\\ud800"}\n')
    assert jobs_of(tmp_path / "out", home / "jobs.jsonl", model)[0]["status"] == "ready"


@pytest.mark.parametrize("column", ["seed", "steps", "motion_strength"])
def test_true_is_no_number(pictures, tmp_path, model, column):
    home = pictures("a.png")
    row = jobs_of(tmp_path / "out", table(home, {"image": "a.png", column: True}), model)[0]
    assert row["error_message"] == f"column {column}: must be a number or a text, not True."


def test_a_spreadsheets_table_gives_jobs_as_its_author_meant_them(tmp_path, pictures, model):
    home = pictures("a.png")
    text = "sep=;\r\nImage;Noise_Aug;motion_strength;notes\r\na.png;0,02;;hello\r\n;;;\r\na.png;;1,000;\r\n"
    (home / "jobs.csv").write_bytes(text.encode("utf-16"))
    first, second = jobs_of(tmp_path / "out", home / "jobs.csv", model)
    assert (first["status"], first["noise_aug"], json.loads(first["further"])) == ("ready", 0.02, {"notes": "hello"})
    assert (second["status"], second["further"]) == ("failed", None)
    assert (
        "column motion_strength: its comma may part thousands, so write it with a decimal point"
        in second["error_message"]
    )
    (home / "plain.jsonl").write_text('{"image": "a.png", "noise_aug": 0.02}\n')
    (plain,) = jobs_of(tmp_path / "out", home / "plain.jsonl", model)
    assert plain["item_key"] == first["item_key"]
    assert file_key(plain) != file_key(first), "its file says something else of itself"


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "JPEG", "WEBP"])
def test_damaged_pictures_are_rows_and_leave_the_others(tmp_path, pictures, model, kind):
    home, rng = pictures("a.png"), np.random.default_rng(0)
    with Image.open(home / "a.png") as picture:
        picture.save(home / "whole", kind)
    whole = bytearray((home / "whole").read_bytes())
    (home / "whole").unlink()
    for number in range(24):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), 6):
            damaged[place] = rng.integers(256)
        (home / f"b{number}.{kind.lower()}").write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
    rows = jobs_of(tmp_path / "out", home, model)
    assert len(rows) == 25
    assert rows[0]["status"] == "ready"
    assert {row["status"] for row in rows} <= {"ready", "failed", "duplicate"}
    assert all(row["error_message"] for row in rows if row["status"] != "ready")


def test_a_picture_that_kills_its_reader_is_a_row_and_the_next_ones_are_read(tmp_path, pictures, model, monkeypatch):
    class Deadly(Child):
        def run(self, function, *args, **limits):
            if limits["item"] == "b.png":
                return super().run(signal.raise_signal, signal.SIGSEGV, **limits)
            return super().run(function, *args, **limits)

    home = pictures("a.png", "b.png", "c.png")
    monkeypatch.setattr(jobs, "Child", Deadly)
    rows = jobs_of(tmp_path / "out", home, model)
    assert [row["status"] for row in rows] == ["ready", "failed", "ready"]
    assert rows[1]["error_message"] == (
        "b.png: its process died (Segmentation fault). The file may be damaged."
    )  # fmt: skip


def test_a_picture_that_changes_while_it_is_read_is_a_row_that_says_so(tmp_path, pictures, model, monkeypatch):
    home = pictures("a.png", "b.png")

    class Slow(Child):
        def run(self, function, *args, **limits):
            made = super().run(function, *args, **limits)
            if limits["item"] == "b.png":
                (home / "b.png").write_bytes((home / "a.png").read_bytes())
            return made

    monkeypatch.setattr(jobs, "Child", Slow)
    good, bad = jobs_of(tmp_path / "out", home, model)
    assert (good["status"], bad["status"], bad["error_code"]) == ("ready", "failed", "source_changed")


def test_postscript_named_as_a_picture_runs_no_ghostscript(tmp_path, pictures, model):
    home = pictures("a.png")
    (home / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(home / "b.png") as picture:
        assert picture.format == "EPS", "what Pillow alone takes it for"
    assert jobs_of(tmp_path / "out", home, model)[1]["error_message"] == (
        "b.png: cannot be read as a picture (its content is not in a known picture format)."
    )


def test_a_picture_of_more_pixels_than_are_allowed_is_a_row_that_names_the_setting(tmp_path, pictures, model):
    set_limits(Limits(megapixels=0.0001))
    try:
        (row,) = jobs_of(tmp_path / "out", pictures("a.png"), model)
    finally:
        set_limits(Limits())
    assert row["error_code"] == "decoder_limit"
    assert "--limits.megapixels" in row["error_message"]
