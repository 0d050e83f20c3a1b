"""Digests of the code that each step's results depend on, pinned beside its VERSION in step_digests.json of the folder
of its tests.

A step's code is its module and, of the project's modules it imports, the definitions it reaches, function by function.
No name of a module, a function or a class is in a digest: where a definition is used, the digest of its content
replaces its name, so that moving and renaming change nothing. Comments, docstrings and the descriptions of fields are
left out, and so is code that only moves bytes (PLUMBING).

Run as a script, it pins. It refuses code that changed under the same VERSION, unless `--same-results` names the step.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("tasks", "models")
PLUMBING = frozenset(
    {"tasks.ledger", "tasks.manifest", "tasks.caching", "tasks.child_process", "tasks.limits", "models.errors"}
)
PINS = "step_digests.json"

ROUNDS = 2
"""How many definitions deep the digest of a definition covers what it uses; the step's digest covers what is deeper."""

Place = tuple[str, str]


class Pin(NamedTuple):
    """The pinned version and digest of one step."""

    version: int
    digest: str


class Module:
    """A module's top-level definitions by name, what it imports, and its other statements."""

    def __init__(self, path: Path) -> None:
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, Place] = {}
        self.loose: list[ast.stmt] = []
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            self._add(statement)

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports |= _read_imports(statement)
        elif names := list(_find_defined(statement)):
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
        elif not _is_text(statement):
            self.loose.append(statement)

    def code(self, name: str) -> list[ast.stmt]:
        """Return the statements of a definition, or with "" the module's other statements."""
        return self.definitions[name] if name else self.loose

    @cached_property
    def version(self) -> int | None:
        """Return the value of VERSION; None for a module that is not a step."""
        for statement in self.definitions.get("VERSION", []):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                return value if isinstance(value, int) else None
        return None


class Project:
    """The project's modules, read from their files; nothing is imported."""

    def __init__(self, root: Path) -> None:
        files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
        self.modules = {_name_module(file.relative_to(root)): Module(file) for file in files}
        # Many steps reach the same places.
        self._shape = cache(self._shape_of)
        self._digest = cache(self._digest_of)

    def steps(self) -> list[str]:
        """Return the modules that have a VERSION, by name."""
        return [name for name, module in self.modules.items() if module.version is not None]

    def pin(self, step: str) -> Pin:
        """Return the version and the digest of a step as they are now."""
        module = self.modules[step]
        assert module.version is not None
        reached = self._reached({(step, name) for name in module.definitions if name != "VERSION"})
        digests = sorted(self._digest(place, ROUNDS) for place in reached if self.modules[place[0]].code(place[1]))
        return Pin(module.version, _hash(digests))

    def _reached(self, places: set[Place]) -> set[Place]:
        reached: set[Place] = set()
        while places:
            reached |= places
            used = {use for place in places for use in self._shape(place).uses}
            places = (used | {(module, "") for module, _ in places}) - reached
        return reached

    def _digest_of(self, place: Place, rounds: int) -> str:
        """Return the digest of a definition, in which definitions it uses count by their content, `rounds` deep."""
        shape = self._shape(place)
        return _hash([shape.text, *(self._digest(use, rounds - 1) for use in shape.uses if rounds)])

    def _shape_of(self, place: Place) -> "Shape":
        module = self.modules[place[0]]
        code = module.code(place[1])
        inner = [node for statement in code for node in ast.walk(statement) if isinstance(node, ast.ImportFrom)]
        imports = module.imports | {name: origin for node in inner for name, origin in _read_imports(node).items()}
        reader = _ShapeReader(lambda name: self._origin(place[0], imports, name))
        return Shape(json.dumps([reader.read(statement, outermost=True) for statement in code]), tuple(reader.uses))

    def _origin(self, own: str, imports: Mapping[str, Place], name: str) -> Place | None:
        """Return the place that a name in the module `own` refers to; a module of the project is (its name, "")."""
        if name in self.modules[own].definitions:
            return own, name
        head, _, attribute = name.partition(".")
        if head not in imports:
            return None
        module, imported = imports[head]
        inside = f"{module}.{imported}" if imported else module
        if inside in self.modules:
            return self._origin(inside, {}, attribute) or self._passed_on(inside, attribute)
        return None if attribute or module not in self.modules else self._passed_on(module, imported)

    def _passed_on(self, module: str, name: str) -> Place | None:
        return self._origin(module, self.modules[module].imports, name) if name else None


class Shape(NamedTuple):
    """A definition without names of the project: its syntax tree as text, and what it uses, in order."""

    text: str
    uses: tuple[Place, ...]


class _ShapeReader:
    """A reader of syntax trees as lists and strings, equal in every Python version, without docstrings."""

    def __init__(self, origin: Callable[[str], Place | None]) -> None:
        self._origin = origin
        self.uses: list[Place] = []

    def read(self, node: Any, outermost: bool = False) -> Any:
        """Return the tree below a node; the outermost definition has no name."""
        if isinstance(node, list):
            return [self.read(n) for n in node if not _is_said(n)]
        if not isinstance(node, ast.AST):
            return repr(node)
        if (place := self._origin(_format_dotted(node))) is not None:
            return self._use(place)
        left_out = {"kind", "type_comment", *(["name"] if outermost and hasattr(node, "name") else [])}
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in left_out]
        return [type(node).__name__, *([n, self.read(v)] for n, v in fields if v is not None and v != [])]

    def _use(self, place: Place) -> list[str]:
        if place[0] in PLUMBING:
            return ["plumbing", place[1]]
        self.uses.append(place)
        return ["used"]


def _format_dotted(node: ast.AST) -> str:
    """Return `name` or `name.attribute` where a node is one of these, else ""."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_said(node: Any) -> bool:
    """Say whether a part of a list changes nothing: a docstring, a description, an import from the project itself."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in PACKAGES
    return _is_text(node) or (isinstance(node, ast.keyword) and node.arg == "description")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def find_problems(now: Mapping[str, Pin], pinned: Mapping[str, Pin]) -> list[str]:
    """Return a sentence for each step whose code changed while its VERSION did not."""
    changed = [s for s in now if s in pinned and now[s].version == pinned[s].version and now[s] != pinned[s]]
    return [
        f"{s}: its code changed and its VERSION is still {now[s].version}. Raise it, then `make pin`; or, where its "
        f"results are the same as before, `make pin SAME={s}`."
        for s in changed
    ]


def read_pins(root: Path) -> dict[str, Pin]:
    """Return the pins that are in the repository."""
    files = sorted((root / "tests").glob(f"tasks/*/{PINS}"))
    return {
        f"tasks.{file.parent.name}.{step}": Pin(**pin)
        for file in files
        for step, pin in json.loads(file.read_text()).items()
    }


def write_pins(root: Path, pins: Mapping[str, Pin]) -> None:
    """Write the pins, a file for each folder of steps."""
    for folder in sorted({step.split(".")[1] for step in pins}):
        own = {step.split(".")[2]: pin._asdict() for step, pin in sorted(pins.items()) if step.split(".")[1] == folder}
        (root / "tests/tasks" / folder / PINS).write_text(json.dumps(own, indent=2) + "\n")


def compute_pins(root: Path) -> dict[str, Pin]:
    """Return the pins of the code as it is now."""
    project = Project(root)
    return {step: project.pin(step) for step in project.steps()}


def _name_module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _read_imports(statement: ast.Import | ast.ImportFrom) -> dict[str, Place]:
    if isinstance(statement, ast.Import):
        return {(a.asname or a.name.split(".")[0]): (a.name, "") for a in statement.names}
    return {(a.asname or a.name): (statement.module or "", a.name) for a in statement.names}


def _find_defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pin every step, or say why not."""
    parser = argparse.ArgumentParser(description="Pin the code of every step beside its VERSION.")
    parser.add_argument(
        "--same-results", nargs="*", default=[], metavar="STEP", help="steps whose results did not change"
    )
    same = set(parser.parse_args(arguments).same_results)
    root = Path(__file__).parents[1]
    now, pinned = compute_pins(root), read_pins(root)
    if wrong := find_problems({step: pin for step, pin in now.items() if step not in same}, pinned):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    write_pins(root, now)
    print(f"{len(now)} steps are pinned.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
