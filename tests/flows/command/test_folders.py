"""Status and retry of output folders, on folders made by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.command.folders import (
    ResultsConfig,
    count_items_to_retry,
    find_commands,
    list_failed_manifests,
    list_failures,
    out_of_the_cache,
    report,
    restore_set_aside,
    retry,
    status,
)
from flows.command.main import main
from flows.generate import GenerateConfig
from flows.running.given import keep_given
from models.errors import BadInput, BadManifest
from tasks.caching import set_aside
from tasks.ledger import mark
from tasks.manifest import ERROR_FIELDS, Lineage, make_table, publish_text, read_rows, write_manifest

SCHEMA = pa.schema([("source", pa.string()), *ERROR_FIELDS])
FAILED = {"source": "/in/b.mp4", "error_code": "bad_media", "error_message": "/in/b.mp4: cannot be read.", "attempt": 1}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "curate.yaml").write_text("out: x\n")
    for key, rows in (("k1", [{"source": "/in/a.mp4", "attempt": 1}]), ("k2", [FAILED])):
        write_manifest(
            tmp_path / "manifests/scan" / f"{key}.parquet", make_table(rows, SCHEMA), Lineage(step="scan", version=1)
        )
    (tmp_path / "manifests/scan/.k3.parquet.1-0a1b2c3d.parquet").write_bytes(b"half")
    pq.write_table(make_table([{"source": "/in/a.mp4"}, FAILED], SCHEMA), tmp_path / "videos.parquet")
    clips = {"clip_id": ["c1", "c2"], "keep": [True, False], "error": [None, "motion: too short"]}
    pq.write_table(pa.table(clips), tmp_path / "clips.parquet")
    return tmp_path


def test_status_tells_the_steps_the_tables_and_each_failure(dataset: Path):
    outcome = status(ResultsConfig(path=dataset))
    assert outcome.failed == 2
    assert str(outcome).splitlines() == [
        f"{dataset}: curate, idle",
        "  scan       2 manifests, 1 failed rows",
        "clips.parquet: 2 rows, 1 kept",
        "videos.parquet: 2 rows",
        "  c2: motion: too short",
        "  /in/b.mp4: cannot be read.",
    ]


def test_status_counts_a_failure_once_however_often_it_stands_in_the_folder(tmp_path: Path):
    (tmp_path / "generate.yaml").write_text("out: x\n")
    listed = pa.schema([("job", pa.int32()), ("take", pa.int32()), ("status", pa.string()), *ERROR_FIELDS])
    bad = {"job": 1, "status": "failed", "error_code": "bad_input", "error_message": "gone.png: no such file."}
    good = {"job": 0, "take": 0, "status": "ready"}
    night = [("jobs", "a", [good, bad, bad | {"job": 2}]), ("jobs", "b", [good, bad]), ("drawn", "c", [good, bad])]
    for number, (name, key, rows) in enumerate(night):
        path = tmp_path / "manifests" / name / f"{key}.parquet"
        write_manifest(path, make_table(rows, listed), Lineage(step=name, version=1))
        os.utime(path, (number, number))
    failed = [good | bad | {"job": 0, "take": take, "error_message": "a: sampling failed."} for take in (0, 1)]
    pq.write_table(make_table([*failed, bad], listed), tmp_path / "outputs.parquet")
    outcome = status(ResultsConfig(path=tmp_path))
    assert outcome.failed == 3
    assert str(outcome).splitlines()[1:] == [
        "  jobs       2 manifests, 1 failed rows",
        "  drawn      1 manifest",
        "outputs.parquet: 3 rows: 3 failed",
        "  job 0 take 0: a: sampling failed.",
        "  job 0 take 1: a: sampling failed.",
        "  job 1: gone.png: no such file.",
    ]


def test_status_counts_what_was_made_since_no_more(dataset: Path):
    path = dataset / "manifests/scan/k4.parquet"
    made = [{"source": "/in/b.mp4", "attempt": 2}]
    write_manifest(path, make_table(made, SCHEMA), Lineage(step="scan", version=1))
    os.utime(path, (2**31, 2**31))
    assert status(ResultsConfig(path=dataset)).steps == {"scan": "3 manifests"}


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder of generated clips of which some wait."""
    (tmp_path / "generate.yaml").write_text("out: x\n")
    schema = pa.schema([("job", pa.int32()), ("name", pa.string()), ("status", pa.string()), *ERROR_FIELDS])
    faults = {"failed": "c: broken.", "waiting": "d: not made, the time was over.", "duplicate": "e: asks again."}
    rows = [{"name": "a", "status": "ok"}, {"name": "b", "status": "ok"}, {"name": "f", "status": "waiting"}]
    rows += [
        {"name": said[0], "status": state, "error_code": state, "error_message": said} for state, said in faults.items()
    ]
    rows = [row | {"job": number} for number, row in enumerate(rows)]
    rows[2] |= {"error_code": "not_started", "error_message": "f: not made, the time was over."}
    pq.write_table(make_table(rows, schema), tmp_path / "outputs.parquet")
    jobs = Lineage(step="jobs", version=1)
    write_manifest(tmp_path / "manifests/jobs/k.parquet", make_table([rows[3], rows[5]], schema), jobs)
    write_manifest(tmp_path / "manifests/waiting/k.parquet", make_table([rows[2], rows[4]], schema), jobs)
    return tmp_path


def test_what_waits_or_is_there_twice_did_not_fail(night: Path):
    outcome = status(ResultsConfig(path=night))
    assert (outcome.failed, outcome.waiting) == (3, 2)
    assert str(outcome).splitlines()[1:] == [
        "  jobs       1 manifest, 1 failed rows",
        "  waiting    1 manifest",
        "outputs.parquet: 6 rows: 1 duplicate, 1 failed, 2 ok, 2 waiting",
        "2 pending: run the same command to resume",
        "  job 3: c: broken.",
    ]


def test_what_is_taken_up_again_is_counted_in_clips(night: Path):
    assert count_items_to_retry(night, list_failed_manifests(night)) == 3


def test_where_no_clips_were_generated_it_is_counted_in_failed_rows(dataset: Path):
    twice = make_table([FAILED, FAILED | {"source": "/in/c.mp4"}], SCHEMA)
    write_manifest(dataset / "manifests/scan/k4.parquet", twice, Lineage(step="scan", version=1))
    assert count_items_to_retry(dataset, list_failed_manifests(dataset)) == 3


def test_status_of_a_folder_that_was_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "generate.yaml").write_text("")
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: generate, idle\nno table yet: run the same command to resume\n"


HOLD = """
import sys, time
from pathlib import Path
from flows.running.run import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_status_names_the_process_at_work(dataset: Path, repository: Path):
    command = [sys.executable, "-c", HOLD, str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert status(ResultsConfig(path=dataset)).at_work == str(holder.pid)
        holder.kill()
    assert status(ResultsConfig(path=dataset)).at_work is None


def test_a_folder_no_command_wrote_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"not an output folder, it has no settings of a command\. Name one that"):
        status(ResultsConfig(path=tmp_path))
    with pytest.raises(BadInput, match=r"no such folder\. Name one that a command wrote with --out\."):
        status(ResultsConfig(path=tmp_path / "none"))


def test_the_command_that_wrote_last_is_last(dataset: Path):
    (dataset / "finetune.yaml").write_text("")
    assert [command.name for command in find_commands(dataset)] == ["curate", "finetune"]


def test_only_manifests_with_a_failed_row_are_taken_up_again(dataset: Path):
    assert [path.name for path in list_failed_manifests(dataset)] == ["k2.parquet"]


def test_a_table_without_reasons_has_no_failures(tmp_path: Path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    assert list_failures(tmp_path / "t.parquet") == []


def test_there_is_nothing_to_retry_where_nothing_failed(dataset: Path):
    (dataset / "manifests/scan/k2.parquet").unlink()
    assert str(retry(ResultsConfig(path=dataset))) == f"{dataset}: nothing failed."


def test_a_table_or_manifest_cut_short_is_named(dataset: Path):
    for name in ("clips.parquet", "manifests/scan/k1.parquet"):
        whole = (dataset / name).read_bytes()
        (dataset / name).write_bytes(whole[:100])
        with pytest.raises(BadManifest, match=name.rpartition("/")[2]):
            status(ResultsConfig(path=dataset))
        (dataset / name).write_bytes(whole)


def test_a_retry_that_cannot_run_leaves_what_failed_to_be_retried(tmp_path: Path, prefect_server: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_text("no picture")
    out = tmp_path / "out"
    assert main(["generate", str(tmp_path / "in"), "--out", str(out), "--model", "tiny"]) == 1
    (tmp_path / "in").rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(BadInput, match="no such folder or file"):
            retry(ResultsConfig(path=out))
    (tmp_path / "away").rename(tmp_path / "in")
    assert retry(ResultsConfig(path=out)).retried == 1


def test_what_a_killed_retry_had_set_aside_is_still_to_be_retried(night: Path, prefect_server: str):
    for manifest in list_failed_manifests(night):
        set_aside(manifest)
    (night / "generate.yaml").unlink()
    mark(night, "generate", "1")
    publish_text(night / "generate.yaml", "jobs: gone\nout: x\n")
    keep_given(night, "generate", GenerateConfig(jobs=Path("gone"), out=night))
    with pytest.raises(BadInput, match="gone: no such folder or file"):
        retry(ResultsConfig(path=night))


def test_a_retry_after_a_killed_one_knows_what_failed(dataset: Path):
    for manifest in list_failed_manifests(dataset):
        set_aside(manifest)
    with pytest.raises(BadInput, match="SOURCE is missing"):
        retry(ResultsConfig(path=dataset))
    assert list_failed_manifests(dataset) == [dataset / "manifests/scan/k2.parquet"]


def test_what_an_interrupted_retry_set_aside_is_restored_at_once(dataset: Path):
    failed = list_failed_manifests(dataset)
    with pytest.raises(KeyboardInterrupt), out_of_the_cache(failed):
        assert list_failed_manifests(dataset) == []
        raise KeyboardInterrupt
    assert list_failed_manifests(dataset) == failed


@pytest.mark.parametrize("killed", [1, 2])
def test_a_killed_retry_leaves_what_failed_to_the_next(dataset: Path, killed: int):
    k2 = dataset / "manifests/scan/k2.parquet"
    failed = k2.read_bytes()
    for _ in range(killed):
        (aside,) = map(set_aside, list_failed_manifests(dataset))
        assert not k2.exists()
        assert aside.exists()
        restore_set_aside(dataset)
        assert list_failed_manifests(dataset) == [k2]
        assert k2.read_bytes() == failed
        assert not aside.exists()


def test_what_a_retry_made_again_is_not_undone_by_the_next(dataset: Path):
    for attempt in range(11):
        set_aside(dataset / "manifests/scan/k2.parquet")
        rows = [{**FAILED, "attempt": attempt + 2}]
        write_manifest(dataset / "manifests/scan/k2.parquet", make_table(rows, SCHEMA), Lineage(step="scan", version=1))
    restore_set_aside(dataset)
    assert read_rows(dataset / "manifests/scan/k2.parquet")[0]["attempt"] == 12
    set_aside(dataset / "manifests/scan/k2.parquet")
    restore_set_aside(dataset)
    assert read_rows(dataset / "manifests/scan/k2.parquet")[0]["attempt"] == 12
    assert len(list((dataset / "manifests/scan").glob("*.failed"))) == 11


def test_a_retry_from_anywhere_works_where_the_folder_lies_now(tmp_path: Path, monkeypatch, prefect_server: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "in", "--out", "out", "--model", "tiny"]) == 1
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = retry(ResultsConfig(path=Path("../moved")))
    assert (outcome.retried, outcome.failed) == (1, 1)
    assert str(tmp_path / "moved/outputs.parquet") in outcome.result
    assert not (tmp_path / "out").exists()


def test_settings_that_are_not_the_commands_are_named(dataset: Path):
    (dataset / "curate.yaml").write_text("sources: [a]\nout: x\nsplitt: 1\n")
    with pytest.raises(BadInput, match=r"curate.yaml: unknown setting 'splitt'"):
        retry(ResultsConfig(path=dataset))


def test_a_folder_without_a_table_has_no_page(tmp_path: Path):
    with pytest.raises(BadInput, match=r"nothing to show, it has neither clips\.parquet nor outputs\.parquet\."):
        report(ResultsConfig(path=tmp_path))
