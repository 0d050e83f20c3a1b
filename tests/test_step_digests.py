"""Pins of the steps' code: what changes a digest and what does not, and what `make pin` refuses."""

import ast
import re
import shutil
from pathlib import Path

import pytest

from tests import step_digests
from tests.step_digests import Pin, compute_pins, find_problems, read_pins, write_pins

LOOK = "tasks.curate.look"


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """Give the project's steps and models in a folder of their own, to be broken."""
    for package in step_digests.PACKAGES:
        shutil.copytree(
            repository / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    for pins in (repository / "tests").glob("tasks/*/step_digests.json"):
        (tmp_path / pins.relative_to(repository)).parent.mkdir(parents=True)
        shutil.copy(pins, tmp_path / pins.relative_to(repository))
    return tmp_path


def changed_steps(before: dict[str, Pin], folder: Path) -> set[str]:
    return {step for step, pin in compute_pins(folder).items() if pin.digest != before[step].digest}


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text() + f"\n{text}\n")


@pytest.mark.slow
def test_each_steps_code_is_pinned_beside_its_version(repository: Path):
    now, pinned = compute_pins(repository), read_pins(repository)
    assert find_problems(now, pinned) == []
    assert now == pinned, "Run `make pin` and commit the pins of the folder."


@pytest.mark.slow
def test_a_changed_helper_changes_the_digest_of_the_steps_that_reach_it_and_of_no_other(copy: Path):
    before = read_pins(copy)
    replace(copy / "models/measures/flow.py", "def farneback(", "def farneback(unused=None, *")
    changed = changed_steps(before, copy)
    assert "tasks.curate.motion" in changed
    assert not {"tasks.curate.split", "tasks.curate.text", "tasks.tiny.encoders"} & changed


@pytest.mark.slow
def test_a_moved_module_and_a_renamed_function_change_no_digest(copy: Path):
    before = read_pins(copy)
    (copy / "models/measures/flow.py").rename(copy / "models/optical.py")
    for file in [*copy.glob("tasks/**/*.py"), *copy.glob("models/**/*.py")]:
        text = re.sub(r"\bmodels\.measures\.flow\b", "models.optical", file.read_text())
        file.write_text(
            re.sub(
                r"\bfarneback\(", "measure_farneback(", re.sub(r"\bfarneback\b(?=[,\n)])", "measure_farneback", text)
            )
        )
    assert "measure_farneback" in (copy / "models/measures/camera.py").read_text()
    assert changed_steps(before, copy) == set()


@pytest.mark.slow
def test_one_helper_called_in_the_place_of_another_changes_the_digest(copy: Path):
    before = read_pins(copy)
    replace(copy / "tasks/curate/look.py", "float(np.median([sharpness(", "float(np.median([exposure(")
    assert changed_steps(before, copy) == {LOOK}


@pytest.mark.slow
def test_a_changed_step_under_its_old_version_is_named(copy: Path):
    before = read_pins(copy)
    add(copy / "tasks/curate/split.py", "EXTRA = 3")
    version = before["tasks.curate.split"].version
    (said,) = find_problems(compute_pins(copy), before)
    assert said.startswith(f"tasks.curate.split: its code changed and its VERSION is still {version}. Raise it,")
    source = (copy / "tasks/curate/split.py").read_text()
    (copy / "tasks/curate/split.py").write_text(re.sub(r"^VERSION = \d+$", "VERSION = 99", source, flags=re.MULTILINE))
    assert find_problems(compute_pins(copy), before) == []


@pytest.mark.slow
def test_a_change_is_pinned_under_its_old_version_only_where_the_same_results_are_promised(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(step_digests, "__file__", str(copy / "tests/step_digests.py"))
    before = read_pins(copy)
    assert len(before) > 30
    add(copy / "tasks/curate/look.py", "EXTRA = 3")
    add(copy / "tasks/curate/split.py", "EXTRA = 3")
    assert step_digests.main(["--same-results", LOOK]) == 1
    assert "tasks.curate.split" in capsys.readouterr().err
    assert read_pins(copy) == before
    assert step_digests.main(["--same-results", LOOK, "tasks.curate.split"]) == 0
    assert {step for step, pin in read_pins(copy).items() if pin != before[step]} == {LOOK, "tasks.curate.split"}


def test_pins_are_read_as_they_were_written(tmp_path: Path):
    pins = {"tasks.curate.look": Pin(2, "aa"), "tasks.curate.text": Pin(1, "bb"), "tasks.tiny.render": Pin(3, "cc")}
    for folder in ("curate", "tiny"):
        (tmp_path / "tests/tasks" / folder).mkdir(parents=True)
    write_pins(tmp_path, pins)
    assert read_pins(tmp_path) == pins


@pytest.mark.slow
def test_comments_docstrings_layout_and_plumbing_change_no_digest(copy: Path):
    before = read_pins(copy)
    for file in [*copy.glob("tasks/*/*.py"), *copy.glob("models/*.py")]:
        tree = ast.parse(file.read_text())
        if tree.body and ast.get_docstring(tree):
            tree.body[0] = ast.parse('"""Said otherwise."""').body[0]
        file.write_text("# a comment\n" + ast.unparse(tree))
    add(copy / "tasks/manifest.py", "EXTRA = 3")
    assert changed_steps(before, copy) == set()
