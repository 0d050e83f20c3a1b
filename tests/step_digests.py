"""Digests of the code that each step's results depend on, pinned beside its VERSION in step_digests.json.

A step's code is its module and, of the project's modules it imports, the definitions it reaches, function by function.
Comments, docstrings and the descriptions of fields are left out, and so is what only moves bytes about (PLUMBING).
Run as a script, it pins; it refuses to pin code that changed under the same VERSION.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("tasks", "models")
PLUMBING = frozenset({"tasks.manifest", "tasks.caching", "tasks.children", "models.errors"})
PINS = Path("tests/step_digests.json")

Place = tuple[str, str]


class Pin(NamedTuple):
    """What is remembered of one step."""

    version: int
    digest: str


class Module:
    """A module's top-level definitions by name, what it imports, and the statements that simply run."""

    def __init__(self, path: Path) -> None:
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, Place] = {}
        self.loose: list[ast.stmt] = []
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            self._add(statement)

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import):
            self.imports |= {(a.asname or a.name.split(".")[0]): (a.name, "") for a in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            self.imports |= {(a.asname or a.name): (statement.module or "", a.name) for a in statement.names}
        elif names := list(_defined(statement)):
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
        elif not _is_text(statement):
            self.loose.append(statement)

    @cached_property
    def version(self) -> int | None:
        """The value of VERSION, for a step."""
        for statement in self.definitions.get("VERSION", []):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                return value if isinstance(value, int) else None
        return None


class Project:
    """The project's modules, read from their files; nothing is imported."""

    def __init__(self, root: Path) -> None:
        files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
        self.modules = {_module_name(file.relative_to(root)): Module(file) for file in files}
        # Many steps reach the same places.
        self._following = cache(lambda place: frozenset(self._next(place)))
        self._canonical = cache(lambda place: [canonical(statement) for statement in self._code(place)])

    def steps(self) -> list[str]:
        """The modules that have a VERSION, by name."""
        return [name for name, module in self.modules.items() if module.version is not None]

    def pin(self, step: str) -> Pin:
        """The version and the digest of a step as they are now."""
        module = self.modules[step]
        places = {(step, name) for name in module.definitions if name != "VERSION"}
        code = [(place, self._canonical(place)) for place in sorted(self._reached(places))]
        assert module.version is not None
        return Pin(module.version, hashlib.sha256(json.dumps(code).encode()).hexdigest()[:32])

    def _reached(self, places: set[Place]) -> set[Place]:
        reached: set[Place] = set()
        while places:
            reached |= places
            places = {next_place for place in places for next_place in self._following(place)} - reached
        return reached

    def _next(self, place: Place) -> Iterator[Place]:
        module = self.modules[place[0]]
        if place[1]:
            yield place[0], ""
        for statement in self._code(place):
            for node in ast.walk(statement):
                if isinstance(node, ast.Name):
                    yield from self._named(place[0], module, node.id)
                elif isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        yield from self._imported(node.module or "", alias.name)

    def _named(self, own: str, module: Module, name: str) -> Iterator[Place]:
        if name in module.definitions:
            yield own, name
        elif name in module.imports:
            yield from self._imported(*module.imports[name])

    def _imported(self, module: str, name: str) -> Iterator[Place]:
        if f"{module}.{name}" in self.modules:
            module, name = f"{module}.{name}", ""
        if module not in self.modules or module in PLUMBING:
            return
        if name in self.modules[module].definitions:
            yield module, name
        elif name in self.modules[module].imports:
            yield from self._imported(*self.modules[module].imports[name])
        else:
            yield from ((module, each) for each in self.modules[module].definitions)

    def _code(self, place: Place) -> list[ast.stmt]:
        module = self.modules[place[0]]
        return module.definitions[place[1]] if place[1] else module.loose


def canonical(node: Any) -> Any:
    """A syntax tree as lists and strings that are the same in every Python version; without what is only said."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment")]
        return [type(node).__name__, *([n, canonical(v)] for n, v in fields if v is not None and v != [])]
    if isinstance(node, list):
        said = [n for n in node if _is_text(n) or (isinstance(n, ast.keyword) and n.arg == "description")]
        return [canonical(n) for n in node if n not in said]
    return repr(node)


def problems(now: dict[str, Pin], pinned: dict[str, Pin]) -> list[str]:
    """A sentence for each step whose code and VERSION do not go together."""
    changed = [s for s in now if s in pinned and now[s].version == pinned[s].version and now[s] != pinned[s]]
    return [
        f"{s}: its code changed and its VERSION is still {now[s].version}. Raise it, then `make pin`." for s in changed
    ]


def read_pins(root: Path) -> dict[str, Pin]:
    """The pins as they are in the repository."""
    path = root / PINS
    return {name: Pin(**pin) for name, pin in json.loads(path.read_text()).items()} if path.exists() else {}


def current_pins(root: Path) -> dict[str, Pin]:
    """The pins as the code is."""
    project = Project(root)
    return {step: project.pin(step) for step in project.steps()}


def _module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def main() -> int:
    """Pin every step, or say why not."""
    root = Path(__file__).parents[1]
    now = current_pins(root)
    if wrong := problems(now, read_pins(root)):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    (root / PINS).write_text(json.dumps({name: pin._asdict() for name, pin in sorted(now.items())}, indent=2) + "\n")
    print(f"{len(now)} steps are pinned in {PINS}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
