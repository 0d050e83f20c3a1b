"""A ComfyUI workflow says the same in both of its formats, and what cannot be made of it is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import BadInput
from tasks.comfyui.graph import read_graph
from tasks.generate.comfyui_jobs import make_workflow, read_workflow
from tests.workflows import IMAGES, MODEL, PICTURE, VALUES, api, editor, node, written


def sampler(**changes: Any) -> dict[str, Any]:
    """The API's workflow with other inputs of its sampler."""
    content = api()
    content["3"]["inputs"] |= changes
    return content


def test_both_formats_say_the_same(tmp_path: Path):
    one, other = (read_workflow(written(tmp_path / "w.json", content)) for content in (editor(), api()))
    assert one == other
    assert dict(one[0].values) == VALUES, "the fps id 6 is 7 frames per second"
    assert read_workflow(written(tmp_path / "w.json", {"prompt": api()})) == one


def test_the_format_of_the_output_is_said_to_be_ignored(tmp_path: Path):
    (said,) = read_workflow(written(tmp_path / "w.json", api()))[0].ignored
    assert said.startswith("SaveAnimatedWEBP (node 10): its format (quality 85, lossless False); --format")


def test_the_rate_of_the_node_that_saves_is_the_rate_that_the_file_plays_at(tmp_path: Path):
    content = api()
    content["10"]["inputs"]["fps"] = 12.5
    content["30"] = {"class_type": "CreateVideo", "inputs": {"images": content["10"]["inputs"]["images"], "fps": 30}}
    content["31"] = {"class_type": "SaveVideo", "inputs": {"video": ["30", 0], "filename_prefix": "b"}}
    job = read_workflow(written(tmp_path / "w.json", content))[0]
    assert (job.values["playback_fps"], job.values["fps"]) == (12.5, 7)
    assert job.ignored[-1] == "CreateVideo (node 30): fps 30; 12.5 is used."
    del content["10"]
    assert read_workflow(written(tmp_path / "w.json", content))[0].values["playback_fps"] == 30
    content["30"]["inputs"]["fps"] = ["3", 0]
    job = read_workflow(written(tmp_path / "w.json", content))[0]
    assert "playback_fps" not in job.values
    assert job.ignored == ("CreateVideo (node 30): fps comes from another node; write the value into its widget.",)


def test_another_sampler_and_scheduler_are_said_to_be_ignored(tmp_path: Path):
    content = sampler(sampler_name="dpmpp_2m", scheduler="normal", seed=2**63 + 5)
    job = read_workflow(written(tmp_path / "w.json", content))[0]
    assert job.ignored[:3] == (
        "KSampler (node 3): sampler_name 'dpmpp_2m'; euler is used.",
        "KSampler (node 3): scheduler 'normal'; karras is used.",
        f"KSampler (node 3): seed {2**63 + 5} is too large; 5 is used.",
    )
    assert job.values["seed"] == 5


def test_without_a_guidance_node_guidance_is_the_same_at_every_frame(tmp_path: Path):
    plain = sampler(model=["15", 0])
    del plain["14"]
    bypassed = editor(VideoLinearCFGGuidance=node(14, "VideoLinearCFGGuidance", [1.5], {"model": MODEL}, mode=4))
    for content in (plain, bypassed):
        values = read_workflow(written(tmp_path / "w.json", content))[0].values
        assert (values["guidance_min"], values["guidance_max"]) == (2.5, 2.5)


def test_a_rerouted_connection_and_comments_change_nothing(tmp_path: Path):
    content = editor(
        Reroute=node(30, "Reroute", [], {"": PICTURE}),
        Note=node(31, "Note", ["look at the sea"]),
        Muted=node(32, "UpscaleModelLoader", ["4x.pth"], mode=2),
        PrimitiveNode=node(33, "PrimitiveNode", [20, "fixed"]),
        links=[[40, 30, 0, 12, 1, "IMAGE"], [41, 33, 0, 3, 4, "INT"]],
    )
    by_kind = {each["type"]: each for each in content["nodes"]}
    by_kind["SVD_img2vid_Conditioning"]["inputs"][1]["link"] = 40
    by_kind["KSampler"]["inputs"].append({"name": "steps", "widget": {"name": "steps"}, "link": 41})
    assert read_workflow(written(tmp_path / "w.json", content)) == read_workflow(written(tmp_path / "v.json", api()))


def test_links_written_as_objects_are_read_too(tmp_path: Path):
    content = editor()
    content["links"] = [{"id": n, "origin_id": a, "origin_slot": s} for n, a, s, *_ in content["links"]]
    assert dict(read_workflow(written(tmp_path / "w.json", content))[0].values) == VALUES


def test_unknown_nodes_that_change_the_frames_are_refused_by_naming_them_all(tmp_path: Path):
    changed = {
        "A": node(90, "ImageUpscaleWithModel", [], {"image": IMAGES, "upscale_model": 92}),
        "B": node(91, "RIFE VFI", [2], {"frames": 90}),
        "C": node(92, "UpscaleModelLoader", ["4x.pth"]),
        "SaveAnimatedWEBP": node(10, "SaveAnimatedWEBP", ["a", 10, False, 85, "default"], {"images": 91}),
    }
    links = [[90, 90, 0, 91, 0, "IMAGE"], [91, 91, 0, 10, 0, "IMAGE"], [92, 92, 0, 90, 1, "UPSCALE_MODEL"]]
    said = r"what these nodes do: ImageUpscaleWithModel \(node 90\), RIFE VFI \(node 91\)\. Remove or bypass them"
    with pytest.raises(BadInput, match=said):
        read_workflow(written(tmp_path / "w.json", editor(**changed, links=links)))


def test_an_unknown_node_that_only_takes_the_frames_is_said_to_be_left_out(tmp_path: Path):
    content = api()
    content["40"] = {"class_type": "Show Frames", "inputs": {"images": ["8", 0]}}
    assert read_workflow(written(tmp_path / "w.json", content))[0].ignored[-1] == (
        "Show Frames (node 40): not known here, and left out."
    )


def test_a_negative_seed_is_called_negative(tmp_path: Path):
    (job,) = read_workflow(written(tmp_path / "w.json", sampler(seed=-3)))
    assert job.ignored[0] == f"KSampler (node 3): seed -3 is negative; {2**63 - 3} is used."
    assert job.values["seed"] == 2**63 - 3


def test_a_prefix_that_reads_like_a_seeds_control_is_a_prefix(tmp_path: Path):
    saver = node(10, "SaveAnimatedWEBP", ["fixed", 10, False, 85, "default"], {"images": IMAGES})
    job = read_workflow(written(tmp_path / "w.json", editor(SaveAnimatedWEBP=saver)))[0]
    assert job.values["prefix"] == "fixed"
    assert "quality 85, lossless" in job.ignored[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sampler(denoise=0.6), r"KSampler \(node 3\): denoise is 0.6; only 1 makes a clip"),
        (sampler(positive=["12", 1]), r"KSampler \(node 3\): its input positive comes from output 1 of SVD_img2vid"),
        (sampler(positive=["23", 0]), r"KSampler \(node 3\): its input positive comes from LoadImage \(node 23\)"),
        (sampler(model=None), r"KSampler \(node 3\): its input model is not connected"),
        (sampler(cfg=["14", 0]), r"KSampler \(node 3\): cfg comes from another node"),
        (sampler(cfg="high"), r"KSampler \(node 3\): cfg is 'high', not a number"),
        (sampler(seed=float("nan")), r"KSampler \(node 3\): seed is nan, not a number"),
        (sampler(steps=None), r"KSampler \(node 3\): steps has no value"),
        ({**api(), "14": {"class_type": "VideoLinearCFGGuidance", "inputs": {"min_cfg": 1, "model": ["14", 0]}}},
         "there is a second one between the model and the sampler"),
        ({"1": api()["15"]}, "the workflow has no KSampler"),
        ({}, "not a ComfyUI workflow"),
        ([1, 2], "not a ComfyUI workflow"),
        ({"nodes": [{"id": 1}], "links": []}, "not a ComfyUI workflow"),
        ({"3": {"class_type": "KSampler"}}, "not a ComfyUI workflow"),
        ({"3": "KSampler"}, "not a ComfyUI workflow"),
    ],
)  # fmt: skip
def test_what_changes_the_meaning_is_refused_by_node_and_name(tmp_path: Path, content: Any, said: str):
    with pytest.raises(BadInput, match=said) as caught:
        read_workflow(written(tmp_path / "w.json", content))
    assert "w.json" in str(caught.value)


def test_text_that_is_no_json_is_refused(tmp_path: Path):
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        read_graph(tmp_path / "w.json")


def test_every_sampler_is_a_job(tmp_path: Path):
    content = api()
    content["11"] = json.loads(json.dumps(content["3"]))
    content["11"]["inputs"]["seed"] = 78
    assert [job.values["seed"] for job in read_workflow(written(tmp_path / "w.json", content))] == [77, 78]


def test_a_lora_between_model_and_sampler_is_read(tmp_path: Path):
    content = api()
    lora = {"model": ["15", 0], "lora_name": "pan.safetensors", "strength_model": 0.8}
    content |= {"16": {"class_type": "LoraLoaderModelOnly", "inputs": lora}}
    content["14"]["inputs"]["model"] = ["16", 0]
    values = read_workflow(written(tmp_path / "w.json", content))[0].values
    assert (values["lora"], values["lora_strength"], values["model"]) == ("pan.safetensors", 0.8, "svd.safetensors")


@pytest.mark.parametrize("lora", [None, "/models/pan.safetensors"])
def test_a_job_written_as_a_workflow_is_read_back_as_it_was(tmp_path: Path, lora: str | None):
    row = VALUES | {
        "name": "beach",
        "image": "/pictures/beach.png",
        "lora": lora,
        "lora_strength": 0.5 if lora else None,
    }
    (job,) = read_workflow(written(tmp_path / "w.json", make_workflow(row)))
    expected = VALUES | {"prefix": "beach"} | ({"lora": lora, "lora_strength": 0.5} if lora else {})
    assert dict(job.values) == expected
    assert job.ignored == ()


HUGE = '{"1": {"class_type": "KSampler", "inputs": {"seed": %s}}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HUGE % ("1" * 5000), "it has a number of 5000 digits"),
        (HUGE % "1e999", "it has the number 1e999, which is too large"),
        (HUGE % ("[" * 200 + "]" * 200), "it is more than 100 levels deep"),
        (
            json.dumps({str(n): {"class_type": "Note", "inputs": {}} for n in range(3000)}),
            "has 3000 nodes and 0 inputs",
        ),
        (json.dumps({"nodes": [{"id": 1, "type": "Note"}] * 3000, "links": []}), "has 3000 nodes and 0 inputs"),
        (json.dumps({"1": {"class_type": "a", "inputs": dict.fromkeys(map(str, range(30_000)), 1)}}), "30000 inputs"),
    ],
)
def test_a_workflow_past_any_use_is_one_sentence(tmp_path: Path, text: str, said: str):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(BadInput, match=rf"w\.json: .*{said}") as caught:
        read_workflow(tmp_path / "w.json")
    assert len(str(caught.value)) < 400


def test_reroutes_that_lead_to_one_another_lead_nowhere(tmp_path: Path):
    content = editor()
    loops = [
        {"id": 90 + n, "type": "Reroute", "mode": 0, "inputs": [{"name": "", "link": 900 + n}], "widgets_values": []}
        for n in range(2)
    ]
    content["nodes"] += loops
    content["links"] += [[900, 91, 0, 90, 0, "*"], [901, 90, 0, 91, 0, "*"]]
    assert read_workflow(written(tmp_path / "w.json", content)) == read_workflow(written(tmp_path / "v.json", editor()))
    for each in content["nodes"]:
        if each["type"] == "KSampler":
            each["inputs"] = [{**entry, "link": 900} for entry in each["inputs"]]
    with pytest.raises(BadInput, match="is not connected"):
        read_workflow(written(tmp_path / "w.json", content))
