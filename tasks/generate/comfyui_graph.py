"""ComfyUI workflow files, in the editor's format and the API's, read into one graph of nodes.

The editor's file lists nodes, links and, without their names, the values of each node's widgets; the API's has named
inputs. Comments are left out, rerouted and bypassed connections are followed, and muted nodes are left out.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BadInput
from models.given_files import read_json

WIDGETS: dict[str, tuple[str, ...]] = {
    "ImageOnlyCheckpointLoader": ("ckpt_name",),
    "LoadImage": ("image",),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "SVD_img2vid_Conditioning": ("width", "height", "video_frames", "motion_bucket_id", "fps", "augmentation_level"),
    "VideoLinearCFGGuidance": ("min_cfg",),
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "VAEDecode": (),
    "VAEDecodeTiled": ("tile_size", "overlap", "temporal_size", "temporal_overlap"),
    "CreateVideo": ("fps",),
    "SaveVideo": ("filename_prefix", "format", "codec"),
    "SaveWEBM": ("filename_prefix", "codec", "fps", "crf"),
    "SaveAnimatedWEBP": ("filename_prefix", "fps", "lossless", "quality", "method"),
    "SaveAnimatedPNG": ("filename_prefix", "fps", "compress_level"),
    "SaveImage": ("filename_prefix",),
    "PreviewImage": (),
    "VHS_VideoCombine": ("frame_rate", "loop_count", "filename_prefix", "format"),
}
"""The nodes that can be read, with the names of their widgets in the editor's order."""

SEED_CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""Values of the widget that the editor puts after a seed; what the next run's seed would be is not part of this one."""

COMMENTS = ("Note", "MarkdownNote", "PrimitiveNode")
"""Nodes without a meaning of their own: what a primitive node sets also stands in the widget it sets."""

MUTED, BYPASSED = 2, 4

MOST_NODES, MOST_INPUTS, MOST_REROUTES = 2_000, 20_000, 100
"""Nodes of a workflow and their inputs, of which large ones have a few hundred, and reroutes one after the other."""


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


def read_graph(path: Path) -> Graph:
    """Read the graph in a workflow file, by node id; raises BadInput when it is not one or has nodes that cannot be
    read."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}).") from error
    try:
        graph = _read_nodes(content)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path}: not a ComfyUI workflow, in the editor's format or the API's.") from error
    except _TooLarge as error:
        raise BadInput(f"{path}: has {error}, more than any workflow. Is it another file?") from error
    unknown = [node.label for node in graph.values() if node.kind not in WIDGETS]
    if unknown:
        raise BadInput(f"{path}: cannot make what these nodes do: {', '.join(unknown)}. Remove or mute them.")
    return graph


class _TooLarge(Exception):
    """There are more nodes or inputs than can be followed; the text says how many."""


def _read_nodes(content: Mapping[str, Any]) -> Graph:
    if "nodes" in content:
        _check_size(content["nodes"])
        return _read_editor(content)
    nodes = content.get("prompt", content)
    _check_size([*nodes.values()])
    return _read_api(nodes)


def _check_size(nodes: Sequence[Mapping[str, Any]]) -> None:
    inputs = sum(len(node.get("inputs") or ()) for node in nodes)
    if len(nodes) > MOST_NODES or inputs > MOST_INPUTS:
        raise _TooLarge(f"{len(nodes)} nodes and {inputs} inputs")


def _read_api(content: Mapping[str, Any]) -> Graph:
    graph = {}
    for number, node in content.items():
        inputs = {name: _read_api_value(value) for name, value in node["inputs"].items()}
        graph[str(number)] = Node(str(number), str(node["class_type"]), inputs)
    if not graph:
        raise ValueError("no nodes")
    return graph


def _read_api_value(value: Any) -> Any:
    """Read an input of the API's format, where a link is written as a list of a node's id and an output's number."""
    return Link(str(value[0]), int(value[1])) if isinstance(value, list) and len(value) == 2 else value


def _read_editor(content: Mapping[str, Any]) -> Graph:
    present = [node for node in content["nodes"] if node.get("mode") != MUTED and node["type"] not in COMMENTS]
    # A link from a muted node or a primitive one leads nowhere; of the latter, the widget keeps the value.
    ids = {str(node["id"]) for node in present}
    links = {number: link for number, link in map(_read_editor_link, content["links"]) if link.node in ids}
    groups = {each["id"]: each["name"] for each in (content.get("definitions") or {}).get("subgraphs") or ()}
    named = ({**node, "type": f"subgraph {groups[t]!r}"} if (t := node["type"]) in groups else node for node in present)
    graph = {str(node["id"]): _read_editor_node(node, links) for node in named}
    passing = {str(n["id"]) for n in present if n.get("mode") == BYPASSED or n["type"] == "Reroute"}
    kept = (node for node in graph.values() if node.id not in passing)
    return {node.id: Node(node.id, node.kind, _follow_links(node, graph, passing)) for node in kept}


def _read_editor_link(link: Any) -> tuple[int, Link]:
    if isinstance(link, Mapping):
        return link["id"], Link(str(link["origin_id"]), int(link["origin_slot"]))
    return link[0], Link(str(link[1]), int(link[2]))


def _read_editor_node(node: Mapping[str, Any], links: Mapping[int, Link]) -> Node:
    inputs = _read_widget_values(str(node["type"]), node.get("widgets_values") or [])
    linked = {entry["name"]: entry.get("link") for entry in node.get("inputs") or []}
    inputs |= {name: links[number] for name, number in linked.items() if number is not None and number in links}
    return Node(str(node["id"]), str(node["type"]), inputs)


def _read_widget_values(kind: str, values: Any) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    names, own = WIDGETS.get(kind, ()), list(values)
    after_seed = names.index("seed") + 1 if "seed" in names else len(own)
    if after_seed < len(own) and own[after_seed] in SEED_CONTROLS:
        del own[after_seed]
    return dict(zip(names, own, strict=False))


def _follow_links(node: Node, graph: Graph, passing: Set[str]) -> dict[str, Any]:
    """Return a node's inputs with links through rerouted and bypassed nodes made direct; those that lead nowhere are
    dropped."""
    inputs = dict(node.inputs)
    for name, link in node.links().items():
        end = _end_of(name, link, graph, passing)
        if end:
            inputs[name] = end
        else:
            del inputs[name]
    return inputs


def _end_of(name: str, link: Link, graph: Graph, passing: Set[str]) -> Link | None:
    end: Link | None = link
    for _ in range(MOST_REROUTES):
        if end is None or end.node not in passing:
            break
        through = graph[end.node].links()
        end = through.get(name) or (next(iter(through.values())) if len(through) == 1 else None)
    return end if end and end.node in graph and end.node not in passing else None
