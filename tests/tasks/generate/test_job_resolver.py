"""What a family needs, takes and can make decides each job, from the configuration of its model's folder alone."""

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.families.known import FAMILIES
from models.weights.names import TINY
from tasks.generate.job_resolver import NAME_BYTES, Asking, add_prefix, make_printable, make_safe_name
from tasks.generate.job_settings import JobsConfig, read_list
from tests.hub_cache import COMMIT, cached
from tests.small_families import drawing_pipeline, save

CONFIGS: dict[str, Any] = {
    "model_index": {"_class_name": "AnimateDiffPipeline"},
    "vae/config": {"block_out_channels": [8, 8, 8, 8]},
    "unet/config": {"motion_max_seq_length": 24},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model's configuration and a LoRA's file in it."""
    for name, content in CONFIGS.items():
        path = tmp_path / "animatediff" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "pan.safetensors").write_bytes(b"weights")
    return tmp_path


def resolved(home: Path, row: dict[str, Any], **settings: Any) -> dict[str, Any]:
    lines = (row, {"image": "other.png", "prompt": "another row"})
    (home / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    listing, workflow = read_list(home / "jobs.jsonl", None)
    config = JobsConfig(model=str(home / "animatediff"), **settings)
    return Asking(listing, home, config, workflow).job(0, listing.rows[0])


def test_a_job_of_a_text_has_its_familys_own_numbers(home):
    row = resolved(home, {"prompt": "a red ball"})
    assert (row["status"], row["name"], row["family"]) == ("ready", "a-red-ball", "AnimateDiff")
    names = ("frames", "width", "height", "fps", "steps", "guidance_min", "guidance_max")
    assert [row[name] for name in names] == [16, 512, 512, 8.0, 25, 7.5, 7.5]
    assert (row["motion_bucket"], row["noise_aug"], row["image"], row["ignored"]) == (None, None, None, None)
    assert row["key"] == resolved(home, {"prompt": "a red ball", "steps": 3})["key"], "a text names its noise"
    assert row["key"] != resolved(home, {"prompt": "a blue ball"})["key"]


def test_a_text_for_all_jobs_stands_back_behind_a_rows_own(home):
    settings = {"prompt": "sky", "negative_prompt": "people"}
    own = resolved(home, {"prompt": "sea"}, **settings)
    assert (own["prompt"], own["negative_prompt"]) == ("sea", "people")
    assert resolved(home, {"image": "gone.png"}, **settings)["error_message"].startswith("gone.png: no such file")


def test_a_lora_of_another_family_needs_no_word_for_its_motion(home):
    row = resolved(home, {"prompt": "sky", "lora": "pan.safetensors", "motion": "pan_left"})
    assert (row["status"], row["motion"], row["word"], row["lora_strength"]) == ("ready", "pan_left", None, 1.0)
    assert row["lora"] == str(home / "pan.safetensors")
    assert "no LoRA file there" in resolved(home, {"prompt": "sky", "lora": "gone.safetensors"})["error_message"]
    alone = resolved(home, {"prompt": "sky", "motion": "pan_left"})["error_message"]
    assert alone.endswith("the model does not know it by name (it knows: none); give a LoRA for it.")


def test_an_unknown_motion_is_told_all_that_there_are_those_made_by_regions_too(home):
    (home / "a.png").write_bytes(b"picture")
    row = resolved(home, {"image": "a.png", "model": "tiny", "motion": "spiral"})
    known = "pan_left, pan_right, roll, static, tilt_down, tilt_up, zoom_in, zoom_out"
    assert f"(it knows: {known})" in row["error_message"]


def test_what_a_family_does_not_take_and_does_not_change_what_is_meant_is_said(home):
    row = resolved(home, {"prompt": "sky", "motion_bucket": 9, "fps": 12, "guidance_min": 1, "guidance_max": 5})
    assert row["ignored"] == [
        "motion_bucket: AnimateDiff does not take it.",
        "fps 12: AnimateDiff makes 8 a second, played at 12.",
        "guidance_min: AnimateDiff has one guidance for all frames, 5.",
    ]
    assert (row["guidance_min"], row["guidance_max"], row["fps"]) == (5.0, 5.0, 12.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 25}, "frames 25: clips of AnimateDiff have any number of frames, at least 2, at most 24; ask"),
        ({"prompt": None}, "AnimateDiff needs a text: give it in the column prompt, or --prompt for all."),
        ({"model": "sd"}, "model sd: there is no folder of that model"),
        ({"image": "pan.safetensors"}, "pan.safetensors: AnimateDiff makes clips from texts alone"),
    ],
)  # fmt: skip
def test_what_a_family_cannot_make_is_a_row_with_the_reason(home, change, said):
    row = resolved(home, {"prompt": "sky", "seed": 1} | change)
    assert row["status"] == "failed"
    assert row["error_message"].startswith(said)


def test_a_row_and_the_run_name_a_model_of_the_hub_and_its_commit_is_kept(home, hub_cache):
    cached(hub_cache, TINY, "org/svd")
    (home / "a.png").write_bytes(b"picture")
    row = resolved(home, {"image": "a.png", "model": "org/svd@main"})
    pinned = f"org/svd@{COMMIT}"
    assert (row["status"], row["model"], row["model_revision"]) == ("ready", pinned, pinned)
    (home / "jobs.csv").write_text("image\na.png\n")
    listing, _ = read_list(home / "jobs.csv", None)
    row = Asking(listing, home, JobsConfig(model="org/svd@main")).job(0, listing.rows[0])
    assert (row["status"], row["model"]) == ("ready", pinned)


def test_a_row_whose_model_is_not_in_the_cache_says_what_brings_it(home, hub_cache):
    row = resolved(home, {"prompt": "sky", "model": "org/svd@main"})
    assert (row["status"], row["error_code"]) == ("failed", "bad_model")
    assert row["error_message"].endswith("`hf download org/svd --revision main` downloads it.")


def test_a_model_of_the_hub_draws_the_picture_of_a_text(home, hub_cache, tmp_path):
    cached(hub_cache, save(drawing_pipeline, tmp_path / "drawer"), "org/drawer")
    asked = {"prompt": "sky", "model": "tiny", "picture_model": "org/drawer@main"}
    row = resolved(home, asked)
    pinned = f"org/drawer@{COMMIT}"
    assert (row["status"], row["picture_model"], row["picture_model_revision"]) == ("ready", pinned, pinned)
    cached(hub_cache, TINY, "org/svd")
    said = resolved(home, asked | {"picture_model": "org/svd@main"})["error_message"]
    assert "its class is StableVideoDiffusionPipeline, which cannot draw pictures here" in said


def test_a_configuration_that_is_not_its_familys_is_named(home):
    (home / "animatediff" / "unet" / "config.json").write_text('{"motion_max_seq_length": "many"}')
    row = resolved(home, {"prompt": "sky"})
    assert (row["error_code"], "is not that of AnimateDiff" in row["error_message"]) == ("bad_model", True)


def test_on_a_card_auto_is_the_precision_that_a_family_is_published_in(home, monkeypatch):
    assert resolved(home, {"prompt": "sky"})["dtype"] == "float32"
    monkeypatch.setattr("tasks.generate.job_resolver.find_device", lambda _: torch.device("cuda", 0))
    assert resolved(home, {"prompt": "sky"})["dtype"] == "float16"
    assert resolved(home, {"prompt": "sky"}, dtype="bfloat16")["dtype"] == "bfloat16"
    assert {family.NAME: family.RULES.gpu_precision for family in FAMILIES} == {
        "Stable Video Diffusion": "float16", "AnimateDiff": "float16", "CogVideoX": "bfloat16",
        "FramePack": "bfloat16", "HunyuanVideo": "bfloat16", "LTX-Video": "bfloat16", "Wan": "bfloat16",
    }  # fmt: skip


NAMES = {
    "../../etc/passwd": "etc-passwd",
    "caf\u00e9 au lait (2).x": "caf\u00e9-au-lait-2-.x",
    "cafe\u0301": "caf\u00e9",
    "\u72ac": "\u72ac",
    "\u9ce5_\u591c": "\u9ce5_\u591c",
    "Gr\u00f6\u00dfe": "Gr\u00f6\u00dfe",
    "\u0939\u093f\u0928\u094d\u0926\u0940": "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f415 dog": "\U0001f415-dog",
    'a<b>c:d"e|f?g*h\\i/j': "a-b-c-d-e-f-g-h-i-j",
    "a\u037eb": "a-b",
    "line\nbreak\ttab\0nul\x7f": "line-break-tab-nul",
    "\u202egnp.exe\u200b": "gnp.exe",
    "end. ": "end",
    "...": "item",
    "": "item",
    "\u3000": "item",
    "CON": "CON_",
    "aux.2026": "aux_.2026",
    "com\u00b9": "com\u00b9_",
    "console": "console",
}


@pytest.mark.parametrize("text", NAMES)
def test_names_keep_their_letters_and_are_safe_in_a_file_name(text: str):
    assert make_safe_name(text) == NAMES[text]


@given(st.text(max_size=300))
def test_any_text_gives_a_name_of_a_file_on_every_file_system(text: str):
    name = make_safe_name(text)
    assert 0 < len(name.encode()) <= NAME_BYTES
    assert name == normalize("NFC", name) == make_safe_name(name)
    assert not set(name) & set('<>:"/\\|?* ')
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert not name.endswith((".", " "))


@pytest.mark.parametrize("letter", ["a", "\u00df", "\u72ac", "\U0001f415"])
def test_a_long_name_is_cut_between_letters_by_its_bytes(letter: str):
    assert make_safe_name(letter * 300) == letter * (NAME_BYTES // len(letter.encode()))


def test_half_a_character_is_replaced_in_what_a_table_is_to_hold():
    assert make_printable("caf\u00e9 \U0001f600") == "caf\u00e9 \U0001f600"
    assert make_printable("a\ud800b") == "a?b"


def test_a_prefix_that_names_the_picture_does_not_name_it_again():
    assert add_prefix("night", "beach") == "night-beach"
    assert add_prefix("night-beach", "beach") == "night-beach"
    assert add_prefix("beach", "beach") == "beach"
    assert add_prefix("night-a-b", "a b") == "night-a-b"
    assert add_prefix("night1", "1") == "night1-1"
    assert add_prefix("", "beach") == "beach"
