"""`reelmill check`: every kind of damage is found, named, and comes with what makes the file again."""

from pathlib import Path

import pytest

from flows.command.check import SHOWN, CheckConfig, CheckOutcome, Fault, check
from flows.command.main import main
from flows.running.claim import claim
from models.errors import BadInput
from tasks.ledger import LEDGER, MARKER
from tasks.manifest import publish_link, publish_text

AGAIN = "Delete it, if it is there, and run `reelmill generate` into this folder again."


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    claim(folder, "generate")
    for name in ("outputs.parquet", "videos/a.mp4", "videos/b.mp4"):
        publish_text(folder / name, name)
    publish_link(folder / "shown", Path("videos/a.mp4"))
    (folder / "mine.txt").write_text("mine")
    return folder


def check_all(folder: Path) -> list[tuple[str, str]]:
    outcome = check(CheckConfig(path=folder, read_data=True))
    assert outcome.failed == len(outcome.faults)
    return [(fault.file.relative_to(folder).as_posix(), fault.wrong) for fault in outcome.faults]


def test_a_folder_as_it_was_written_has_no_faults(out: Path, capsys: pytest.CaptureFixture[str]):
    assert check_all(out) == []
    assert main(["check", str(out), "--read-data"]) == 0
    assert capsys.readouterr().out == "files: 5 (every byte)\nwrong: none\n"


def test_one_changed_byte_of_any_file_is_found_where_the_data_is_read(out: Path, capsys: pytest.CaptureFixture[str]):
    for path in [p for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink() and p.name != "mine.txt"]:
        whole = path.read_bytes()
        for position in range(0, len(whole), 7):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            assert check_all(out), (path, position)
        path.write_bytes(whole)
    (out / "videos/a.mp4").write_text("videos/A.mp4")
    assert main(["check", str(out)]) == 0
    capsys.readouterr()
    assert main(["check", str(out), "--read-data"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "files: 5 (every byte)",
        "wrong: 1",
        f"  {out}/videos/a.mp4: has other bytes than were written. {AGAIN}",
    ]


def test_missing_short_and_replaced_files_are_found_without_reading(out: Path):
    (out / "outputs.parquet").unlink()
    (out / "videos/a.mp4").write_text("short")
    (out / "videos/b.mp4").unlink()
    (out / "videos/b.mp4").mkdir()
    (out / "shown").unlink()
    (out / "shown").symlink_to("mine.txt")
    found = check(CheckConfig(path=out)).faults
    assert [(fault.file.name, fault.wrong) for fault in found] == [
        ("outputs.parquet", "is missing"),
        ("shown", "has other bytes than were written"),
        ("a.mp4", "has 5 bytes, and 12 were written"),
        ("b.mp4", "is no file"),
    ]
    assert {fault.remedy for fault in found} == {AGAIN}


def test_a_file_and_a_link_do_not_pass_for_each_other(out: Path):
    (out / "shown").unlink()
    (out / "shown").write_text("videos/a.mp4")
    (out / "videos/a.mp4").unlink()
    (out / "videos/a.mp4").symlink_to(out / "mine.txt")
    assert check_all(out) == [("shown", "is no longer a link"), ("videos/a.mp4", "is a link")]


def test_a_damaged_or_missing_ledger_and_marker_are_found(out: Path):
    text = (out / LEDGER).read_text()
    (out / LEDGER).write_text(text.replace("b.mp4", "c.mp4"))
    assert check_all(out) == [(LEDGER, "line 4 is damaged")]
    (out / LEDGER).write_text(text)
    (out / MARKER).write_text((out / MARKER).read_text().replace("generate", "Generate"))
    assert check_all(out) == [(MARKER, "has other bytes than were written")]
    (out / MARKER).unlink()
    assert check_all(out) == [(MARKER, "is missing")]
    (out / MARKER).write_text("{}")
    (out / LEDGER).unlink()
    assert check_all(out) == [(LEDGER, "is missing")]


def test_folders_inside_are_checked_too(out: Path, tmp_path: Path):
    inner = out / "dataset"
    inner.mkdir()
    claim(inner, "curate")
    publish_text(inner / "clips.parquet", "clips")
    (inner / "clips.parquet").write_text("Clips")
    assert check_all(tmp_path) == [("out/dataset/clips.parquet", "has other bytes than were written")]
    (fault,) = check(CheckConfig(path=tmp_path, read_data=True)).faults
    assert "run `reelmill curate`" in fault.remedy


def test_what_has_no_ledger_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"has no ledger of its files\. Name an output folder"):
        check(CheckConfig(path=tmp_path))
    with pytest.raises(BadInput, match="no such folder"):
        check(CheckConfig(path=tmp_path / "none"))


def test_of_many_faults_the_first_are_listed_and_all_are_counted(tmp_path: Path):
    fault = Fault(file=tmp_path / "a", wrong="is missing", remedy="Run it.")
    many = CheckOutcome(failed=103, path=tmp_path, files=200, read_data=False, faults=(fault,) * (SHOWN + 3))
    lines = str(many).splitlines()
    assert lines[:2] == ["files: 200 (their sizes; --read-data compares every byte)", "wrong: 103"]
    assert (len(lines), lines[-1]) == (2 + SHOWN + 1, "  and 3 more")
