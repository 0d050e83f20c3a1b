"""What nodes that save ask of a file, and is not done as they ask it: said in a sentence for each kind of wish."""

import re
from collections.abc import Iterator
from typing import Any

from tasks.comfyui.nodes import Link, Node

AS_WRITTEN = {
    "SaveVideo": {"format": ("auto", "mp4"), "codec": ("auto", "h264")},
    "VHS_VideoCombine": {"pix_fmt": ("yuv420p",)},
}
"""What clips are written as anyway, unless told otherwise."""

FORMAT_WISHES = ("format", "codec", "pix_fmt", "crf", "quality", "lossless", "compress_level")

FORMATS = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1", "webp": "webp", "gif": "gif"}
"""The format to ask for, by what is in the wish for another."""

KINDS = {"SaveAnimatedWEBP": "webp", "SaveWEBM": "av1", "SaveAnimatedPNG": "png", "SaveImage": "png"}

NOT_DONE = ("pingpong", "loop_count", "trim_to_audio")
"""Wishes that no setting meets, where they ask for anything."""

PLACES = re.compile(r"%[^%/\\\\]+%")
"""What ComfyUI fills in when it names a file: %date:yyyy-MM-dd%, %year%, %KSampler.seed%."""


def list_unmet(node: Node) -> Iterator[str]:
    """Yield a sentence for each kind of wish of a node on the way to a file that is not met."""
    said = {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}
    wishes = [f"{name} {said[name]}" for name in FORMAT_WISHES if name in said and not _is_written_so(node, name)]
    if wishes or node.kind in KINDS:
        asked = f" ({', '.join(wishes)})" if wishes else ""
        yield f"{node.label}: its format{asked}; {_advise(node, said)}."
    left_out = [f"{name} {said[name]}" for name in NOT_DONE if said.get(name)]
    left_out += ["audio"] if isinstance(node.inputs.get("audio"), Link) else []
    if left_out:
        yield f"{node.label}: {', '.join(left_out)}; clips are written once, from first to last frame, without sound."
    if places := PLACES.findall(str(said.get("filename_prefix") or "")):
        yield f"{node.label}: {', '.join(places)} in filename_prefix; it is kept as it stands, and not filled in."


def _is_written_so(node: Node, name: str) -> bool:
    return node.inputs[name] in AS_WRITTEN.get(node.kind, {}).get(name, ())


def _advise(node: Node, said: dict[str, Any]) -> str:
    """Return what sets the format of all clips, with the one that is most like the one asked for."""
    asked = f"{said.get('format')} {said.get('codec')}".lower()
    like = next((ours for theirs, ours in FORMATS.items() if theirs in asked), KINDS.get(node.kind))
    crf = f" --crf {said['crf']}" if isinstance(said.get("crf"), int | float) else ""
    return f"--format{f' {like}' if like else ''}{crf} sets it for all clips"
