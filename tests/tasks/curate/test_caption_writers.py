from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import BadInput
from tasks.curate.caption_writers import CaptionConfig, EndpointConfig, make_endpoint
from tests.declared import declared


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "transformers"}, "needs model"),
        ({"image_engine": "endpoint"}, "needs image_model"),
        ({"engine": "endpoint", "model": "m"}, "both image_engine and video_engine are needed"),
        ({"endpoint": {"base_url": "http://me:key@host/v1"}}, "base_url"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        CaptionConfig(**settings)


def test_a_relative_path_of_a_network_becomes_absolute_and_a_servers_name_stays():
    here = CaptionConfig(image_engine="transformers", image_model="models/blip")
    there = CaptionConfig(image_engine="endpoint", image_model="models/blip")
    assert (here.image_model, there.image_model) == (str(Path.cwd() / "models/blip"), "models/blip")


def test_a_key_that_the_environment_does_not_hold_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPTION_KEY", raising=False)
    with pytest.raises(BadInput, match="the environment has no CAPTION_KEY"):
        make_endpoint(EndpointConfig(key_env="CAPTION_KEY"), "m")


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EndpointConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "base_url": "'http://127.0.0.1:8000/v1', pattern='^https?://[^@\\\\s]+$'",
        "key_env": "None",
        "timeout_s": "60.0, gt=0",
        "attempts": "5, ge=1",
        "pause_s": "1.0, ge=0",
        "concurrency": "8, ge=1",
    }
    assert declared(CaptionConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "engine": "'attributes'",
        "model": "None",
        "image_engine": "'none'",
        "image_model": "None",
        "video_engine": "'none'",
        "video_model": "None",
        "image_prompt": "'Describe this picture in one plain sentence.'",
        "video_prompt": (
            "'These pictures are from one video, in order. Describe in one plain sentence what happens in it.'"
        ),
        "video_frames": "6, ge=2",
        "merge_prompt": (
            "'Two descriptions of one short video. Of its middle frame: {image}\\nOf the whole: "
            "{video}\\nWrite one sentence that describes the video, from these alone. Answer with the "
            "sentence only.'"
        ),
        "endpoint": "EndpointConfig()",
    }
