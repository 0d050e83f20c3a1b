"""Caption: what a clip shows, in English: `caption_image` of its middle frame, `caption_video` of several frames, and
`caption`, the one to train with.

As in Stable Video Diffusion (arXiv 2311.15127, C.1), a language model merges the first two into the third. Each column
is written by the engine that its setting names: networks in this process (models/captions/captioners.py), or a server
with OpenAI's chat completions (models/captions/endpoint.py). By default `caption` is a sentence composed from the
measurements (models/captions/attributes.py). The other two are then null, and `caption_note` says so. `caption_engine`
says which engine wrote `caption`, and the columns `*_model` say which model wrote each column, with its revision.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from prefect import task

from models.captions.attributes import compose
from models.errors import BadModel, ReelmillError, TooShort
from models.pictures import Frames
from models.weights.hub_cache import find_model
from tasks import clip_measures
from tasks.attempts import caught, failure_of
from tasks.caching import Step, find_or_compute
from tasks.curate.caption_writers import (
    COLUMNS,
    Answer,
    CaptionConfig,
    EndpointConfig,
    count_frames,
    describe_pictures,
    describe_videos,
    list_models,
    merge,
    name_writers,
)
from tasks.curate.video_manifests import VideoManifests, list_frame_stores, read_clips, see_inside_bars
from tasks.manifest import ManifestRef, make_table
from tasks.media.frame_store import NONE_STORED, load_frames, read_frame_times

VERSION = 2

NEEDS = {
    "scan": ("frame_store",),
    "split": ("clip_id", "start_s", "end_s", "start_pts", "end_pts", "width", "height"),
    "look": ("clip_id", "bar_top", "bar_bottom", "bar_left", "bar_right", "brightness", "contrast", "colours"),
    "motion": ("clip_id", "camera_motion", "camera_strength", "camera_roll", "object_motion"),
    "text": ("clip_id", "text_area"),
}

SCHEMA = clip_measures.make_step_schema(clip_measures.CAPTION)

STEP = Step("caption", VERSION, SCHEMA)

BATCH = 16
"""Clips whose frames are in memory at a time."""

Item = TypeVar("Item")
T = TypeVar("T")


def resolve_settings(config: CaptionConfig) -> CaptionConfig:
    """Return the settings that captions depend on: models by their revisions, and of the server its address alone."""
    revisions = {name: find_model(model).revision for name, model in list_models(config).items()}
    asks = "endpoint" in (config.engine, config.image_engine, config.video_engine)
    server = EndpointConfig(base_url=config.endpoint.base_url) if asks else EndpointConfig()
    return config.model_copy(update={**revisions, "endpoint": server})


def spread_frames(times_s: Sequence[float], number: int) -> list[int]:
    """Return the indices of the frames nearest to `number` times, spread evenly from the first of the rising `times_s`
    to the last.

    An index occurs twice where there are too few frames; a single one is nearest to the middle.
    """
    first, last = times_s[0], times_s[-1]
    wanted = np.linspace(first, last, number) if number > 1 else np.array([(first + last) / 2])
    return np.abs(np.asarray(times_s)[None] - wanted[:, None]).argmin(axis=1).tolist()


def ask_all(
    items: Sequence[Item | ReelmillError | None], ask: Callable[[Sequence[Item]], Sequence[Answer]]
) -> list[Answer | None]:
    """Return the answer of `ask` for each item; an item that is null or an error stays as it is, and an empty answer is
    an error."""
    asked = [item for item in items if item is not None and not isinstance(item, ReelmillError)]
    answers = iter(_ask(asked, ask))
    replies = [item if item is None or isinstance(item, ReelmillError) else next(answers) for item in items]
    return [BadModel("the model returned an empty answer.") if answer == "" else answer for answer in replies]


def _ask(items: Sequence[Item], ask: Callable[[Sequence[Item]], Sequence[Answer]]) -> Sequence[Answer]:
    """Return the answers; where a library fails on several items, each is asked for alone."""
    answers = _attempt(lambda: ask(items)) if items else []
    if not isinstance(answers, ReelmillError):
        return answers
    if len(items) == 1 or type(answers) is not ReelmillError:
        return [answers] * len(items)
    return [answer for item in items for answer in _ask([item], ask)]


def _attempt(call: Callable[[], T]) -> T | ReelmillError:
    """Return what `call` returns, or its error; a library's error becomes a plain ReelmillError."""
    made = caught(call, "caption")
    if isinstance(made, ReelmillError) or not isinstance(made, Exception):
        return made
    return ReelmillError(failure_of(made, None, "captioning")["error_message"])


def load_clip_frames(store: Path, clip: Mapping[str, Any], number: int) -> Frames | ReelmillError:
    """Load `number` frames of a clip, spread over its stored frames and without its black bars; a single one is the
    middle frame."""
    return _attempt(lambda: _load_frames(store, clip, number))


def _load_frames(store: Path, clip: Mapping[str, Any], number: int) -> Frames:
    stored = [frame for frame in read_frame_times(store) if clip["start_pts"] <= frame[0] < clip["end_pts"]]
    if not stored:
        raise TooShort(NONE_STORED)
    chosen = [stored[i][0] for i in spread_frames([time for _, time in stored], number)]
    return see_inside_bars(clip, load_frames(store, chosen))


def caption_batch(
    store: Path | None, clips: Sequence[Mapping[str, Any]], config: CaptionConfig
) -> list[dict[str, Any]]:
    """Return the rows of some clips of one video, captioned from its frames in `store` and from the clips'
    measurements."""
    none = [None] * len(clips)
    image, video = none, none
    if store and config.image_engine != "none":
        pictures = [load_clip_frames(store, clip, 1) for clip in clips]
        image = ask_all(pictures, partial(describe_pictures, config=config))
    if store and config.video_engine != "none":
        videos = [load_clip_frames(store, clip, count_frames(config)) for clip in clips]
        video = ask_all(videos, partial(describe_videos, config=config))
    if config.engine == "attributes":
        captions: Sequence[Answer | None] = [_attempt(partial(compose, clip)) for clip in clips]
    else:
        pairs = [
            (a, b) if isinstance(a, str) and isinstance(b, str) else None for a, b in zip(image, video, strict=True)
        ]
        captions = ask_all(pairs, partial(merge, config=config))
    described = zip(clips, captions, image, video, strict=True)
    return [make_row(clip, dict(zip(COLUMNS, texts, strict=True)), config) for clip, *texts in described]


def make_row(clip: Mapping[str, Any], answers: Mapping[str, Answer | None], config: CaptionConfig) -> dict[str, Any]:
    """Return a clip's row from the answer for each of COLUMNS; a column without a text is null, and the row has the
    reasons."""
    texts = {name: text if isinstance(text, str) else None for name, text in answers.items()}
    writers = {f"{name}_model": name_writers(config)[name] if texts[name] else None for name in COLUMNS}
    wrong = {name: error for name, error in answers.items() if isinstance(error, ReelmillError)}
    reasons = {
        "error_code": next((error.code for error in wrong.values() if not isinstance(error, TooShort)), None),
        "error_message": "; ".join(f"{name}: {error}" for name, error in wrong.items()) or None,
    }
    engine = config.engine if texts["caption"] else None
    noted = {"caption_engine": engine, "caption_note": note_missing(config)}
    return {"clip_id": clip["clip_id"], **texts, **noted, **writers, **reasons, "attempt": 1}


def note_missing(config: CaptionConfig) -> str | None:
    """Say which captions nobody was asked for, and which settings ask; None when all were asked for."""
    asked = {"caption_image": config.image_engine, "caption_video": config.video_engine}
    settings = {name: name.replace("_", ".") + "_engine" for name, engine in asked.items() if engine == "none"}
    return " ".join(f"No {name}: no captioner is named ({setting})." for name, setting in settings.items()) or None


def caption_video(root: Path, config: CaptionConfig, video: VideoManifests) -> ManifestRef:
    """Return the captions of one video's clips below `root`: found, or made."""

    def compute(_: str) -> pa.Table:
        stores, clips = list_frame_stores(root, video), read_clips(video, NEEDS)
        store = stores[0] if stores else None
        batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
        return make_table([row for batch in batches for row in caption_batch(store, batch, config)], SCHEMA)

    # A sentence of attributes needs no pictures: a scan that only stored more frames leaves it as it is.
    looks = any(engine != "none" for engine in (config.image_engine, config.video_engine))
    read = [step for step in NEEDS if looks or step != "scan"]
    return find_or_compute(STEP, root, resolve_settings(config), video.of(read), compute)


@task(name="caption")
def caption_clips(root: Path, config: CaptionConfig, videos: Sequence[VideoManifests]) -> list[ManifestRef]:
    """Caption the clips of a chunk of videos, from what look, motion and text measured of them."""
    return [caption_video(root, config, video) for video in videos]
