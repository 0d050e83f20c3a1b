from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import BadInput
from tasks.curate.caption_writers import CaptionConfig, EndpointConfig, server_of


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
        server_of(EndpointConfig(key_env="CAPTION_KEY"), "m")
