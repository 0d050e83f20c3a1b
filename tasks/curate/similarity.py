"""Similarity: how well captions match a clip's pictures, and how pleasing these are, from one CLIP forward pass.

`clip_similarity` is the mean cosine, -1 to 1, between the embedding of `caption` and those of the first, middle and
last stored frame, inside the black bars; `clip_similarity_image` and `clip_similarity_video` are those of the other two
captions, and `clip_similarities` has the cosine of `caption` with each frame. `aesthetic` is the mean over these frames
of LAION's score, about 1 to 10. `embedding` has the embeddings of the first, middle and last frame one after the other,
each of length 1; the cosine of two clips' embeddings is the mean of their frames' cosines. Source: Stable Video
Diffusion (arXiv 2311.15127, C.2 and C.5). All of these need weights: without them the columns are null, and
`similarity_note` says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.measures.clip_similarity import load_clip, score_aesthetics
from models.weights.hub_cache import ModelName, find_model
from tasks import clip_measures
from tasks.caching import Step, find_or_compute
from tasks.curate.video_manifests import ClipRow, VideoManifests, make_clip_rows, measure_video, see_inside_bars
from tasks.manifest import ManifestRef, make_table, read_rows
from tasks.media.frame_store import load_first_middle_last

VERSION = 2

NEEDS = {
    "scan": ("frame_store",),
    "split": ("clip_id", "start_pts", "end_pts", "width", "height"),
    "look": ("clip_id", "bar_top", "bar_bottom", "bar_left", "bar_right"),
    "caption": ("clip_id", "caption", "caption_image", "caption_video"),
}

SCHEMA = clip_measures.make_step_schema(clip_measures.SIMILARITY)

STEP = Step("similarity", VERSION, SCHEMA)

CAPTIONS = {
    "caption": "clip_similarity",
    "caption_image": "clip_similarity_image",
    "caption_video": "clip_similarity_video",
}
"""The captions, and the columns of their similarity."""

OFF = "Not measured: no CLIP model is named (similarity.clip_model)."

NO_HEAD = "No aesthetic score: no head is named (similarity.aesthetic_head)."


class SimilarityConfig(BaseModel):
    """Which networks compare; none by default, because their weights are not available everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_model: ModelName | None = Field(
        default=None, description="CLIP: ID@REVISION or a folder; without it nothing is measured."
    )
    aesthetic_head: ModelName | None = Field(
        default=None, description="The head of the aesthetic score, a safetensors file made for this CLIP."
    )

    @model_validator(mode="after")
    def _head_has_its_model(self) -> Self:
        if self.aesthetic_head and not self.clip_model:
            raise ValueError("the aesthetic_head reads CLIP's embeddings, so clip_model is needed")
        return self


def list_models(config: SimilarityConfig) -> dict[str, str]:
    """Return the models that the settings ask for, by the setting that names them."""
    named = {"clip_model": config.clip_model, "aesthetic_head": config.aesthetic_head}
    return {setting: name for setting, name in named.items() if name}


def compute_cosines(frames: NDArray[np.float32], captions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosines [captions, frames] of embeddings [frames, width] and [captions, width], each of length 1."""
    return captions @ frames.T


def describe_similarity(
    embeddings: NDArray[np.float32], captions: Mapping[str, NDArray[np.float32]], aesthetics: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Return the measured columns from the embeddings [3, width] of a clip's frames, those of its captions, [width] by
    the caption's column, and the frames' aesthetic scores."""
    cosines = {name: compute_cosines(embeddings, embedding[None])[0] for name, embedding in captions.items()}
    means = {CAPTIONS[name]: float(values.mean()) for name, values in cosines.items()}
    return {
        **means,
        "clip_similarities": cosines["caption"].tolist() if "caption" in cosines else None,
        "aesthetic": None if aesthetics is None else float(aesthetics.mean()),
        "similarity_note": NO_HEAD if aesthetics is None else None,
        "embedding": embeddings.ravel(),
    }


def measure_clip(store: Path, clip: ClipRow, config: SimilarityConfig) -> dict[str, Any]:
    """Measure one clip, from its frames in `store` and its captions; return its columns."""
    captions = {name: clip[name] for name in CAPTIONS if clip.get(name)}
    model = find_model(config.clip_model or "")
    frames = see_inside_bars(clip, load_first_middle_last(store, clip["start_pts"], clip["end_pts"]))
    seen, texts = load_clip(model.path).embed(list(frames), list(captions.values()))
    # A clip of one or two frames shows them as its first, middle and last all the same.
    embeddings = seen[[round(i * (len(seen) - 1) / 2) for i in range(3)]]
    head = config.aesthetic_head
    aesthetics = score_aesthetics(find_model(head).path, embeddings) if head else None
    embedded = dict(zip(captions, texts, strict=True))
    return describe_similarity(embeddings, embedded, aesthetics) | {"clip_model": model.revision}


def make_unmeasured(split: ManifestRef) -> pa.Table:
    """Return the rows of a split's clips where no model measures them."""
    rows = (row for row in read_rows(split, ("clip_id",)) if row["clip_id"])
    return make_table([{**row, "similarity_note": OFF, "attempt": 1} for row in rows], SCHEMA)


@task(name="similarity")
def measure_similarity(root: Path, config: SimilarityConfig, videos: Sequence[VideoManifests]) -> list[ManifestRef]:
    """Measure the clips of a chunk of videos; without a model, their rows say so."""
    if not config.clip_model:
        splits = [video.split for video in videos]
        return [
            find_or_compute(STEP, root, config, [split], lambda _, split=split: make_unmeasured(split))
            for split in splits
        ]
    revisions = {setting: find_model(name).revision for setting, name in list_models(config).items()}
    settings, revision = config.model_copy(update=revisions), " ".join(revisions.values())

    def measure(store: Path, clips: Sequence[ClipRow]) -> list[dict[str, Any]]:
        return make_clip_rows(clips, lambda clip: measure_clip(store, clip, config), "similarity")

    return [measure_video(STEP, root, settings, NEEDS, video, measure, revision) for video in videos]
