"""The rules of the house: who imports whom, what is pinned, what the lock and the commands say."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from tests.step_digests import PLUMBING, Project

PACKAGES = ("flows", "tasks", "models")


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """The project's code in a folder of its own, to be broken."""
    for package in PACKAGES:
        shutil.copytree(
            repository / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    shutil.copy(repository / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> tuple[int, str]:
    """The exit code and the output of the import rule's check."""
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text() + f"\n{text}\n")


def test_the_import_rule_holds(copy: Path):
    code, output = lint_imports(copy)
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("models/svd/edm.py", "import prefect", "models know nothing of Prefect or Parquet"),
        ("models/svd/edm.py", "import pyarrow.parquet", "models know nothing of Prefect or Parquet"),
        ("models/svd/edm.py", "from tasks.manifest import publish", "flows -> tasks -> models"),
        ("models/svd/edm.py", "from models.memory import plan", "models: eight rooms in one direction"),
        ("models/weights/files.py", "from models.families import svd", "models: eight rooms in one direction"),
        ("models/svd/edm.py", "from models.svd import sampling", "no circle of files or of folders"),
        ("tasks/curate/motion.py", "from tasks.curate.split import SCHEMA as s", "curate: steps on top"),
        ("tasks/curate/clip_cutting.py", "from tasks.curate import clips", "curate: steps on top"),
        ("tasks/generate/job_batches.py", "from tasks.generate import sample", "generate: steps on top"),
        ("tasks/finetune/train_examples.py", "from tasks.finetune import encode", "finetune: steps on top"),
        ("tasks/export/shards.py", "from tasks.export import samples", "none imports another"),
        ("tasks/curate/motion.py", "import tasks.generate.decode", "the folders of steps know nothing of one another"),
        ("tasks/manifest.py", "from tasks.caching import Step", "steps -> what they share"),
        ("tasks/media/video.py", "from tasks.curate.scan import STEP", "steps -> what they share"),
        ("tasks/caching.py", "import flows.running.config", "flows -> tasks -> models"),
    ],
)
def test_an_import_against_the_rule_turns_the_check_red(copy: Path, file: str, line: str, broken: str):
    add(copy / file, line)
    code, output = lint_imports(copy)
    assert code == 1
    assert any(broken in shown and shown.endswith("BROKEN") for shown in output.splitlines()), output


@pytest.mark.slow
def test_every_step_has_a_version_and_a_schema_and_every_module_a_docstring(repository: Path):
    project = Project(repository)
    tasks = [name for name, module in project.modules.items() if "STEP" in module.definitions]
    assert [name for name in tasks if project.modules[name].version is None] == []
    for file in [f for package in PACKAGES for f in (repository / package).rglob("*.py") if f.read_text().strip()]:
        assert ast.get_docstring(ast.parse(file.read_text())), file
    assert set(project.modules) >= PLUMBING


def test_no_file_is_longer_than_a_person_reads_at_once(repository: Path):
    long = [
        f for package in PACKAGES for f in (repository / package).rglob("*.py") if len(f.read_text().splitlines()) > 400
    ]
    assert long == []


PLATFORM = {
    "fcntl": {"flows/running/lock.py"},
    "msvcrt": set(),
    "multiprocessing": {"tasks/child_process.py"},
    "resource": {"tasks/child_process.py"},
    "subprocess": {"tasks/child_process.py", "tasks/services.py"},
}
"""The modules that differ between platforms, each with the files that may import it."""


def imported(file: Path) -> set[str]:
    """The packages that a file imports anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in whole | parts}


def test_what_differs_between_platforms_is_one_files_work(repository: Path):
    files = {
        f.relative_to(repository).as_posix(): f for package in PACKAGES for f in (repository / package).rglob("*.py")
    }
    users = {name: {path for path, file in files.items() if name in imported(file)} for name in PLATFORM}
    assert users["fcntl"]
    assert users["multiprocessing"]
    assert {name: sorted(found - PLATFORM[name]) for name, found in users.items() if found - PLATFORM[name]} == {}


def test_devices_and_the_systems_figures_are_known_in_one_file(repository: Path):
    texts = {
        f.relative_to(repository).as_posix(): f.read_text()
        for package in PACKAGES
        for f in (repository / package).rglob("*.py")
    }
    assert {path for path, text in texts.items() if "/proc/" in text} == {
        "models/device.py",
        "tasks/child_process.py",
        "tasks/services.py",
    }
    asks = re.compile(r"torch\.cuda\.(is_available|device_count)|torch\.(backends\.)?mps\b")
    assert {path for path, text in texts.items() if asks.search(text)} == {"models/device.py"}
    kills = re.compile(r"os\.kill|SIGKILL")
    assert {path for path, text in texts.items() if kills.search(text)} == {
        "tasks/child_process.py",
        "tasks/services.py",
    }


def test_there_is_no_drawer_for_odds_and_ends(repository: Path):
    names = {f.stem for package in PACKAGES for f in (repository / package).rglob("*.py")}
    assert not {"utils", "common", "core", "base", "helpers", "misc"} & names


@pytest.mark.slow
def test_no_flow_file_is_named_like_a_package(repository: Path):
    flows = {file.stem for file in (repository / "flows").glob("*.py")} - {"__init__"}
    assert not flows & (set(sys.stdlib_module_names) | set(packages_distributions()))


def test_the_lock_names_versions_and_hashes_and_no_address(repository: Path):
    lock = (repository / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    pins = re.findall(r"^([a-z0-9._-]+)==\S+", lock, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(pins) == len(entries) > 100
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "opencv-python" not in pins
    assert "opencv-python-headless" in pins


def test_every_dependency_is_declared_once_and_in_the_lock(repository: Path):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lock = (repository / "requirements.lock").read_text()
    names = [re.split(r"[\[<>=;, ]", requirement)[0].lower() for requirement in declared]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE), name


def test_ci_runs_the_commands_of_a_contributor(repository: Path):
    script = (repository / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert [line for line in script.splitlines() if line.startswith("make ")] == [
        "make install",
        "make check",
        'make test | tee "$log"',
    ]
    assert (repository / ".ci/run").stat().st_mode & 0o111


def test_every_deployment_names_a_flow_its_parameters_fit_and_no_active_schedule(repository: Path):
    from prefect.flows import load_flow_from_entrypoint

    deployments = yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]
    for deployment in deployments:
        path, name = deployment["entrypoint"].split(":")
        loaded = load_flow_from_entrypoint(f"{repository / path}:{name}", use_placeholder_flow=False)
        loaded.validate_parameters(json.loads(json.dumps(deployment["parameters"])))
        assert not any(schedule["active"] for schedule in deployment.get("schedules", []))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_the_commands_in_the_documents_exist(document: str, repository: Path):
    from flows.command.main import COMMANDS

    text = (repository / document).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    spoken = re.findall(r"`([^`\n]+)`", text)
    lines = [line.strip().removeprefix("$ ") for line in [*blocks.splitlines(), *spoken]]
    commands = {line.split()[1] for line in lines if re.match(r"reelmill [a-z]", line)}
    targets = {line.split()[1] for line in lines if re.match(r"make [a-z]", line)}
    makefile = (repository / "Makefile").read_text()
    assert commands <= {command.name for command in COMMANDS}
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
