"""Caption: what a clip shows, in English: `caption_image` of its middle frame, `caption_video` of several frames, and
`caption`, the one to train with.

As in Stable Video Diffusion (arXiv 2311.15127, C.1), a language model merges the first two to the third. Each column is
written by the engine its setting names: networks in this process (models/captioners.py), or a server with OpenAI's chat
completions (models/endpoint.py). By default `caption` is a sentence composed from what was measured
(models/attributes.py) and the other two are null. `caption_engine` says which engine wrote `caption`, and the columns
`*_model` say which model at which revision wrote each.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from models.attributes import compose
from models.captioners import load_image_captioner, load_video_captioner, load_writer
from models.endpoint import Endpoint, Request
from models.errors import BadInput, BadMedia, BadModel, ReelmillError
from models.hub import find_model, given_name
from tasks.caching import Step, cached
from tasks.frames import Frames, load_frames, read_frame_times
from tasks.manifest import ERROR_FIELDS, ManifestRef, read_rows, table_of

VERSION = 1

NEEDS_OF_SCAN = ("frame_store",)

NEEDS = (
    ("clip_id", "start_s", "end_s", "start_pts", "end_pts"),
    ("clip_id", "brightness", "contrast", "colours"),
    ("clip_id", "camera_motion", "camera_strength", "camera_roll", "object_motion"),
    ("clip_id", "text_area"),
)
"""Columns read of the split, and of the steps look, motion and text."""

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("caption", pa.string()),
        ("caption_image", pa.string()),
        ("caption_video", pa.string()),
        ("caption_engine", pa.string()),
        ("caption_model", pa.string()),
        ("caption_image_model", pa.string()),
        ("caption_video_model", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("caption", VERSION, SCHEMA)

COLUMNS = ("caption", "caption_image", "caption_video")
"""What is written, each with the model that wrote it."""

BATCH = 16
"""Clips whose frames are in memory at a time."""

Engine = Literal["none", "transformers", "endpoint"]

Item = TypeVar("Item")

Answer = str | ReelmillError
"""A text, or why there is none."""


class EndpointConfig(BaseModel):
    """The server that the engine `endpoint` asks. Its key is read from the environment and written nowhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(
        default="http://127.0.0.1:8000/v1",
        pattern=r"^https?://[^@\s]+$",
        description="Address of the server, up to what stands before /chat/completions.",
    )
    key_env: str | None = Field(default=None, description="Environment variable that holds the server's key.")
    timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for one answer, in seconds.")
    attempts: int = Field(default=5, ge=1, description="Times that one question is asked before it has failed.")
    pause_s: float = Field(default=1.0, ge=0, description="Pause before the second attempt; it doubles.")
    concurrency: int = Field(default=8, ge=1, description="Questions at a time, for each worker.")


class CaptionConfig(BaseModel):
    """Who writes the captions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["attributes", "transformers", "endpoint"] = Field(
        default="attributes",
        description="Who writes `caption`: a sentence of what was measured, or a language model from the others.",
    )
    model: str | None = Field(default=None, description="The language model: ID@REVISION, a folder, a server's.")
    image_engine: Engine = Field(default="none", description="Who writes `caption_image`.")
    image_model: str | None = Field(default=None, description="The image captioner, as above.")
    video_engine: Engine = Field(default="none", description="Who writes `caption_video`.")
    video_model: str | None = Field(default=None, description="The video captioner, as above.")
    image_prompt: str = Field(
        default="Describe this picture in one plain sentence.", description="endpoint: what is asked of a picture."
    )
    video_prompt: str = Field(
        default="These pictures are from one video, in order. Describe in one plain sentence what happens in it.",
        description="endpoint: what is asked of a video's frames.",
    )
    video_frames: int = Field(default=6, ge=2, description="endpoint: frames of a video that are shown.")
    merge_prompt: str = Field(
        default="Two descriptions of one short video. Of its middle frame: {image}\nOf the whole: {video}\n"
        "Write one sentence that describes the video, from these alone. Answer with the sentence only.",
        description="What the language model is asked; {image} and {video} are the two captions.",
    )
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig, description="The server of captions.")

    @field_validator("model", "image_model", "video_model")
    @classmethod
    def _found_from_anywhere(cls, model: str | None, info: ValidationInfo) -> str | None:
        """A server's names of its models stay as they are; a relative path becomes absolute."""
        engine = info.data.get((info.field_name or "").removesuffix("model") + "engine")
        return given_name(model) if model and engine == "transformers" else model

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


def models_of(config: CaptionConfig) -> dict[str, str]:
    """The models that the settings ask for in this process, by the setting that names them."""
    asked = {
        "image_model": (config.image_engine, config.image_model),
        "video_model": (config.video_engine, config.video_model),
        "model": (config.engine, config.model),
    }
    return {name: model for name, (engine, model) in asked.items() if engine == "transformers" and model}


def keyed(config: CaptionConfig) -> CaptionConfig:
    """The settings that captions depend on: models by their revisions, and of the server its address alone."""
    revisions = {name: find_model(model).revision for name, model in models_of(config).items()}
    asks = "endpoint" in (config.engine, config.image_engine, config.video_engine)
    server = EndpointConfig(base_url=config.endpoint.base_url) if asks else EndpointConfig()
    return config.model_copy(update={**revisions, "endpoint": server})


def server_of(config: EndpointConfig, model: str) -> Endpoint:
    """The server's model, with the key that the environment holds; raises BadInput when it holds none."""
    key = os.environ.get(config.key_env) if config.key_env else None
    if config.key_env and not key:
        raise BadInput(
            f"caption.endpoint.key_env: the environment has no {config.key_env}. Set it to the server's key."
        )
    settings = config.model_dump(exclude={"key_env"})
    return Endpoint(model=model, key=key, **settings)


def missing_key(config: CaptionConfig) -> list[str]:
    """A line when the server's key is asked for and the environment does not hold it."""
    try:
        if "endpoint" in (config.engine, config.image_engine, config.video_engine):
            server_of(config.endpoint, "")
    except BadInput as error:
        return [str(error)]
    return []


def spread(times_s: Sequence[float], number: int) -> list[int]:
    """Indices of the frames nearest to `number` times spread evenly from the first to the last of the rising `times_s`,
    some twice where there are fewer frames; of one, nearest to the middle."""
    first, last = times_s[0], times_s[-1]
    wanted = np.linspace(first, last, number) if number > 1 else np.array([(first + last) / 2])
    return np.abs(np.asarray(times_s)[None] - wanted[:, None]).argmin(axis=1).tolist()


def describe_pictures(pictures: Sequence[Frames], config: CaptionConfig) -> Sequence[Answer]:
    """The caption of each of some pictures, uint8 RGB [1, height, width, 3]."""
    model = config.image_model or ""
    if config.image_engine == "endpoint":
        return server_of(config.endpoint, model).ask(
            [Request(config.image_prompt, list(picture)) for picture in pictures]
        )
    return load_image_captioner(find_model(model).path).describe(pictures)


def describe_videos(videos: Sequence[Frames], config: CaptionConfig) -> Sequence[Answer]:
    """The caption of each of some videos, uint8 RGB [frames, height, width, 3], `frames_seen` frames each."""
    model = config.video_model or ""
    if config.video_engine == "endpoint":
        return server_of(config.endpoint, model).ask([Request(config.video_prompt, list(video)) for video in videos])
    return load_video_captioner(find_model(model).path).describe(videos)


def merge(pairs: Sequence[tuple[str, str]], config: CaptionConfig) -> Sequence[Answer]:
    """One caption out of each pair of captions, of the picture and of the video, by the language model."""
    prompts = [config.merge_prompt.replace("{image}", image).replace("{video}", video) for image, video in pairs]
    model = config.model or ""
    if config.engine == "endpoint":
        return server_of(config.endpoint, model).ask([Request(prompt) for prompt in prompts])
    return load_writer(find_model(model).path).answer(prompts)


def frames_seen(config: CaptionConfig) -> int:
    """How many frames of a clip the video captioner looks at."""
    if config.video_engine == "transformers":
        return load_video_captioner(find_model(config.video_model or "").path).frames or 1
    return config.video_frames


def answered(
    items: Sequence[Item | ReelmillError | None], ask: Callable[[Sequence[Item]], Sequence[Answer]]
) -> list[Answer | None]:
    """What `ask` says of each item; one that is null or an error stays what it is, and silence is an error."""
    asked = [item for item in items if item is not None and not isinstance(item, ReelmillError)]
    try:
        answers = iter(ask(asked) if asked else ())
    except ReelmillError as error:
        answers = repeat(error)
    told = [item if item is None or isinstance(item, ReelmillError) else next(answers) for item in items]
    return [BadModel("the model said nothing.") if answer == "" else answer for answer in told]


def looked_at(store: Path, clip: Mapping[str, Any], number: int) -> Frames | ReelmillError:
    """`number` frames of a clip, spread over those that are stored; of one, the middle frame."""
    try:
        stored = [frame for frame in read_frame_times(store) if clip["start_pts"] <= frame[0] < clip["end_pts"]]
        if not stored:
            raise BadMedia(f"{clip['clip_id']}: no frame of it is stored. Delete its frame store and run again.")
        return load_frames(store, [stored[i][0] for i in spread([time for _, time in stored], number)])
    except ReelmillError as error:
        return error


def caption_batch(
    store: Path | None, clips: Sequence[Mapping[str, Any]], config: CaptionConfig
) -> list[dict[str, Any]]:
    """The rows of some clips of one video, from its frames in `store` and from what was measured of them."""
    none = [None] * len(clips)
    image, video = none, none
    if store and config.image_engine != "none":
        pictures = [looked_at(store, clip, 1) for clip in clips]
        image = answered(pictures, partial(describe_pictures, config=config))
    if store and config.video_engine != "none":
        videos = [looked_at(store, clip, frames_seen(config)) for clip in clips]
        video = answered(videos, partial(describe_videos, config=config))
    if config.engine == "attributes":
        captions: Sequence[Answer | None] = [compose(clip) for clip in clips]
    else:
        pairs = [
            (a, b) if isinstance(a, str) and isinstance(b, str) else None for a, b in zip(image, video, strict=True)
        ]
        captions = answered(pairs, partial(merge, config=config))
    told = zip(clips, captions, image, video, strict=True)
    return [row_of(clip, dict(zip(COLUMNS, texts, strict=True)), config) for clip, *texts in told]


def row_of(clip: Mapping[str, Any], told: Mapping[str, Answer | None], config: CaptionConfig) -> dict[str, Any]:
    """A clip's row from what was told for each of COLUMNS; what could not be told is null, with the reasons."""
    texts = {name: text if isinstance(text, str) else None for name, text in told.items()}
    writers = {f"{name}_model": writers_of(config)[name] if texts[name] else None for name in COLUMNS}
    wrong = {name: error for name, error in told.items() if isinstance(error, ReelmillError)}
    reasons = {
        "error_code": next((error.code for error in wrong.values()), None),
        "error_message": "; ".join(f"{name}: {error}" for name, error in wrong.items()) or None,
    }
    engine = config.engine if texts["caption"] else None
    return {"clip_id": clip["clip_id"], **texts, "caption_engine": engine, **writers, **reasons, "attempt": 1}


def writers_of(config: CaptionConfig) -> dict[str, str | None]:
    """The model that writes each of COLUMNS, as ID@COMMIT, or as the server knows it; null for measured attributes."""
    engines = (config.engine, config.image_engine, config.video_engine)
    models = (config.model, config.image_model, config.video_model)
    return {
        name: f"{model} at {config.endpoint.base_url}" if engine == "endpoint" else _revision(engine, model)
        for name, engine, model in zip(COLUMNS, engines, models, strict=True)
    }


def _revision(engine: str, model: str | None) -> str | None:
    return find_model(model).revision if engine == "transformers" and model else None


def caption_video(root: Path, config: CaptionConfig, manifests: Sequence[ManifestRef]) -> ManifestRef:
    """The captions of one video's clips below `root`, given by its scan, split, look, motion and text."""
    scan, *measured = manifests

    def compute(_: str) -> pa.Table:
        clips: dict[str, dict[str, Any]] = {}
        for manifest, columns in zip(measured, NEEDS, strict=True):
            for row in read_rows(manifest, columns):
                clips.setdefault(row["clip_id"], {}).update(row)
        stores = [root / row["frame_store"] for row in read_rows(scan, NEEDS_OF_SCAN) if row["frame_store"]]
        store, listed = (stores[0] if stores else None), list(clips.values())
        batches = [listed[start : start + BATCH] for start in range(0, len(listed), BATCH)]
        return table_of([row for batch in batches for row in caption_batch(store, batch, config)], SCHEMA)

    # A sentence of attributes needs no pictures: a scan that only stored more frames leaves it as it is.
    looks = any(engine != "none" for engine in (config.image_engine, config.video_engine))
    return cached(STEP, root, keyed(config), manifests if looks else measured, compute)


@task(name="caption", cache_policy=NO_CACHE)
def caption_clips(
    root: Path,
    config: CaptionConfig,
    videos: list[tuple[ManifestRef, ManifestRef, ManifestRef, ManifestRef, ManifestRef]],
) -> list[ManifestRef]:
    """Caption the clips of a chunk of videos, each given by its scan, split, look, motion and text."""
    return [caption_video(root, config, manifests) for manifests in videos]
