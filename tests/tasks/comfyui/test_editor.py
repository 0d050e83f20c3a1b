"""What only routes, decorates or stands for a value in ComfyUI's editor changes nothing and refuses nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadInput
from tasks.generate.comfyui_jobs import WorkflowJob, read_workflow
from tests.workflows import GUIDED, MODEL, PICTURE, VALUES, api, editor, node, written


def by_kind(content: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(each for each in content["nodes"] if each["type"] == kind)


def read(folder: Path, content: dict[str, Any]) -> WorkflowJob:
    (job,) = read_workflow(written(folder / "w.json", content))
    return job


def feed(content: dict[str, Any], kind: str, widget: str, source: dict[str, Any]) -> dict[str, Any]:
    """The workflow with a widget of a node turned into an input that `source` feeds."""
    content["nodes"].append(source)
    content["links"].append([900, source["id"], 0, by_kind(content, kind)["id"], 9, "INT"])
    by_kind(content, kind)["inputs"].append({"name": widget, "widget": {"name": widget}, "type": "INT", "link": 900})
    return content


@pytest.mark.parametrize(
    ("kind", "widgets"),
    [
        ("PrimitiveNode", [30, "fixed"]),
        ("PrimitiveNode", [30, "randomize", "filter"]),
        ("PrimitiveInt", [30, "fixed"]),
        ("INTConstant", [30]),
        ("Seed (rgthree)", [30, "", "", ""]),
    ],
)
def test_a_primitives_value_goes_before_the_stale_widget(tmp_path: Path, kind: str, widgets: list[Any]):
    fed = feed(editor(), "SVD_img2vid_Conditioning", "motion_bucket_id", node(90, kind, widgets))
    assert read(tmp_path, fed).values["motion_bucket"] == 30
    assert by_kind(fed, "SVD_img2vid_Conditioning")["widgets_values"][3] == 90, "the widget's own"


def test_a_muted_primitive_leaves_the_widget_as_it_is(tmp_path: Path):
    fed = feed(editor(), "SVD_img2vid_Conditioning", "motion_bucket_id", node(90, "PrimitiveNode", [30], mode=2))
    assert read(tmp_path, fed).values["motion_bucket"] == 90


def test_a_primitive_in_the_apis_format_is_its_value(tmp_path: Path):
    content = api()
    content["40"] = {"class_type": "PrimitiveInt", "inputs": {"value": 78}}
    content["41"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 12.5}}
    content["42"] = {"class_type": "PrimitiveString", "inputs": {"value": "evening/run"}}
    content["3"]["inputs"]["seed"] = ["40", 0]
    content["10"]["inputs"] |= {"fps": ["41", 0], "filename_prefix": ["42", 0]}
    job = read(tmp_path, content)
    assert (job.values["seed"], job.values["playback_fps"], job.values["prefix"]) == (78, 12.5, "evening/run")


def test_a_loaders_file_is_no_value(tmp_path: Path):
    content = api()
    content["23"]["inputs"] = {"image": "beach.png"}
    assert dict(read(tmp_path, content).values) == VALUES


def typed(number: int, kind: str, inputs: dict[str, tuple[str, int | None]], output: str, mode: int = 4) -> Any:
    """A node with an output and inputs, each with its type and link."""
    entries = [{"name": name, "type": type_, "link": link} for name, (type_, link) in inputs.items()]
    return {"id": number, "type": kind, "mode": mode, "inputs": entries, "outputs": [{"name": "o", "type": output}]}


def test_a_bypassed_node_is_followed_by_type_and_not_by_name(tmp_path: Path):
    """A LoRA loader with a CLIP first, and its model last, which no name and no sole link would find."""
    lora = typed(90, "LoraLoader", {"clip": ("CLIP", None), "other": ("X", PICTURE), "m": ("MODEL", MODEL)}, "MODEL")
    content = editor(A=lora, links=[[901, 90, 0, 14, 0, "MODEL"]])
    by_kind(content, "VideoLinearCFGGuidance")["inputs"][0]["link"] = 901
    assert dict(read(tmp_path, content).values) == VALUES
    lora["inputs"][2]["type"] = "OTHER"
    with pytest.raises(BadInput, match=r"VideoLinearCFGGuidance \(node 14\): its input model is not connected"):
        read(tmp_path, content)


def test_a_bypassed_node_takes_the_input_in_the_place_of_its_output_if_the_type_is_the_same(tmp_path: Path):
    two = typed(90, "ImageBlend", {"first": ("IMAGE", PICTURE), "second": ("IMAGE", 905)}, "IMAGE")
    other = node(91, "LoadImage", ["other.png", "image"])
    content = editor(A=two, B=other, links=[[904, 90, 0, 12, 1, "IMAGE"], [905, 91, 0, 90, 1, "IMAGE"]])
    by_kind(content, "SVD_img2vid_Conditioning")["inputs"][1]["link"] = 904
    assert dict(read(tmp_path, content).values) == VALUES


def test_set_and_get_nodes_and_reroutes_of_any_maker_are_followed(tmp_path: Path):
    content = editor(
        Set=node(90, "SetNode", ["picture"], {"IMAGE": PICTURE}),
        Get=node(91, "GetNode", ["picture"]),
        Rest=node(92, "Reroute (rgthree)", [], {"": 910}),
        links=[[910, 91, 0, 92, 0, "IMAGE"], [911, 92, 0, 12, 1, "IMAGE"]],
    )
    by_kind(content, "SVD_img2vid_Conditioning")["inputs"][1]["link"] = 911
    assert dict(read(tmp_path, content).values) == VALUES


@pytest.mark.parametrize(
    "stray",
    [
        node(90, "Label (rgthree)"),
        node(90, "Fast Groups Bypasser (rgthree)", [], {"OPT_CONNECTION": 999}),
        node(90, "Bookmark (rgthree)", ["1", 1]),
        node(90, "MarkdownNote", ["see the sea"]),
        node(90, "UpscaleModelLoader", ["4x.pth"]),
        node(90, "SetNode", ["nobody gets it"], {"IMAGE": PICTURE}),
        node(90, "GetNode", ["nobody sets it"]),
        node(90, "CLIPTextEncode", ["a sea"]),
        node(90, "2f0cd11a-9d5c-4b6e-9a39-3a3f1f6c7f11", [7]),
    ],
)
def test_what_decorates_or_leads_nowhere_refuses_nothing(tmp_path: Path, stray: dict[str, Any]):
    content = editor(A=stray)
    content["definitions"] = {"subgraphs": [{"id": "2f0cd11a-9d5c-4b6e-9a39-3a3f1f6c7f11", "name": "Upscale"}]}
    assert read(tmp_path, content) == read(tmp_path, editor())


GROUP = "2f0cd11a-9d5c-4b6e-9a39-3a3f1f6c7f11"


def grouped() -> dict[str, Any]:
    """The workflow with guidance and sampler in a subgraph, whose second input is the sampler's steps."""
    content = editor()
    inside = [by_kind(content, kind) for kind in ("VideoLinearCFGGuidance", "KSampler")]
    content["nodes"] = [each for each in content["nodes"] if each not in inside]
    guide, sampler = json.loads(json.dumps(inside))
    guide["inputs"] = [{"name": "model", "type": "MODEL", "link": 1}]
    numbers = {"model": 2, "positive": 3, "negative": 4, "latent_image": 5, "steps": 6}
    sampler["inputs"] = [{"name": name, "type": "ANY", "link": link} for name, link in numbers.items()]
    ends = [(1, -10, 0, 14, 0), (2, 14, 0, 3, 0), (3, -10, 2, 3, 1), (4, -10, 3, 3, 2), (5, -10, 4, 3, 3)]
    ends += [(6, -10, 1, 3, 4), (7, 3, 0, -20, 0)]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    links = [dict(zip(names, link, strict=True)) for link in ends]
    definition = {"id": GROUP, "name": "Sample", "nodes": [guide, sampler], "links": links}
    content["definitions"] = {"subgraphs": [definition]}
    entries = [("model", MODEL, None), ("steps", None, {"name": "steps"}), ("positive", 5, None)]
    entries += [("negative", 6, None), ("latent_image", 7, None)]
    shown = [{"name": name, "type": "ANY", "link": link, "widget": widget} for name, link, widget in entries]
    content["nodes"].append({"id": 50, "type": GROUP, "mode": 0, "inputs": shown, "widgets_values": [11]})
    content["links"] = [link for link in content["links"] if link[0] not in (4, GUIDED, 8)]
    content["links"] += [[8, 50, 0, 8, 0, "LATENT"]]
    return content


def test_a_subgraph_is_opened_and_its_widget_goes_before_what_is_inside(tmp_path: Path):
    job = read(tmp_path, grouped())
    assert dict(job.values) == VALUES | {"steps": 11}
    assert by_kind(grouped()["definitions"]["subgraphs"][0], "KSampler")["widgets_values"][2] == 20


def test_what_is_wrong_in_a_subgraph_is_named_by_its_place(tmp_path: Path):
    content = grouped()
    by_kind(content["definitions"]["subgraphs"][0], "KSampler")["widgets_values"][-1] = 0.5
    with pytest.raises(BadInput, match=r"KSampler \(node 50:3\): denoise is 0\.5"):
        read(tmp_path, content)


def test_subgraphs_that_contain_themselves_are_refused(tmp_path: Path):
    content = grouped()
    content["definitions"]["subgraphs"][0]["nodes"].append({"id": 60, "type": GROUP})
    with pytest.raises(BadInput, match=r"w\.json: has .*more than any workflow"):
        read(tmp_path, content)


def save(kind: str, **inputs: Any) -> dict[str, Any]:
    """The API's workflow, saved by another kind of node."""
    content = api()
    content["10"] = {"class_type": kind, "inputs": {"filename_prefix": "a", "images": ["8", 0]} | inputs}
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            save("VHS_VideoCombine", format="video/h265-mp4", pix_fmt="yuv420p10le", crf=22, pingpong=False),
            (
                "VHS_VideoCombine (node 10): its format (format video/h265-mp4, pix_fmt yuv420p10le, crf 22); "
                "--format hevc --crf 22 sets it for all clips."
            ),
        ),
        (
            save("VHS_VideoCombine", pingpong=True, loop_count=2, pix_fmt="yuv420p"),
            (
                "VHS_VideoCombine (node 10): pingpong True, loop_count 2; clips are written once, from first to last "
                "frame, without sound."
            ),
        ),
        (
            save("SaveWEBM", codec="vp9", crf=32),
            "SaveWEBM (node 10): its format (codec vp9, crf 32); --format av1 --crf 32 sets it for all clips.",
        ),
        (
            save("SaveVideo", format="mp4", codec="h264", filename_prefix="%date:yyyy-MM-dd%/%KSampler.seed%_sea"),
            (
                "SaveVideo (node 10): %date:yyyy-MM-dd%, %KSampler.seed% in filename_prefix; it is kept as it stands, "
                "and not filled in."
            ),
        ),
        (
            save("SaveVideo", format="webm", codec="av1"),
            "SaveVideo (node 10): its format (format webm, codec av1); --format av1 sets it for all clips.",
        ),
    ],
)
def test_what_is_asked_of_a_file_and_not_done_is_said(tmp_path: Path, content: dict[str, Any], said: str):
    assert read(tmp_path, content).ignored == (said,)


@pytest.mark.parametrize("asked", [{"format": "mp4", "codec": "h264"}, {"format": "auto", "codec": "auto"}, {}])
def test_what_is_done_as_it_is_asked_is_not_said(tmp_path: Path, asked: dict[str, str]):
    assert read(tmp_path, save("SaveVideo", **asked)).ignored == ()


def test_create_videos_rate_is_the_rate_of_the_file_and_its_sound_is_said(tmp_path: Path):
    content = save("SaveVideo", video=["40", 0])
    del content["10"]["inputs"]["images"]
    content["40"] = {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 12, "audio": ["41", 0]}}
    content["41"] = {"class_type": "LoadAudio", "inputs": {"audio": "sea.wav"}}
    job = read(tmp_path, content)
    assert job.values["playback_fps"] == 12
    assert job.ignored == (
        "CreateVideo (node 40): audio; clips are written once, from first to last frame, without sound.",
    )
