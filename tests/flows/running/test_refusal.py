"""What a run is refused for before it starts, and that a refused one leaves no folder."""

from pathlib import Path

import pytest

from flows.running.config import FlowConfig
from flows.running.lock import exclusive
from flows.running.refusal import check_start, leave_nothing
from models.errors import BadInput, BadModel


class Config(FlowConfig):
    out: Path


def refuse(folder: Path, *files: str) -> None:
    with leave_nothing(folder):
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        raise BadModel("no such model")


@pytest.mark.parametrize("files", [(), ("a.yaml", ".lock"), ("manifests/jobs/k.parquet", "pictures/p.png", "a.yaml")])
def test_a_folder_that_only_a_refused_run_made_goes_with_those_above_it(tmp_path: Path, files: tuple[str, ...]):
    with pytest.raises(BadModel):
        refuse(tmp_path / "new" / "out", *files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["manifests/sample/k.parquet", "latents/k.safetensors", "notes.txt"])
def test_work_that_was_done_stays(tmp_path: Path, file: str):
    with pytest.raises(BadModel):
        refuse(tmp_path / "out", "a.yaml", file)
    assert (tmp_path / "out" / file).exists()
    assert (tmp_path / "out" / "a.yaml").exists()


def test_a_folder_that_was_there_stays_as_it_is(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.yaml").touch()
    with pytest.raises(BadModel):
        refuse(tmp_path / "out", "a.yaml")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.yaml", "b.yaml"]


def test_what_is_beside_a_refused_runs_folder_stays(tmp_path: Path):
    with pytest.raises(BadModel), leave_nothing(tmp_path / "new" / "out"):
        (tmp_path / "new" / "out").mkdir(parents=True)
        (tmp_path / "new" / "other").touch()
        raise BadModel("no such model")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


def test_an_error_that_is_no_refusal_leaves_all_for_a_look(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), leave_nothing(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        raise ZeroDivisionError
    assert (tmp_path / "out").exists()


def test_a_run_may_start_in_a_new_folder_and_in_an_old_one(tmp_path: Path):
    for out in (tmp_path, tmp_path / "new" / "out"):
        check_start(Config(out=out), "curate")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_of_others_is_refused_only_where_the_command_writes_into_it(tmp_path: Path):
    (tmp_path / "mine").touch()
    with pytest.raises(BadInput, match="did not write, such as mine"):
        check_start(Config(out=tmp_path), "curate")
    check_start(Config(out=tmp_path), None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/out: the output folder cannot be created \(Not a directory\)\. Choose"):
        check_start(Config(out=tmp_path / "file" / "out"), "curate")


def test_a_folder_in_which_another_run_works_is_refused_as_that_run_would_refuse_it(tmp_path: Path):
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold() -> None:
        with exclusive(tmp_path):
            ready.set()
            done.wait(60)

    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(60)
    try:
        with pytest.raises(BadInput) as dry:
            check_start(Config(out=tmp_path), "curate")
        with pytest.raises(BadInput) as real, exclusive(tmp_path):
            raise AssertionError
    finally:
        done.set()
        holder.join()
    assert str(dry.value) == str(real.value)
    assert f"another run (process {holder.pid}) is working" in str(dry.value)


def test_a_runner_that_is_not_installed_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"--runner ray needs a package that is not installed"):
        check_start(Config(out=tmp_path, runner="ray"), "curate")
