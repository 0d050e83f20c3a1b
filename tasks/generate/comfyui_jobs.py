"""ComfyUI workflows as jobs, and jobs as ComfyUI workflows: Stable Video Diffusion, from picture to video.

What differs between the two: ComfyUI's `fps` is the raw id that the model sees, diffusers' and ours is one more; its
`cfg` is the guidance at the last frame, and `min_cfg` at the first, without which it is the same at every frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BadInput
from tasks.comfyui.graph import WIDGETS, read_graph
from tasks.comfyui.nodes import Graph, Link, Node
from tasks.comfyui.wishes import list_unmet
from tasks.generate.job_columns import inputs_of

Values = dict[str, Any]

SAMPLER, SCHEDULER = "euler", "karras"
"""How clips are sampled here; another wish is said to be ignored."""

OUTPUTS = ("SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveWEBM", "SaveVideo", "SaveImage", "PreviewImage",
           "VHS_VideoCombine")  # fmt: skip

MAX_SEED = 2**63

Way = tuple[str, list[Node]]
"""The id of a sampler, and the nodes from one that saves or shows what it makes back to it."""


@dataclass(frozen=True)
class WorkflowJob:
    """One clip that a workflow makes: a job's values by column, and sentences on what of the workflow is not
    honoured."""

    values: Mapping[str, Any]
    ignored: tuple[str, ...]


def read_workflow(path: Path) -> list[WorkflowJob]:
    """Read the jobs of a workflow file, one for each sampler; raises BadInput for what cannot be made, by node and
    name."""
    graph = read_graph(path)
    samplers = sorted((n for n in graph.values() if n.kind == "KSampler"), key=lambda n: (len(n.id), n.id))
    try:
        if not samplers:
            raise BadInput(_explain_no_sampler(graph))
        ways = list_ways(graph)
        check_ways(graph)
        return [_Reading(graph, sampler, ways).job() for sampler in samplers]
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def make_workflow(row: Mapping[str, Any], picture: str | None = None) -> dict[str, Any]:
    """Return a resolved job as a workflow in the API's format, which finds its picture by name in its own folder: by
    `picture`, or else by the name it has.

    A motion asked for by name, a key and a take have no place there.
    """
    model: list[Any] = ["1", 0]
    nodes: dict[str, Any] = {"1": _make_node("ImageOnlyCheckpointLoader", ckpt_name=row["model"])}
    if row["lora"]:
        nodes["2"] = _make_node("LoraLoaderModelOnly", model=model, **_make_inputs("LoraLoaderModelOnly", row))
        model = ["2", 0]
    nodes["3"] = _make_node("LoadImage", image=picture or Path(row["image"]).name)
    nodes["4"] = _make_node(
        "SVD_img2vid_Conditioning", clip_vision=["1", 1], init_image=["3", 0], vae=["1", 2],
        fps=_shorten(row["fps"] - 1), **_make_inputs("SVD_img2vid_Conditioning", row),
    )  # fmt: skip
    nodes["5"] = _make_node("VideoLinearCFGGuidance", model=model, min_cfg=row["guidance_min"])
    nodes["6"] = _make_node(
        "KSampler", model=["5", 0], positive=["4", 0], negative=["4", 1], latent_image=["4", 2], seed=row["seed"],
        cfg=row["guidance_max"], sampler_name=SAMPLER, scheduler=SCHEDULER, denoise=1.0,
        **_make_inputs("KSampler", row),
    )  # fmt: skip
    nodes["7"] = _make_node("VAEDecode", samples=["6", 0], vae=["1", 2])
    nodes["8"] = _make_node("CreateVideo", images=["7", 0], **_make_inputs("CreateVideo", row))
    nodes["9"] = _make_node("SaveVideo", video=["8", 0], filename_prefix=row["name"], format="mp4", codec="h264")
    return nodes


class _Reading:
    """Reads what one sampler of a graph makes."""

    def __init__(self, graph: Graph, sampler: Node, ways: Sequence[Way]) -> None:
        self.graph, self.sampler = graph, sampler
        self.ways = [nodes for end, nodes in ways if end == sampler.id]
        self.values: Values = {}
        self.ignored: list[str] = []

    def job(self) -> WorkflowJob:
        conditioning = self._conditioning()
        self._picture(conditioning)
        self._size_and_conditions(conditioning)
        self._sampling()
        self._model()
        self._outputs()
        return WorkflowJob(self.values, tuple(self.ignored))

    def _conditioning(self) -> Node:
        """Return the node that the sampler's three inputs come from, each from its own output."""
        found = None
        for slot, name in enumerate(("positive", "negative", "latent_image")):
            found, link = self._behind(self.sampler, name, "SVD_img2vid_Conditioning")
            if link.slot != slot:
                raise BadInput(
                    f"{self.sampler.label}: its input {name} comes from output {link.slot} of {found.label}."
                )
        assert found
        return found

    def _picture(self, conditioning: Node) -> None:
        loader, link = self._behind(conditioning, "init_image", "LoadImage")
        if link.slot != 0:
            raise BadInput(f"{conditioning.label}: its picture is a mask, output {link.slot} of {loader.label}.")
        name = str(_read_value(loader, "image"))
        self.values["image"] = name.removesuffix(" [input]")

    def _size_and_conditions(self, node: Node) -> None:
        self.values |= _read_columns(node)
        self.values["fps"] = _read_number(node, "fps") + 1

    def _sampling(self) -> None:
        node = self.sampler
        if _read_number(node, "denoise") != 1:
            raise BadInput(
                f"{node.label}: denoise is {_read_value(node, 'denoise')}; only 1 makes a clip from a picture."
            )
        for name, ours in (("sampler_name", SAMPLER), ("scheduler", SCHEDULER)):
            asked = _read_value(node, name)
            if asked != ours:
                self.ignored.append(f"{node.label}: {name} {asked!r}; {ours} is used.")
        seed = int(_read_number(node, "seed"))
        if not 0 <= seed < MAX_SEED:
            wrong = "negative" if seed < 0 else "too large"
            self.ignored.append(f"{node.label}: seed {seed} is {wrong}; {seed % MAX_SEED} is used.")
        self.values |= {"seed": seed % MAX_SEED, **_read_columns(node)}
        cfg = _read_number(node, "cfg")
        self.values |= {"guidance_min": cfg, "guidance_max": cfg}

    def _model(self) -> None:
        """Read the checkpoint, and what is between it and the sampler: guidance over the frames, one LoRA."""
        node, seen = self.sampler, set[str]()
        kinds = ("ImageOnlyCheckpointLoader", "VideoLinearCFGGuidance", "LoraLoaderModelOnly")
        while node.kind != "ImageOnlyCheckpointLoader":
            node, _ = self._behind(node, "model", *kinds)
            if node.kind in seen:
                raise BadInput(f"{node.label}: there is a second one between the model and the sampler; remove it.")
            seen.add(node.kind)
            if node.kind == "VideoLinearCFGGuidance":
                self.values["guidance_min"] = _read_number(node, "min_cfg")
            elif node.kind == "LoraLoaderModelOnly":
                self.values |= _read_columns(node)
        self.values["model"] = str(_read_value(node, "ckpt_name"))

    def _outputs(self) -> None:
        for way in self.ways:
            node = way[0]
            for each in way:
                self._plays(each)
            prefix = node.inputs.get("filename_prefix")
            if prefix:
                self.values.setdefault("prefix", str(prefix))
            for each in way:
                self.ignored += list_unmet(each)
        self.ignored += [
            f"{node.label}: not known here, and left out." for node in list_unknown_ends(self.graph, self.sampler)
        ]

    def _plays(self, node: Node) -> None:
        """Return the rate that a node saves the frames at; of several nodes, the first one's."""
        for column, name in inputs_of(node.kind).items():
            value = node.inputs.get(name)
            if isinstance(value, Link):
                self.ignored.append(f"{node.label}: {name} comes from another node; write the value into its widget.")
            elif value is not None and self.values.setdefault(column, value) != value:
                self.ignored.append(f"{node.label}: {name} {value}; {self.values[column]} is used.")

    def _behind(self, node: Node, name: str, *kinds: str) -> tuple[Node, Link]:
        """Return the node behind an input, of one of `kinds`, and the link to it."""
        link = node.inputs.get(name)
        source = self.graph.get(link.node) if isinstance(link, Link) else None
        if source is None or not isinstance(link, Link):
            raise BadInput(f"{node.label}: its input {name} is not connected; it needs {' or '.join(kinds)}.")
        if source.kind not in kinds:
            raise BadInput(f"{node.label}: its input {name} comes from {source.label}; it needs {' or '.join(kinds)}.")
        return source, link


def list_ways(graph: Graph) -> list[Way]:
    """Return the nodes from each one that saves or shows what a sampler makes, back to that sampler."""
    ways = (_way_from(node, graph) for node in graph.values() if node.kind in OUTPUTS)
    return [way for way in ways if way]


def check_ways(graph: Graph) -> None:
    """Raise BadInput where nodes that cannot be read change what a sampler makes on its way to one that saves or shows
    it."""
    feeding = {node.id: [link.node for link in node.links().values()] for node in graph.values()}
    before = _list_reached(graph, [node.id for node in graph.values() if node.kind in OUTPUTS], feeding)
    after = _list_after(graph, [node.id for node in graph.values() if node.kind == "KSampler"])
    both = before & after
    unknown = [node.label for node in graph.values() if node.id in both and node.kind not in WIDGETS]
    if unknown:
        raise BadInput(f"cannot make what these nodes do: {', '.join(unknown)}. Remove or bypass them.")


def list_unknown_ends(graph: Graph, sampler: Node) -> list[Node]:
    """Return the nodes that cannot be read, and that lead nowhere else, of those that take what a sampler makes."""
    leading = {link.node for node in graph.values() for link in node.links().values()}
    ends = _list_after(graph, [sampler.id]) - leading
    return [node for node in graph.values() if node.id in ends and node.kind not in WIDGETS]


def _list_after(graph: Graph, samplers: Sequence[str]) -> set[str]:
    """Return the ids of the nodes that take something of what samplers make, up to further samplers."""
    fed: dict[str, list[str]] = {}
    for node in graph.values():
        for link in node.links().values():
            fed.setdefault(link.node, []).append(node.id)
    return _list_reached(graph, samplers, fed)


def _list_reached(graph: Graph, start: Sequence[str], ways: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the ids of the nodes that `ways` lead to from some, up to samplers and no further."""
    seen, left, first = set[str](), list(start), set(start)
    while left:
        here = left.pop()
        if here in first or (here in graph and graph[here].kind != "KSampler"):
            new = {name for name in ways.get(here, ()) if name in graph} - seen
            seen |= new
            left += new
    return seen


def _explain_no_sampler(graph: Graph) -> str:
    """Return why there is nothing to make, with the nodes that may do it elsewhere."""
    unknown = [node.label for node in graph.values() if node.kind not in WIDGETS]
    of = f" It has nodes that cannot be read: {', '.join(unknown[:10])}." if unknown else ""
    return f"the workflow has no KSampler, so there is nothing to make.{of}"


def _way_from(node: Node, graph: Graph) -> Way | None:
    """Return a node and those before it up to a sampler; None where it shows something else."""
    way = [node]
    for _ in graph:
        links = way[-1].links()
        link = next((links[name] for name in ("video", "images", "samples") if name in links), None)
        if link is None or link.node not in graph:
            return None
        before = graph[link.node]
        if before.kind == "KSampler":
            return before.id, way
        way.append(before)
    return None


def _read_columns(node: Node) -> Values:
    """Return the columns that a node sets, each by an input of its own."""
    return {column: _read_value(node, name) for column, name in inputs_of(node.kind).items()}


def _make_inputs(kind: str, row: Mapping[str, Any]) -> Values:
    """Return the inputs of a kind of node that columns set, as a row has them."""
    return {name: row[column] for column, name in inputs_of(kind).items()}


def _read_value(node: Node, name: str) -> Any:
    value = node.inputs.get(name)
    if isinstance(value, Link):
        raise BadInput(f"{node.label}: {name} comes from another node; write the value into its widget.")
    if value is None:
        raise BadInput(f"{node.label}: {name} has no value.")
    return value


def _read_number(node: Node, name: str) -> float:
    value = _read_value(node, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{node.label}: {name} is {value!r}, not a number.")
    return value


def _shorten(value: float) -> float:
    return int(value) if value == int(value) else value


def _make_node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
