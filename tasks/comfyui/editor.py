"""The files of ComfyUI's editor: nodes as they are drawn, with what only routes or decorates taken out.

Subgraphs are opened, and connections are followed through their borders, through reroutes, Set and Get nodes and
bypassed nodes, by type as the editor does it. What a primitive node says goes before the widget that it is connected
to, whose own value is stale. Muted nodes are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.comfyui.nodes import (
    MOST_INPUTS,
    MOST_LEVELS,
    MOST_NODES,
    MOST_ROUTES,
    SEED_CONTROLS,
    Graph,
    Link,
    Node,
    TooLarge,
    find_constant,
)

MUTED, BYPASSED = 2, 4

INNER, OUTER = -10, -20
"""The ids that a subgraph's own links have for its inputs and its outputs."""

COMMENTS = ("Note", "MarkdownNote")

SETTERS, GETTERS = ("SetNode", "easy setNode"), ("GetNode", "easy getNode")

Widgets = Mapping[str, tuple[str, ...]]
"""The names of the widgets of nodes by their classes, in the editor's order."""


@dataclass(frozen=True)
class Drawn:
    """A node as the editor has it, whose id and links are those of the whole file; `outputs` are the links that end at
    the outputs of the subgraph that it stands for, by number; None for another node."""

    id: str
    kind: str
    bypassed: bool
    entries: Sequence[Mapping[str, Any]]
    types: Sequence[str]
    values: Any
    links: Mapping[int, Link]
    outputs: Mapping[int, Link] | None = None

    def link(self, entry: Mapping[str, Any]) -> Link | None:
        """Return where one of its inputs comes from."""
        return self.links.get(entry.get("link")) if entry.get("link") is not None else None  # pyright: ignore[reportArgumentType]


def read_editor(content: Mapping[str, Any], widgets: Widgets) -> Graph:
    """Return the nodes of an editor's file that do something; the values of those in `widgets` have names."""
    groups = {str(each["id"]): each for each in (content.get("definitions") or {}).get("subgraphs") or ()}
    drawn: dict[str, Drawn] = {}
    for node in _open(content, groups, ""):
        drawn[node.id] = node
        if len(drawn) > MOST_NODES:
            raise TooLarge(f"more than {MOST_NODES} nodes in its subgraphs")
    routes = _Routes(drawn, widgets)
    kept = (node for node in drawn.values() if node.kind not in COMMENTS and not routes.passes(node))
    return {node.id: Node(node.id, node.kind, _read_inputs(node, widgets, routes)) for node in kept}


def check_size(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise TooLarge for more nodes or inputs than any workflow has."""
    inputs = sum(len(node.get("inputs") or ()) for node in nodes)
    if len(nodes) > MOST_NODES or inputs > MOST_INPUTS:
        raise TooLarge(f"{len(nodes)} nodes and {inputs} inputs")


def _open(graph: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]], prefix: str) -> Iterator[Drawn]:
    """Yield the nodes of a graph and of the subgraphs in it, whose ids begin with those of the nodes they stand for."""
    if prefix.count(":") > MOST_LEVELS:
        raise TooLarge(f"subgraphs more than {MOST_LEVELS} deep")
    nodes = graph.get("nodes") or ()
    check_size(nodes)
    links, _ = _read_links(graph, prefix)
    for node in nodes:
        if node.get("mode") == MUTED:
            continue
        own, kind, outputs = f"{prefix}{node['id']}", str(node["type"]), None
        bypassed = node.get("mode") == BYPASSED
        if kind in groups:
            inside, kind = groups[kind], f"subgraph {groups[kind].get('name')!r}"
            if not bypassed:
                yield from _open(inside, groups, f"{own}:")
                outputs = _read_links(inside, f"{own}:")[1]
        types = [str(each.get("type")) for each in node.get("outputs") or ()]
        values = node.get("widgets_values") or []
        yield Drawn(own, kind, bypassed, node.get("inputs") or (), types, values, links, outputs)


def _read_links(graph: Mapping[str, Any], prefix: str) -> tuple[dict[int, Link], dict[int, Link]]:
    """Return a graph's links by their numbers, and those that end at its outputs by the numbers of these."""
    links, outputs = {}, {}
    for link in graph.get("links") or ():
        parts = link if isinstance(link, Mapping) else dict(zip(_PARTS, link, strict=False))
        links[parts["id"]] = Link(f"{prefix}{parts['origin_id']}", int(parts["origin_slot"]))
        if parts.get("target_id") == OUTER:
            outputs[int(parts["target_slot"])] = links[parts["id"]]
    return links, outputs


_PARTS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


class _Routes:
    """Follows connections through what only routes."""

    def __init__(self, drawn: Mapping[str, Drawn], widgets: Widgets) -> None:
        self.drawn, self.widgets = drawn, widgets
        setters = (node for node in drawn.values() if node.kind in SETTERS)
        self.set = {_read_name(node): node for node in setters}

    def passes(self, node: Drawn) -> bool:
        """Say whether a node only routes, stands for a subgraph or for a value."""
        routes = node.kind.startswith("Reroute") or node.kind in (*SETTERS, *GETTERS, "PrimitiveNode")
        return node.bypassed or node.outputs is not None or routes

    def find_end(self, link: Link | None, name: str) -> Any:
        """Return the link to the node that does something, or the value, behind the link of an input `name`; None
        where it leads nowhere."""
        end: Any = link
        for _ in range(MOST_ROUTES):
            if not isinstance(end, Link):
                return end
            node = self.drawn.get(end.node)
            if node and not self.passes(node):
                value = self._read_constant(node)
                return end if value is None else value
            end = self._step(end, node, name)
        return None

    def _step(self, link: Link, node: Drawn | None, name: str) -> Any:
        """Return what is behind one output of a node that passes, or behind an input of a subgraph."""
        if node is None:
            home, _, last = link.node.rpartition(":")
            return self._enter(self.drawn[home], link.slot) if last == str(INNER) and home in self.drawn else None
        if node.outputs is not None:
            return node.outputs.get(link.slot)
        if node.kind == "PrimitiveNode":
            return self._read_constant(node)
        if node.kind in GETTERS:
            setter = self.set.get(_read_name(node))
            return _find_sole(setter) if setter else None
        return _bypass(node, link.slot, name) if node.bypassed else _find_sole(node)

    def _read_constant(self, node: Drawn) -> Any:
        """Return the value that a node stands for; None where it does something else."""
        if node.kind in self.widgets or any(node.link(entry) for entry in node.entries):
            return None
        values = [*node.values.values()] if isinstance(node.values, Mapping) else list(node.values)
        return find_constant(node.kind, values[:1] if node.kind == "PrimitiveNode" else values)

    def _enter(self, home: Drawn, slot: int) -> Any:
        """Return what an input of a subgraph is given: a connection, or the value of its widget."""
        if slot >= len(home.entries):
            return None
        entry = home.entries[slot]
        if link := home.link(entry):
            return link
        shown = [each for each in home.entries if each.get("widget")]
        if not isinstance(home.values, list) or entry not in shown or len(shown) != len(home.values):
            return None
        return home.values[shown.index(entry)]


def _read_name(node: Drawn) -> Any:
    return next(iter(node.values), None) if isinstance(node.values, list) else None


def _find_sole(node: Drawn) -> Link | None:
    links = [link for entry in node.entries if (link := node.link(entry))]
    return links[0] if len(links) == 1 else None


def _bypass(node: Drawn, slot: int, name: str) -> Link | None:
    """Return the link that takes the place of a bypassed node's output: of the input in the same place if it has the
    same type, or else of the first one of that type, as in the editor; where types are unsaid, of the same name."""
    kind = node.types[slot] if slot < len(node.types) else None
    if kind is None:
        named = [link for entry in node.entries if entry.get("name") == name and (link := node.link(entry))]
        return named[0] if named else _find_sole(node)
    same = [entry for entry in (*node.entries[slot : slot + 1], *node.entries) if entry.get("type") in (kind, "*")]
    return node.link(same[0]) if same else None


def _read_inputs(node: Drawn, widgets: Widgets, routes: _Routes) -> dict[str, Any]:
    """Return a node's inputs; where a connection leads nowhere, the widget's own value stands."""
    inputs = _name_values(widgets.get(node.kind, ()), node.values)
    for entry in node.entries:
        end = routes.find_end(node.link(entry), str(entry["name"]))
        if end is not None:
            inputs[str(entry["name"])] = end
    return inputs


def _name_values(names: Sequence[str], values: Any) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    own = list(values)
    after_seed = names.index("seed") + 1 if "seed" in names else len(own)
    if after_seed < len(own) and own[after_seed] in SEED_CONTROLS:
        del own[after_seed]
    return dict(zip(names, own, strict=False))
