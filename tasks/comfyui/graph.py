"""ComfyUI workflow files, in the editor's format and the API's, read into one graph of nodes.

The editor's file lists nodes, links and, without their names, the values of each node's widgets; the API's has named
inputs. What only routes, decorates or stands for a value is taken out (tasks/comfyui/editor.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import BadInput
from models.given_files import read_json
from tasks.comfyui.editor import check_size, read_editor
from tasks.comfyui.nodes import Graph, Link, Node, TooLarge, find_constant

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


def read_graph(path: Path) -> Graph:
    """Read the graph in a workflow file, by node id; raises BadInput when it is not one. Nodes of a kind that is not in
    WIDGETS are in it too: whoever needs one refuses it."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}).") from error
    try:
        graph = _read_nodes(content)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path}: not a ComfyUI workflow, in the editor's format or the API's.") from error
    except TooLarge as error:
        raise BadInput(f"{path}: has {error}, more than any workflow. Is it another file?") from error
    return graph


def _read_nodes(content: Mapping[str, Any]) -> Graph:
    if "nodes" in content:
        check_size(content["nodes"])
        return read_editor(content, WIDGETS)
    nodes = content.get("prompt", content)
    check_size([*nodes.values()])
    return _read_api(nodes)


def _read_api(content: Mapping[str, Any]) -> Graph:
    graph = {}
    for number, node in content.items():
        inputs = {name: _read_api_value(value) for name, value in node["inputs"].items()}
        graph[str(number)] = Node(str(number), str(node["class_type"]), inputs)
    if not graph:
        raise ValueError("no nodes")
    return {node.id: Node(node.id, node.kind, _put_constants(node, graph)) for node in graph.values()}


def _put_constants(node: Node, graph: Graph) -> dict[str, Any]:
    """Return a node's inputs, with the values of nodes that stand for one in the place of the links to them."""
    inputs = dict(node.inputs)
    for name, link in node.links().items():
        source = graph.get(link.node)
        if source and source.kind not in WIDGETS and not source.links():
            value = find_constant(source.kind, [*source.inputs.values()])
            inputs[name] = link if value is None else value
    return inputs


def _read_api_value(value: Any) -> Any:
    """Read an input of the API's format, where a link is written as a list of a node's id and an output's number."""
    return Link(str(value[0]), int(value[1])) if isinstance(value, list) and len(value) == 2 else value
