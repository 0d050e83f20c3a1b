"""Who writes captions: the settings that name networks and servers, and the questions they are asked.

A network runs in this process (models/captions/captioners.py); a server speaks OpenAI's chat completions
(models/captions/endpoint.py).
"""

import os
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from models.captions.captioners import load_image_captioner, load_video_captioner, load_writer
from models.captions.endpoint import ChatRequest, Endpoint
from models.errors import BadInput, ReelmillError
from models.pictures import Frames
from models.weights.hub_cache import find_model, resolve_name

COLUMNS = ("caption", "caption_image", "caption_video")
"""What is written, each with the model that wrote it."""

Engine = Literal["none", "transformers", "endpoint"]

Answer = str | ReelmillError
"""A text, or why there is none."""


class EndpointConfig(BaseModel):
    """The server that the engine `endpoint` asks. Its key is read from the environment and never written down."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base_url: str = Field(
        default="http://127.0.0.1:8000/v1",
        pattern=r"^https?://[^@\s]+$",
        description="Address of the server, without /chat/completions at its end.",
    )
    key_env: str | None = Field(default=None, description="Environment variable that holds the server's key.")
    timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for one answer, in seconds.")
    attempts: int = Field(default=5, ge=1, description="Attempts for one question before it counts as failed.")
    pause_s: float = Field(
        default=1.0, ge=0, description="Pause before the second attempt, in seconds; it doubles each time."
    )
    concurrency: int = Field(default=8, ge=1, description="Questions asked at the same time, per worker.")


class CaptionConfig(BaseModel):
    """Who writes the captions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Literal["attributes", "transformers", "endpoint"] = Field(
        default="attributes",
        description="Who writes `caption`: a sentence from the measurements, or a model that merges the others.",
    )
    model: str | None = Field(
        default=None, description="The language model: ID@REVISION, a folder or a server's name for it."
    )
    image_engine: Engine = Field(default="none", description="Who writes `caption_image`.")
    image_model: str | None = Field(default=None, description="The image captioner, named like `model`.")
    video_engine: Engine = Field(default="none", description="Who writes `caption_video`.")
    video_model: str | None = Field(default=None, description="The video captioner, named like `model`.")
    image_prompt: str = Field(
        default="Describe this picture in one plain sentence.", description="endpoint: the question about a picture."
    )
    video_prompt: str = Field(
        default="These pictures are from one video, in order. Describe in one plain sentence what happens in it.",
        description="endpoint: the question about a video's frames.",
    )
    video_frames: int = Field(default=6, ge=2, description="endpoint: number of a video's frames that are sent.")
    merge_prompt: str = Field(
        default="Two descriptions of one short video. Of its middle frame: {image}\nOf the whole: {video}\n"
        "Write one sentence that describes the video, from these alone. Answer with the sentence only.",
        description="The question to the language model; {image} and {video} are the two captions.",
    )
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig, description="The server of captions.")

    @field_validator("model", "image_model", "video_model")
    @classmethod
    def _found_from_anywhere(cls, model: str | None, info: ValidationInfo) -> str | None:
        """Make a relative path absolute; a server's model names stay as they are."""
        engine = info.data.get((info.field_name or "").removesuffix("model") + "engine")
        return resolve_name(model) if model and engine == "transformers" else model

    @model_validator(mode="after")
    def _names_its_models(self) -> Self:
        for engine, model, setting in (
            (self.image_engine, self.image_model, "image_model"),
            (self.video_engine, self.video_model, "video_model"),
            (self.engine, self.model, "model"),
        ):
            if engine in ("transformers", "endpoint") and not model:
                raise ValueError(f"the engine {engine} needs {setting}")
        if self.engine != "attributes" and "none" in (self.image_engine, self.video_engine):
            raise ValueError("a language model merges two captions, so both image_engine and video_engine are needed")
        return self


def list_models(config: CaptionConfig) -> dict[str, str]:
    """Return the models that the settings ask for in this process, by the setting that names them."""
    asked = {
        "image_model": (config.image_engine, config.image_model),
        "video_model": (config.video_engine, config.video_model),
        "model": (config.engine, config.model),
    }
    return {name: model for name, (engine, model) in asked.items() if engine == "transformers" and model}


def make_endpoint(config: EndpointConfig, model: str) -> Endpoint:
    """Return the server's model, with the key from the environment; raise BadInput when the environment does not have
    it."""
    key = os.environ.get(config.key_env) if config.key_env else None
    if config.key_env and not key:
        raise BadInput(
            f"caption.endpoint.key_env: the environment has no {config.key_env}. Set it to the server's key."
        )
    settings = config.model_dump(exclude={"key_env"})
    return Endpoint(model=model, key=key, **settings)


def find_missing_key(config: CaptionConfig) -> list[str]:
    """Return a line when a server's key is needed and the environment does not have it."""
    try:
        if "endpoint" in (config.engine, config.image_engine, config.video_engine):
            make_endpoint(config.endpoint, "")
    except BadInput as error:
        return [str(error)]
    return []


def describe_pictures(pictures: Sequence[Frames], config: CaptionConfig) -> Sequence[Answer]:
    """Caption each picture, uint8 RGB [1, height, width, 3]."""
    model = config.image_model or ""
    if config.image_engine == "endpoint":
        return make_endpoint(config.endpoint, model).ask(
            [ChatRequest(config.image_prompt, list(picture)) for picture in pictures]
        )
    return load_image_captioner(find_model(model).path).describe(pictures)


def describe_videos(videos: Sequence[Frames], config: CaptionConfig) -> Sequence[Answer]:
    """Caption each video, uint8 RGB [frames, height, width, 3], with `count_frames` frames each."""
    model = config.video_model or ""
    if config.video_engine == "endpoint":
        return make_endpoint(config.endpoint, model).ask(
            [ChatRequest(config.video_prompt, list(video)) for video in videos]
        )
    return load_video_captioner(find_model(model).path).describe(videos)


def merge(pairs: Sequence[tuple[str, str]], config: CaptionConfig) -> Sequence[Answer]:
    """Merge each pair of captions, of the picture and of the video, into one caption by the language model."""
    prompts = [config.merge_prompt.replace("{image}", image).replace("{video}", video) for image, video in pairs]
    model = config.model or ""
    if config.engine == "endpoint":
        return make_endpoint(config.endpoint, model).ask([ChatRequest(prompt) for prompt in prompts])
    return load_writer(find_model(model).path).answer(prompts)


def count_frames(config: CaptionConfig) -> int:
    """Return how many frames of a clip the video captioner looks at."""
    if config.video_engine == "transformers":
        return load_video_captioner(find_model(config.video_model or "").path).frames or 1
    return config.video_frames


def name_writers(config: CaptionConfig) -> dict[str, str | None]:
    """Return the model that writes each of COLUMNS, as ID@COMMIT or by its name on the server; None where no model
    writes it."""
    engines = (config.engine, config.image_engine, config.video_engine)
    models = (config.model, config.image_model, config.video_model)
    return {
        name: f"{model} at {config.endpoint.base_url}" if engine == "endpoint" else _find_revision(engine, model)
        for name, engine, model in zip(COLUMNS, engines, models, strict=True)
    }


def _find_revision(engine: str, model: str | None) -> str | None:
    return find_model(model).revision if engine == "transformers" and model else None
