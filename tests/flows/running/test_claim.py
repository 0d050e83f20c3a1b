"""Whose an output folder is: new, empty, this flow's, or refused in a sentence, and left as it is."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from flows.running.claim import check_claim, claim
from flows.running.lock import LOCK, exclusive
from models.errors import BadInput
from tasks.ledger import LEDGER, MARKER, read_ledger, read_marker
from tasks.manifest import Lineage, write_manifest

KEY = "0123456789abcdef" * 2


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_earlier(folder: Path) -> None:
    """Write what a run of an earlier version leaves, and some files of others beside it."""
    for name in ("videos/cat.mp4", "videos/dog.mp4", f"frames/{KEY}.npy", "report/index.html", "generate.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    table = pa.table({"video": ["videos/cat.mp4"]})
    lengths = {"videos/cat.mp4": 14, "../outside": 1}
    write_manifest(folder / f"manifests/encode/{KEY}.parquet", table, Lineage(step="encode", version=1), lengths)
    write_manifest(folder / "outputs.parquet", table, Lineage(step="outputs", version=1))
    (folder / "mine.parquet").write_text("no manifest")
    (folder.parent / "outside").write_text("x")


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a lock", "a killed claim"])
def test_a_new_or_empty_folder_becomes_the_flows_own(tmp_path: Path, before: str):
    folder = tmp_path / "out"
    if before != "nothing":
        folder.mkdir()
    if before == "a lock":
        (folder / LOCK).touch()
    if before == "a killed claim":
        (folder / f".{MARKER}.4711-0a1b2c3d").touch()
        (folder / LEDGER).touch()
    check_claim(folder, "curate")
    assert folder.exists() == (before != "nothing")
    with exclusive(folder):
        claim(folder, "curate")
        marker = read_marker(folder)
        claim(folder, "curate")
    assert marker is not None
    assert (read_marker(folder), marker.flow) == (marker, "curate")
    (folder / "notes.txt").write_text("mine")
    check_claim(folder, "curate")


def test_a_folder_with_files_of_others_is_refused_and_left_as_it_is(tmp_path: Path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/a.npy").write_text("mine")
    before = files_of(tmp_path)
    for act in (check_claim, claim):
        with pytest.raises(BadInput, match=r"did not write, such as frames\. Choose an empty or a new folder"):
            act(tmp_path, "generate")
    assert files_of(tmp_path) == before


def test_another_flows_folder_is_refused_by_its_name(tmp_path: Path):
    claim(tmp_path, "curate")
    with pytest.raises(BadInput, match=r"is the output of `reelmill curate`\. Choose another folder for --out\."):
        claim(tmp_path, "generate")


def test_a_damaged_marker_and_a_file_in_the_place_of_the_folder_are_refused(tmp_path: Path):
    claim(tmp_path, "curate")
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(BadInput, match=r"\.reelmill\.json: cannot be read, so nothing is written here"):
        claim(tmp_path, "curate")
    with pytest.raises(BadInput, match=r"is a file\. Choose a folder for --out"):
        check_claim(tmp_path / MARKER, "curate")


def test_a_marker_that_still_reads_and_has_another_byte_is_refused(tmp_path: Path):
    claim(tmp_path, "curate")
    text = (tmp_path / MARKER).read_text()
    for digit in sorted(set("0123456789abcdef") & set(text)):
        changed = text.replace(digit, "0" if digit != "0" else "1", 1)
        (tmp_path / MARKER).write_text(changed)
        with pytest.raises(BadInput, match=r"\.reelmill\.json: (has other bytes than were written|cannot be read), so"):
            claim(tmp_path, "curate")
    (tmp_path / MARKER).write_text(text)
    claim(tmp_path, "curate")


def test_a_folder_of_an_earlier_version_is_adopted_with_what_its_manifests_name(tmp_path: Path):
    folder = tmp_path / "out"
    write_earlier(folder)
    before = files_of(folder)
    claim(folder, "generate")
    assert set(read_ledger(folder)) == {
        MARKER,
        "videos/cat.mp4",
        f"frames/{KEY}.npy",
        "report/index.html",
        "generate.yaml",
        "outputs.parquet",
        f"manifests/encode/{KEY}.parquet",
    }
    assert {name: data for name, data in files_of(folder).items() if name not in (MARKER, LEDGER)} == before


def test_a_folder_of_an_earlier_version_that_only_began_is_adopted(tmp_path: Path):
    (tmp_path / "generate.yaml").write_text("jobs: x")
    (tmp_path / LOCK).touch()
    claim(tmp_path, "generate")
    assert set(read_ledger(tmp_path)) == {MARKER, "generate.yaml"}


@pytest.mark.parametrize("spoil", ["no settings", "a link for settings", "no lineage"])
def test_what_only_looks_like_an_earlier_folder_is_refused(tmp_path: Path, spoil: str):
    folder = tmp_path / "out"
    write_earlier(folder)
    if spoil == "no lineage":
        (folder / f"manifests/encode/{KEY}.parquet").write_text("mine")
        (folder / "outputs.parquet").write_text(json.dumps({"mine": 1}))
    else:
        (folder / "generate.yaml").unlink()
    if spoil == "a link for settings":
        (folder / "generate.yaml").symlink_to(folder.parent / "outside")
    with pytest.raises(BadInput, match="did not write"):
        claim(folder, "generate")
    assert not (folder / MARKER).exists()
