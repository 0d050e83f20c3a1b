"""The documents are held against the code: commands, tables, columns, files, links and figures.

`python -m tests.test_docs` prints the README's rows of figures from models/tiny/eval.json.
"""

import importlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from flows.command.flags import parse_command_line
from flows.command.folders import ReportOutcome
from flows.command.main import COMMANDS, find_command, make_interface
from flows.curate import CurateOutcome
from flows.finetune import FinetuneOutcome
from flows.generate import GenerateOutcome
from flows.running.config import Outcome
from flows.selection import SelectOutcome
from models.errors import BadInput
from models.families.known import FAMILIES
from models.svd.model import FIGURES_FILE
from models.weights.names import TINY
from tasks.curate import ingest, join, select
from tasks.generate import outputs
from tasks.keep_rules import REASONS
from tasks.keep_verdicts import Funnel, ReasonCount
from tasks.manifest import ERROR_FIELDS
from tasks.tiny.figures import BARS
from tests.step_digests import Project

ROOT = Path(__file__).parents[1]

LIMITS = {"README.md": 150, "ARCHITECTURE.md": 150, "CONTRIBUTING.md": 100}

DOCUMENTS = (*LIMITS, "CHANGELOG.md")

TODO = "TODO(models/tiny/eval.json)"
"""Stands in the README until the embedded model was measured."""

ERRORS = {field.name for field in ERROR_FIELDS}


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    """The contents of a document's fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def spoken(text: str) -> list[str]:
    """What stands between backticks in a document's prose."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def typed(text: str) -> list[str]:
    """The command lines of a document's console blocks."""
    lines = "\n".join(blocks(text, "console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def named_commands() -> list[tuple[str, str]]:
    """Every command line that a document shows or mentions, with the document."""
    return [
        (document, line)
        for document in DOCUMENTS
        for line in dict.fromkeys([*typed(read(document)), *spoken(read(document))])
        if line.startswith(("reelmill ", "make "))
    ]


def understood(line: str) -> None:
    """Parse a command line as `reelmill` does, without running it; raises BadInput for a wrong one."""
    name, *arguments = shlex.split(line)[1:]
    if name in ("--help", "COMMAND"):
        return
    command = find_command(name)
    asked = make_interface(command, importlib.import_module(command.module))
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            parse_command_line(asked, arguments)
    elif arguments:
        parse_command_line(asked, arguments)


def mistakes() -> dict[str, str]:
    """The README's commands that are shown for the message they end with, with that message."""
    parts = [
        part for block in blocks(read("README.md"), "console") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)
    ]
    shown = [part.splitlines() for part in parts]
    return {p[0]: p[1].removeprefix("reelmill: ") for p in shown if len(p) == 2 and p[1].startswith("reelmill: ")}


@pytest.mark.parametrize(("document", "line"), named_commands())
def test_every_command_in_the_documents_is_understood(document: str, line: str):
    if line.startswith("make "):
        assert re.search(rf"^{re.escape(line.split()[1])}:", read("Makefile"), re.MULTILINE), f"{document}: {line}"
    elif line not in mistakes():
        understood(line)


def test_the_mistakes_shown_are_answered_as_shown():
    assert mistakes()
    for line, message in mistakes().items():
        with pytest.raises(BadInput) as caught:
            understood(line)
        assert str(caught.value) == message


def test_a_wrong_command_in_a_document_would_be_seen():
    for line in ("reelmill curat a --out b", "reelmill curate a --aut b", "reelmill finetune a --out b --recipe fast"):
        with pytest.raises(BadInput):
            understood(line)


def test_every_command_of_the_makefile_is_understood():
    lines = re.findall(r"^\t\$\(BIN\)/(reelmill .*)$", read("Makefile"), re.MULTILINE)
    assert lines
    for line in lines:
        understood(line.replace("$(STEPS)", "100"))


def test_the_readme_has_a_row_for_every_command_and_for_nothing_else():
    rows = re.findall(r"^\| `reelmill ([a-z]+)[^`]*` \| (.+?) \|$", read("README.md"), re.MULTILINE)
    assert rows == [(command.name, command.help) for command in COMMANDS]


FUNNEL = Funnel(
    clips=1, kept=0, seconds=1, kept_seconds=0, reasons=(ReasonCount(reason="too_short", failing=1, first=1, only=1),)
)

OUTCOMES: dict[str, Outcome] = {
    "curate": CurateOutcome(failed=1, videos=1, funnel=FUNNEL, clips=Path("t"), page=Path("p")),
    "select": SelectOutcome(funnel=FUNNEL, clips=Path("t")),
    "finetune": FinetuneOutcome(weights=Path("w"), log=Path("l")),
    "generate": GenerateOutcome(clips=1, duplicates=0, outputs=Path("t"), page=Path("p")),
    "report": ReportOutcome(page=Path("p")),
}


def shown_outputs() -> list[tuple[str, list[str]]]:
    """The commands of the README whose result is known in form, with the lines shown of it but the log's."""
    found = []
    for block in blocks(read("README.md"), "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *output = part.splitlines()
            words = shlex.split(line)
            if words[0] == "reelmill" and words[1] in OUTCOMES and line not in mistakes():
                found.append((words[1], [each for each in output if not each.startswith("reelmill: ")]))
    return found


def test_the_results_shown_have_the_lines_that_the_commands_print():
    shown = shown_outputs()
    assert {command for command, _ in shown} >= {"curate", "select", "finetune", "generate"}
    for command, lines in shown:
        printed = [line.partition(":")[0] for line in str(OUTCOMES[command]).splitlines()]
        assert [line.partition(":")[0] for line in lines if line] == printed, command


def test_the_reasons_shown_are_reasons_of_select():
    shown = re.findall(r"\d+ (\w+)", " ".join(re.findall(r"^dropped: .*$", read("README.md"), re.MULTILINE)))
    assert shown
    assert set(shown) <= set(REASONS)


def test_the_page_of_families_has_their_rules():
    found = re.findall(r"^\| [^|]+ \| `.*\|$", read("docs/families.md"), re.MULTILINE)
    assert found == [
        f"| {family.NAME} | `{name}` | {', '.join(sorted(inputs.needs))} | {', '.join(sorted(inputs.takes))} | "
        f"{rules.frames_rule} | {rules.size_unit} | {float(rules.fps):g} | "
        f"{rules.frames} of {rules.width}x{rules.height} |"
        for family in FAMILIES
        for rules in [family.RULES]
        for name, inputs in family.PIPELINES.items()
    ]


class Row(NamedTuple):
    """One row of ARCHITECTURE's tables: the step's module, its version, what it is said to need and to add."""

    module: str
    version: int
    needs: list[str]
    adds: list[str]


def tables() -> list[list[Row]]:
    """ARCHITECTURE's tables of steps."""
    pattern = re.compile(r"^\| \[(\w+)\]\((tasks/\w+/\w+)\.py\) \| (\d+) \| (.*?) \| (.*?) \|$")
    found: list[list[Row]] = []
    for line in read("ARCHITECTURE.md").splitlines():
        if re.match(r"^\| \w+ \| version \| needs \| adds \|$", line):
            found.append([])
        elif row := pattern.match(line):
            name, path, version, needs, adds = row.groups()
            assert path.endswith(f"/{name}")
            found[-1].append(Row(path.replace("/", "."), int(version), spoken(needs), spoken(adds)))
    return found


def columns(module: ModuleType) -> list[str]:
    """The columns of a step's manifest, without the error's."""
    return [name for name in module.SCHEMA.names if name not in ERRORS] if hasattr(module, "SCHEMA") else []


def declared_needs(module: ModuleType) -> set[str]:
    """The columns that a step declares to read, of whatever manifest."""
    groups = [getattr(module, name) for name in vars(module) if name.startswith("NEEDS")]
    flat = [part for group in groups for part in (group.values() if isinstance(group, Mapping) else group)]
    return {name for part in flat for name in ([part] if isinstance(part, str) else part)}


def steps(own: list[Row]) -> Mapping[str, ModuleType]:
    """The modules of ARCHITECTURE's steps, by the steps' names; of two that share one, that of the table `own`."""
    rows = [row for table in (*tables(), own) for row in table]
    assert len({row.module for row in own}) == len(own)
    return {row.module.rpartition(".")[2]: importlib.import_module(row.module) for row in rows}


def test_the_architecture_has_every_step_with_its_version():
    written = {row.module: row.version for table in tables() for row in table}
    project = Project(ROOT)
    assert written == {name: project.modules[name].version for name in project.steps()}


def test_the_architecture_has_the_columns_that_each_step_adds():
    for table in tables():
        known: set[str] = set()
        for row in table:
            module = importlib.import_module(row.module)
            assert row.adds == [name for name in columns(module) if name not in known], row.module
            known |= set(columns(module))


def test_the_architecture_has_the_columns_that_each_step_needs():
    for row, modules in ((row, steps(table)) for table in tables() for row in table):
        needs = declared_needs(importlib.import_module(row.module))
        wholes = {name: {*columns(modules[name]), *ERRORS} for name in row.needs if name in modules}
        single = set(row.needs) - set(wholes)
        assert single <= needs, row.module
        assert needs <= single.union(*wholes.values()), row.module
        assert not needs or all(needs & whole for whole in wholes.values()), row.module


def test_the_changelog_has_every_steps_version_as_it_is():
    latest: dict[str, int] = {}
    for name, version in re.findall(r"`(\w+\.\w+)` (\d+)", read("CHANGELOG.md")):
        latest.setdefault(f"tasks.{name}", int(version))
    project = Project(ROOT)
    assert latest == {name: project.modules[name].version for name in project.steps()}


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        ("videos.parquet", join.make_videos_schema(ingest.SCHEMA)),
        ("clips.parquet", [*join.SCHEMA, *select.SCHEMA]),
        ("outputs.parquet", outputs.SCHEMA),
    ],
)
def test_the_changelog_has_every_column_of_the_tables_that_people_open(table: str, schema: Any):
    written = re.search(rf"^- {re.escape(table)}: (.*?)\.$", read("CHANGELOG.md"), re.MULTILINE | re.DOTALL)
    assert written
    assert spoken(written[1]) == [field.name for field in schema]


def mapped() -> Iterator[str]:
    """The paths of the README's file map; indented ones lie in the folder above them."""
    text = read("README.md").partition("## What lies where")[2]
    folder = ""
    for line in blocks(text, "")[0].splitlines():
        names = re.split(r"  +", line.strip())[0].split(", ")
        folder = folder if line.startswith(" ") else names[0] if names[0].endswith("/") else ""
        yield from ((folder if line.startswith(" ") else "") + name for name in names)


def test_the_file_map_names_what_is_there():
    missing = [path for path in mapped() if not (ROOT / path).exists()]
    assert missing == []


def test_the_file_map_leaves_out_no_flow_and_no_folder_of_steps():
    there = [path for path in ROOT.glob("flows/*.py") if path.name != "__init__.py"]
    there += [path.parent for path in ROOT.glob("tasks/*/__init__.py")]
    assert {path.relative_to(ROOT).as_posix() for path in there} <= {path.rstrip("/") for path in mapped()}


def anchors(text: str) -> set[str]:
    """The names of a document's headings, as links use them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document: str):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(document)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            assert not path or (ROOT / path).exists(), f"{document}: {link}"
            assert not anchor or anchor in anchors(read(path or document)), f"{document}: {link}"


@pytest.mark.parametrize(("document", "limit"), LIMITS.items())
def test_a_document_is_short_enough_to_be_read(document: str, limit: int):
    assert len(read(document).splitlines()) <= limit


def figure_rows(found: Mapping[str, Any]) -> list[str]:
    """The README's rows for an evaluation's figures, to one decimal (speeds to two)."""
    rows = [
        f"| {motion} | {facts['right']} of {facts['asked']} "
        f"| {facts['speed_asked']:.2f} | {facts['speed_measured']:.2f} "
        f"| {facts['last_frame_psnr_db']:.1f} | {facts['copy_last_frame_psnr_db']:.1f} |"
        for motion, facts in found["by_motion"].items()
    ]
    return [*(figure_row(found, name, words) for name, words in FIGURE_WORDS.items()), *rows]


FIGURE_WORDS = {
    "first_frame_psnr_db": "first frame, against the picture",
    "last_frame_psnr_db": "last frame of a moving camera",
    "still_psnr_db": "last frame of a still one",
    "obeyed": "motion asked = motion measured",
}


def figure_row(found: Mapping[str, Any], name: str, words: str) -> str:
    """The row of one figure: the model's, the copy's, the oracle's, with movers, and the bar."""

    def say(figure: float | None) -> str:
        if figure is None:
            return ""
        if name.endswith("_db"):
            return "exact" if figure > 100 else f"{figure:.1f} dB"
        return f"{100 * figure:.0f} %"

    told = [found[name], found["copy"][name], found["oracle"][name], found["with_movers"][name], BARS[name]]
    return f"| {words} | {' | '.join(say(figure) for figure in told)} |"


def measured() -> dict[str, Any] | None:
    """The embedded model's figures, if it was measured."""
    path = TINY / FIGURES_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def test_the_readme_has_the_embedded_models_figures_as_they_were_measured():
    section = read("README.md").partition("## The embedded model\n")[2].partition("\n## ")[0]
    found = measured()
    if found is None:
        assert TODO in section, "Measure the embedded model: `make tiny-model`."
    else:
        rows = [line for line in section.splitlines() if re.match(r"^\| .*\d", line)]
        assert rows == figure_rows(found), "Paste the rows that `python -m tests.test_docs` prints."
        assert TODO not in section


if __name__ == "__main__":
    print("\n".join(figure_rows(measured() or {})))
