"""The nodes of a ComfyUI workflow and their connections, as both kinds of its files say them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SEED_CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""Values of the widget that the editor puts after a seed; what the next run's seed would be is not part of this one."""

MOST_NODES, MOST_INPUTS, MOST_ROUTES, MOST_LEVELS = 2_000, 20_000, 100, 10
"""Nodes of a workflow and their inputs, of which large ones have a few hundred; nodes one after the other that only
route; subgraphs one inside the other."""


@dataclass(frozen=True)
class Link:
    """An input that comes from another node: the node's id and the number of its output."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """One node: its id, its class and its inputs by name, each a value or a Link."""

    id: str
    kind: str
    inputs: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return the name of the node in messages."""
        return f"{self.kind} (node {self.id})"

    def links(self) -> dict[str, Link]:
        """Return its inputs that come from other nodes."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}


Graph = dict[str, Node]


class TooLarge(Exception):
    """There are more nodes or inputs than can be followed; the text says how many."""


TEXTS = ("primitive", "string", "text", "constant")
"""What is in the names of nodes that stand for a text; a loader's one text is the name of a file."""


def find_constant(kind: str, values: Sequence[Any]) -> Any:
    """Return what a node without connections stands for: the one number, truth or text among its values; None where
    there is none, or several."""
    plain = [value for value in values if isinstance(value, bool | int | float | str) and value not in _UNSAID]
    if len(plain) != 1 or (isinstance(plain[0], str) and not any(text in kind.lower() for text in TEXTS)):
        return None
    return plain[0]


_UNSAID = ("", *SEED_CONTROLS)
