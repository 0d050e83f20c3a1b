"""The command line: what it lists, what it loads, what it prints when something is wrong, and its exit codes."""

import dataclasses
import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydantic import BaseModel, Field

from flows.command.flags import list_options
from flows.command.help_table import read_help
from flows.command.main import COMMANDS, Command, asks_for_help, find_command, format_usage, main, make_interface
from flows.command.write_help import describe_command
from flows.running.config import Outcome
from models.errors import BadInput
from tasks.generate.job_settings import COLUMNS
from tasks.media.video import write_video


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def is_one_sentence(text: str) -> bool:
    return text.startswith("reelmill: ") and text.endswith("\n") and text.count("\n") == 1


LOADED = """
import json, os, sys
from flows.command.main import main
main(["--help"])
print(json.dumps([sorted(sys.modules), sum(os.times()[:2])]), file=sys.stderr)
"""


def test_help_lists_every_command_quickly_and_loads_nothing(repository: Path):
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=repository, capture_output=True, text=True, check=True)
    modules, seconds = json.loads(done.stderr)
    assert done.stdout.strip() == format_usage()
    assert all(f"\n  {command.name} " in done.stdout for command in COMMANDS)
    assert not {"torch", "prefect", "pydantic", "pyarrow", "numpy"} & set(modules)
    assert seconds < 0.5


HELPED = """
import json, os, sys
from flows.command.main import main
code = main([sys.argv[1], "--help"])
print(json.dumps([code, sorted(sys.modules), sum(os.times()[:2])]), file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_every_command_takes_less_than_a_second_of_processor_time(command: Command, repository: Path):
    line = [sys.executable, "-c", HELPED, command.name]
    done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=True)
    code, modules, seconds = json.loads(done.stderr)
    assert code == 0
    assert done.stdout.startswith(f"usage: reelmill {command.name}")
    assert not {"torch", "prefect", "pydantic", "pyarrow", "numpy", command.module} & set(modules)
    assert seconds < 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_table_of_help_is_what_the_config_class_says(command: Command):
    assert read_help(command.name).strip() == describe_command(command).strip(), "Run `make help-table`."


def test_a_value_after_two_dashes_asks_for_no_help():
    assert asks_for_help(["a", "--out", "b", "-h"])
    assert not asks_for_help(["--out", "b", "--", "-h"])


def test_no_command_prints_the_usage_and_could_not_run(capsys: pytest.CaptureFixture[str]):
    assert said(capsys) == (2, format_usage() + "\n", "")


def test_an_unknown_command_names_the_near_one(capsys: pytest.CaptureFixture[str]):
    code, _, error = said(capsys, "crate")
    assert (code, error) == (2, "reelmill: Unknown command crate: did you mean curate? See `reelmill --help`.\n")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_the_table_names_is_there_and_its_help_lists_every_setting(
    command: Command, capsys: pytest.CaptureFixture[str]
):
    module = importlib.import_module(command.module)
    shown = make_interface(command, module)
    assert callable(getattr(module, command.flow))
    assert set(command.shortcuts) <= set(list_options(shown.config))
    assert command.plan is None or callable(getattr(module, command.plan))
    code, out, _ = said(capsys, command.name, "--help")
    assert code == 0
    for name in list_options(shown.config):
        flag = f"--{name.replace('_', '-')}"
        assert flag in out or name == command.positional, flag
    assert out.startswith(f"usage: reelmill {command.name}")


def test_generates_help_names_the_columns_of_a_table_of_jobs(capsys: pytest.CaptureFixture[str]):
    _, out, _ = said(capsys, "generate", "--help")
    about = out.partition("positional arguments:")[0]
    assert set(COLUMNS) <= set(re.findall(r"\w+", about))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_setting_is_described(command: Command):
    config = make_interface(command, importlib.import_module(command.module)).config
    assert [name for name, field in config.model_fields.items() if not field.description] == []


def test_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str):
    code, out, error = said(capsys, "curate", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert is_one_sentence(error)
    assert f"{tmp_path}/none: no such file or folder" in error


def test_an_empty_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str):
    (tmp_path / "empty").mkdir()
    code, out, error = said(capsys, "curate", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert is_one_sentence(error)
    assert "no video in this folder" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split.tresh", "3"], "Unknown option --split.tresh: did you mean --split.threshold?"),
        (["--split.threshold", "soon"], "--split.threshold: input should be a valid number"),
        (["--scan.frames-per-s", "0"], "--scan.frames-per-s: input should be greater than 0"),
        (["--split.max-clip-s", "0.5"], "--split: max_clip_s (0.5) is below min_clip_s (1.0).\n"),
        (["--preset", "paper-ofline"], "Unknown preset 'paper-ofline': did you mean paper-offline?"),
        (["--config", "missing.yaml"], "missing.yaml: the config file cannot be read"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, error = said(capsys, "curate", "a", "--out", str(tmp_path / "out"), *arguments)
    assert (code, out) == (2, "")
    assert is_one_sentence(error)
    assert says in error
    assert not (tmp_path / "out").exists()


def test_a_typo_in_a_config_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "my.yaml"
    file.write_text("select: {max_text_aria: 0.1}")
    code, _, error = said(capsys, "curate", "a", "--out", str(tmp_path / "out"), "--config", str(file))
    assert code == 2
    assert error == f"reelmill: {file}: unknown setting 'select.max_text_aria': did you mean 'select.max_text_area'?\n"


def test_a_dry_run_prints_settings_that_a_config_file_may_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8)
    flags = ("--out", str(tmp_path / "b"), "--split.max-clip-s", "4", "--dry-run")
    code, first, _ = said(capsys, "curate", str(tmp_path / "a.mp4"), *flags)
    (tmp_path / "again.yaml").write_text(first)
    assert (code, first) == (0, said(capsys, "curate", "--config", str(tmp_path / "again.yaml"), "--dry-run")[1])
    assert "max_clip_s: 4.0" in first


NOWHERE = (
    ("curate", "{}/none", "--out", "{}/out"),
    ("select", "{}/none"),
    ("export", "{}/none", "--out", "{}/out"),
    ("finetune", "{}/none", "--out", "{}/out"),
    ("generate", "{}/none", "--out", "{}/out"),
    ("generate", "{}/none", "--out", "{}/out", "--watch"),
    ("reproduce", "{}/none.mp4"),
    ("calibrate", "{}/none", "--out", "{}/out"),
    ("evaluate", "{}/none", "--out", "{}/out"),
    ("tiny", "--out", "{}/file/out"),
    ("pipeline", "{}/none", "--jobs", "{}/none", "--out", "{}/out"),
    ("pipeline", "{}/none", "--jobs", "{}/file", "--out", "{}/out"),
    ("demo", "--out", "{}/file/out"),
    ("demo", "--out", "{}"),
    ("status", "{}/none"),
    ("check", "{}/none"),
    ("retry", "{}/none"),
    ("report", "{}/none"),
    ("lineage", "{}/none"),
    ("up", "--folder", "{}/none"),
    ("down", "--home", "{}/file"),
    ("doctor", "--home", "{}/file"),
)
"""Command lines that are refused, at least one of each command."""


def test_every_command_is_refused_somewhere():
    assert {line[0] for line in NOWHERE} == {command.name for command in COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize("line", NOWHERE, ids=" ".join)
def test_a_dry_run_refuses_what_the_run_refuses_and_neither_leaves_a_folder(
    line: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    (tmp_path / "file").write_text("a bear")
    arguments = [part.format(tmp_path) for part in line]
    rehearsed = said(capsys, *arguments, "--dry-run")
    assert rehearsed == said(capsys, *arguments)
    code, out, error = rehearsed
    assert (code, out) == (2, "")
    assert is_one_sentence(error)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_dry_run_names_a_presets_missing_models_as_the_run_does(
    tmp_path: Path, hub_cache: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    (tmp_path / "a.mp4").touch()
    line = ("curate", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out"), "--preset", "svd")
    line = (*line, "--weights", str(tmp_path / "weights"))
    code, out, error = rehearsed = said(capsys, *line, "--dry-run")
    assert (code, out) == (2, "")
    assert "similarity.clip_model: openai/clip-vit-large-patch14@" in error
    assert rehearsed == said(capsys, *line)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_names_the_listed_sources_that_would_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8)
    (tmp_path / "b.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\nlost.mp4\n")
    code, out, error = said(capsys, "curate", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), "--dry-run")
    assert (code, error) == (1, "")
    empty, lost = re.findall(r"^# would fail: (.*)$", out, re.MULTILINE)
    assert empty.startswith(f"{tmp_path}/b.mp4: ")
    assert lost.startswith(f"{tmp_path}/lost.mp4: no such file or folder.")
    (tmp_path / "again.yaml").write_text(out)
    assert said(capsys, "curate", "--config", str(tmp_path / "again.yaml"), "--dry-run") == (code, out, error)


@pytest.mark.slow
def test_a_run_that_is_refused_once_its_jobs_are_read_leaves_no_folder(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], prefect_server: str
):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    line = ("generate", str(tmp_path / "a.png"), "--out", str(tmp_path / "x" / "out"), "--model", model)
    line = (*line, "--keep-free-mb", "1000000000000")
    code, out, error = said(capsys, *line)
    assert (code, out) == (2, "")
    assert "MB are left" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert said(capsys, *line, "--dry-run")[:2] == (2, "")


@pytest.mark.parametrize(
    ("arguments", "redirected", "code"), [("curate --help", "", 0), ("", "", 2), ("status /nowhere", "2>&1 >&-", 2)]
)
def test_a_reader_that_goes_away_ends_the_output_quietly(arguments: str, redirected: str, code: int, repository: Path):
    # The reader is gone before anything is written.
    command = f"{sys.executable} -m flows.command.main {arguments} {redirected}"
    line = f"(sleep 1; exec {command}) | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_elsewhere_than_on_linux_one_sentence_is_said_and_nothing_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "platform", "win32")
    code, out, error = said(capsys, "curate", "a", "--out", "b")
    assert (code, out) == (2, "")
    assert error == (
        "reelmill: Reelmill runs on Linux, and on Windows in WSL2 (`wsl --install`), but not on win32. Run it there, "
        "or in a Linux container.\n"
    )


UNWRITTEN = "cannot be written ({}). Once it can, run the same command to resume."


class FakeConfig(BaseModel):
    """Settings of a command that does what it is told."""

    does: str = Field(default="", description="What happens.")


class FakeOutcome(Outcome):
    """What the command made."""

    made: int = 3


def fake(config: FakeConfig) -> FakeOutcome:
    if config.does == "interrupt":
        raise KeyboardInterrupt
    if config.does == "error":
        raise BadInput("film.mp4: too long. Cut it.")
    if config.does == "bug":
        raise ZeroDivisionError("division by zero")
    if config.does == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/clips.parquet")
    if config.does == "sealed":
        raise OSError(errno.EROFS, "Error writing bytes to file")
    return FakeOutcome(failed=int(config.does or 0))


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flows.fake")
    vars(module).update(fake=fake, FakeConfig=FakeConfig)
    monkeypatch.setitem(sys.modules, "flows.fake", module)
    command = Command("fake", "flows.fake", "fake", "FakeConfig", "does as told", positional="does", watched=False)
    monkeypatch.setattr("flows.command.main.COMMANDS", (*COMMANDS, command))


@pytest.mark.usefixtures("fake_command")
@pytest.mark.parametrize(
    ("does", "code", "out", "error"),
    [
        ("", 0, "made: 3\n", ""),
        ("2", 1, "failed: 2\nmade: 3\n", ""),
        ("error", 2, "", "reelmill: film.mp4: too long. Cut it.\n"),
        ("bug", 2, "", "reelmill: unexpected ZeroDivisionError: division by zero. Run with --debug for more.\n"),
        ("full", 2, "", f"reelmill: out/clips.parquet: {UNWRITTEN.format('no space left on device')}\n"),
        ("sealed", 2, "", f"reelmill: the output: {UNWRITTEN.format('read-only file system')}\n"),
        ("interrupt", 130, "", "reelmill: stopped. Run the same command to resume.\n"),
    ],
)
def test_the_exit_code_says_how_it_ended(
    does: str, code: int, out: str, error: str, capsys: pytest.CaptureFixture[str]
):
    assert said(capsys, "fake", *([does] if does else [])) == (code, out, error)


@pytest.mark.usefixtures("fake_command")
def test_debug_shows_the_traceback():
    with pytest.raises(ZeroDivisionError):
        main(["fake", "bug", "--debug"])


@pytest.mark.usefixtures("fake_command")
def test_a_command_is_found_by_its_name():
    assert find_command("fake").module == "flows.fake"
    assert dataclasses.replace(find_command("fake"), name="x").name == "x"


def test_a_run_stopped_by_the_keyboard_says_that_it_can_go_on(tmp_path: Path, repository: Path, prefect_server: str):
    from tasks.footage import Camera, Scene, render_shot
    from tasks.media.video import write_video

    for seed in range(6):
        write_video(tmp_path / "in" / f"{seed}.mp4", render_shot(Scene(seed), Camera(), 24, 12.0, (96, 64)), 12.0)
    command = [
        sys.executable,
        "-m",
        "flows.command.main",
        "curate",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 90
        while not (tmp_path / "out" / "curate.yaml").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.endswith("reelmill: stopped. Run the same command to resume.\n")
    assert "Traceback" not in error
