"""Folders: read by `datasets` as video folders, and tables of files and captions as trainers take them."""

import csv
import io
import json
from pathlib import Path

import pyarrow.json
import pytest
import yaml

from tasks.export.folders import STEP, Layout, format_table, write_folders
from tasks.export.samples import SCHEMA as SAMPLES
from tasks.export.samples import HoldOutConfig
from tasks.ledger import mark, record
from tasks.manifest import Lineage, digest_file, make_table, read_rows, write_manifest

MANY = [{"caption": f'clip, "{number}"\nzwei 🎬'} for number in range(12)]
HALVES = HoldOutConfig(validation=0.0, test=0.5)


def metadata(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else [*csv.DictReader(file)]


def test_a_clip_that_is_gone_and_one_with_another_byte_are_in_no_table_and_have_a_row(films, tmp_path: Path):
    out = tmp_path / "out"
    mark(films.root, "curate", "1")
    samples = films.samples(out, MANY, HoldOutConfig(validation=0.0, test=0.0))
    gone, changed = (films.root / read_rows(samples)[number]["video"] for number in (3, 7))
    record(changed, changed)
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    rows = read_rows(write_folders.fn(out, Layout(to="csv"), films.root, samples))
    failed = {row["clip_id"]: row["error_message"] for row in rows if row["error_code"]}
    assert (len(rows), {*failed}) == (12, {gone.stem, changed.stem})
    assert failed[changed.stem].startswith(f"clips/{changed.name}: has other bytes than were cut.")
    assert failed[gone.stem].startswith(f"{gone.stem}: exporting failed ([Errno 2] No such file or directory")
    named = {row["clip_id"] for row in metadata(out / "train/metadata.csv")}
    assert named == {path.stem for path in out.glob("train/*.mp4")} == {r["clip_id"] for r in rows if r["file"]}
    assert len(named) == 10


@pytest.mark.parametrize(("to", "table"), [("hf", "metadata.jsonl"), ("csv", "metadata.csv")])
def test_each_side_has_its_clips_and_a_table_that_names_them(films, tmp_path: Path, to: str, table: str):
    out = tmp_path / "out"
    samples = films.samples(out, MANY, HALVES)
    write_folders.fn(out, Layout.model_validate({"to": to}), films.root, samples)
    sides = {row["clip_id"]: row["side"] for row in read_rows(samples)}
    assert set(sides.values()) == {"train", "test"}
    for side in ("train", "test"):
        rows = metadata(out / side / table)
        assert {row["clip_id"] for row in rows} == {clip for clip, on in sides.items() if on == side}
        for row in rows:
            clip = out / side / row["file_name"]
            assert clip.read_bytes() == (films.root / "clips" / clip.name).read_bytes()
            assert row["caption"].startswith('clip, "')
            assert (row["camera_motion"], float(row["motion_score"])) == ("static", 0.25)
    assert not (out / "validation").exists()


def test_datasets_reads_the_folder_with_its_splits(films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    write_folders.fn(out, Layout(to="hf"), films.root, films.samples(out, MANY, HALVES))
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    rows = [row for side in loaded.values() for row in side.cast_column("video", datasets.Video(decode=False))]
    assert {row["caption"] for row in rows} == {clip["caption"] for clip in MANY}
    assert all(Path(row["video"]["path"]).name == f"{row['clip_id']}.mp4" for row in rows)


def test_the_card_names_every_split_and_its_files(films, tmp_path: Path):
    out = tmp_path / "out"
    write_folders.fn(out, Layout(to="hf"), films.root, films.samples(out, MANY, HALVES))
    header = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    files = header["configs"][0]["data_files"]
    assert files == [{"split": "train", "path": "train/**"}, {"split": "test", "path": "test/**"}]
    for entry in files:
        assert {path.suffix for path in out.glob(entry["path"] + "/*")} == {".mp4", ".jsonl"}


def test_every_line_of_metadata_has_every_column():
    rows = [{"file_name": "a.mp4", "caption": "", "fps": 8.0}, {"file_name": "b.mp4", "caption": "x", "text_area": 0.1}]
    lines = [json.loads(line) for line in format_table(rows, "metadata.jsonl").splitlines()]
    assert [list(line) for line in lines] == [["file_name", "caption", "fps", "text_area"]] * 2
    assert lines[0]["text_area"] is None
    typed = pyarrow.json.read_json(io.BytesIO(format_table(rows, "metadata.jsonl").encode()))
    assert [str(kind) for kind in typed.schema.types] == ["string", "string", "double", "double"]
    assert format_table(rows, "metadata.csv").splitlines() == [
        "file_name,caption,fps,text_area",
        "a.mp4,,8.0,",
        "b.mp4,x,,0.1",
    ]


def test_a_clip_that_is_kept_no_more_is_taken_away_and_other_files_stay(films, tmp_path: Path):
    out = tmp_path / "out"
    write_folders.fn(out, Layout(to="csv"), films.root, films.samples(out, MANY, HALVES))
    (out / "train" / "my notes.txt").write_text("stay")
    samples = films.samples(out, [{"keep": number % 2 == 0} for number in range(12)], HALVES)
    write_folders.fn(out, Layout(to="csv"), films.root, samples)
    assert {path.stem for path in out.glob("*/*.mp4")} == {row["clip_id"] for row in read_rows(samples)}
    assert (out / "train" / "my notes.txt").read_text() == "stay"


def test_a_second_run_writes_nothing(films, tmp_path: Path):
    out = tmp_path / "out"
    samples = films.samples(out, MANY, HALVES)
    first = write_folders.fn(out, Layout(to="hf"), films.root, samples)
    assert write_folders.fn(out, Layout(to="hf"), films.root, samples).cached
    assert not write_folders.fn(out, Layout(to="csv"), films.root, samples).cached
    again = write_folders.fn(out, Layout(to="hf"), films.root, samples)
    assert (again.cached, again.digest) == (False, first.digest)


@pytest.mark.parametrize("name", ["*.mp4", "metadata.csv"])
def test_a_file_that_was_deleted_or_cut_short_is_written_again(films, tmp_path: Path, contents, name: str):
    out = tmp_path / "out"
    samples = films.samples(out, MANY, HALVES)

    def written_again() -> bool:
        return not write_folders.fn(out, Layout(to="csv"), films.root, samples).cached

    assert written_again()
    before = contents(out)
    lost = next((out / "train").glob(name))
    lost.unlink()
    assert written_again()
    assert contents(out) == before
    lost.unlink()  # A clip may be a hard link to the dataset's own file, which is not to be cut.
    lost.write_bytes(before[lost.relative_to(out).as_posix()][:20])
    assert written_again()
    assert contents(out) == before


def test_going_back_to_the_first_captions_writes_them_again(films, tmp_path: Path, contents):
    """The tables are as long as before, so nothing but the step itself knows that they are others."""
    out = tmp_path / "out"
    first, second = ([{"caption": f"{word} {number}"} for number in range(12)] for word in ("clip", "clap"))
    write_folders.fn(out, Layout(to="csv"), films.root, films.samples(out, first, HALVES))
    before = contents(out)
    write_folders.fn(out, Layout(to="csv"), films.root, films.samples(out, second, HALVES))
    assert not write_folders.fn(out, Layout(to="csv"), films.root, films.samples(out, first, HALVES)).cached
    assert contents(out) == before


@pytest.mark.parametrize("to", ["hf", "csv"])
def test_files_of_others_stay_though_their_names_are_those_of_an_exports_own(films, tmp_path: Path, to: str):
    out = tmp_path / "out"
    out.mkdir()
    mark(out, "export", "1")
    (out / "train").mkdir()
    foreign = out / f"train/{0xABC:016x}-0-4.mp4"
    foreign.write_bytes(b"mine")
    write_folders.fn(out, Layout.model_validate({"to": to}), films.root, films.samples(out, MANY, HALVES))
    assert len(list(out.glob("*/*.mp4"))) == 13
    write_folders.fn(out, Layout.model_validate({"to": to}), films.root, films.samples(out, MANY[:6], HALVES))
    assert len(list(out.glob("*/*.mp4"))) == 7, "its own go, that of another stays"
    assert foreign.read_bytes() == b"mine"


def test_a_clip_that_a_table_names_outside_of_its_dataset_is_not_handed_on(films, tmp_path: Path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    samples = films.samples(tmp_path / "out", MANY[:2], HoldOutConfig(validation=0.0, test=0.0))
    rows = read_rows(samples)
    rows[0] |= {"video": "../secret.mp4", "bytes": 6, "sha256": digest_file(secret)}
    tampered = write_manifest(tmp_path / "tampered.parquet", make_table(rows, SAMPLES), Lineage(step="x", version=1))
    (failed, _) = read_rows(write_folders.fn(tmp_path / "out", Layout(to="csv"), films.root, tampered))
    assert failed["error_code"] == "bad_manifest"
    assert "'../secret.mp4': is outside of" in failed["error_message"]
    assert b"secret" not in [path.read_bytes() for path in (tmp_path / "out").rglob("*.mp4")]


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert write_folders.name == "folders"
    assert STEP.files == ("file", "table")
