from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.measures.clip_similarity import load_clip
from tasks.caching import make_lineage
from tasks.curate import caption
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.similarity import (
    NO_HEAD,
    OFF,
    SCHEMA,
    SimilarityConfig,
    compute_cosines,
    describe_similarity,
    list_models,
    measure_similarity,
)
from tasks.curate.video_manifests import VideoManifests
from tasks.manifest import make_table, read_lineage, read_manifest, read_rows, write_manifest
from tasks.media.frame_store import load_first_middle_last
from tests.declared import declared
from tests.small_models import save_clip, save_head

SCENE = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def config(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> SimilarityConfig:
    head = save_head(tmp_path_factory.mktemp("head") / "aesthetic.safetensors")
    return SimilarityConfig(clip_model=str(clip), aesthetic_head=str(head))


def captioned(dataset, video: VideoManifests, **texts: str | None) -> VideoManifests:
    """The video with captions of its clips, all the same."""
    rows = [{"clip_id": row["clip_id"], "attempt": 1, **texts} for row in read_rows(video.split)]
    path = dataset.root / "manifests" / "caption" / f"{video.split.digest[:8]}.parquet"
    made = write_manifest(path, make_table(rows, caption.SCHEMA), make_lineage(caption.STEP, None, []))
    return video._replace(caption=made)


def measure(dataset, config: SimilarityConfig, shots: list[np.ndarray], **texts: str | None) -> list[dict[str, Any]]:
    (ref,) = measure_similarity.fn(dataset.root, config, [captioned(dataset, dataset.add("a", shots), **texts)])
    return read_rows(ref)


def test_similarity_is_the_cosine_of_each_caption_with_each_frame():
    frames = np.array([[1, 0], [0.6, 0.8]], np.float32)
    captions = np.array([[0, 1], [-1, 0], [0.6, 0.8]], np.float32)
    assert compute_cosines(frames, captions) == pytest.approx(np.array([[0, 0.8], [-1, -0.6], [0.6, 1]]))


def test_the_similarity_of_one_caption_is_not_one():
    """A softmax over a single caption would say 1.0 of anything."""
    frames, told = np.array([[1, 0]] * 3, np.float32), {"caption": np.array([0.6, 0.8], np.float32)}
    found = describe_similarity(frames, told, None)
    assert found["clip_similarity"] == pytest.approx(0.6)
    assert found["clip_similarities"] == pytest.approx([0.6] * 3)
    assert found["aesthetic"] is None
    assert found["similarity_note"] == NO_HEAD


def test_scores_are_means_over_the_frames():
    frames, told = np.array([[1, 0], [0, 1], [0, 1]], np.float32), {"caption_video": np.array([0, 1], np.float32)}
    found = describe_similarity(frames, told, np.array([3, 6, 6], np.float32))
    assert (found["clip_similarity_video"], found["aesthetic"]) == (pytest.approx(2 / 3), 5.0)
    assert found["clip_similarities"] is None


def test_a_clips_columns_are_what_the_network_says_of_its_frames_and_captions(dataset, clip, config):
    texts = {"caption": "a dog runs", "caption_image": "a dog", "caption_video": "the camera pans left"}
    (row,) = measure(dataset, config, [SCENE], **texts)
    frames = load_first_middle_last(dataset.root / "frames/a.parquet", 0, 1000)
    images, told = load_clip(clip).embed(list(frames), list(texts.values()))
    expected = told @ images.T
    assert row["clip_similarities"] == pytest.approx(expected[0], abs=1e-5)
    names = ("clip_similarity", "clip_similarity_image", "clip_similarity_video")
    assert [row[name] for name in names] == pytest.approx(expected.mean(axis=1), abs=1e-5)
    assert row["aesthetic"] == pytest.approx(5 + 10 * images[:, 0].mean(), abs=1e-4)
    assert row["embedding"] == pytest.approx(images.ravel(), abs=1e-5)
    assert row["clip_model"].startswith(f"{clip.name}:")
    assert (row["similarity_note"], row["error_code"]) == (None, None)


def test_black_bars_are_not_compared(dataset, clip, config):
    """Of a film in bars, the network sees what it sees of the picture inside them."""
    barred = np.zeros((9, 48, 96, 3), np.uint8)
    barred[:, :, 16:80] = SCENE
    video = captioned(dataset, dataset.add("a", [barred]), caption="a dog")
    (look,) = measure_look.fn(dataset.root, LookConfig(), [video])
    (ref,) = measure_similarity.fn(dataset.root, config, [video._replace(look=look)])
    (row,) = read_rows(ref)
    frames = load_first_middle_last(dataset.root / "frames/a.parquet", 0, 1000)
    bars = [read_rows(look)[0][f"bar_{side}"] for side in ("left", "right")]
    assert bars == pytest.approx([16, 16], abs=2)
    images, _ = load_clip(clip).embed([frame[:, bars[0] : 96 - bars[1]] for frame in frames], ["a dog"])
    assert row["embedding"] == pytest.approx(images.ravel(), abs=1e-5)


def test_a_clip_of_one_frame_has_as_many_numbers_as_any_other(dataset, config):
    rows = measure(dataset, config, [SCENE, SCENE[:1], SCENE[:2]], caption="a dog")
    assert [len(row["embedding"]) for row in rows] == [24] * 3
    assert rows[1]["embedding"][:8] == rows[1]["embedding"][16:]
    assert {len(row["clip_similarities"]) for row in rows} == {3}


def test_a_caption_that_is_null_has_no_similarity(dataset, config):
    (row,) = measure(dataset, config, [SCENE], caption="a dog", caption_image=None)
    assert (row["clip_similarity"] is None, row["clip_similarity_image"]) == (False, None)


def test_without_a_model_all_is_null_and_the_row_says_why(dataset):
    rows = measure(dataset, SimilarityConfig(), [SCENE, SCENE[:2]], caption="a dog")
    measured = set(SCHEMA.names) - {"clip_id", "similarity_note", "attempt"}
    assert [{row[name] for name in measured} for row in rows] == [{None}, {None}]
    assert {row["similarity_note"] for row in rows} == {OFF}


def test_without_a_model_captions_do_not_matter(dataset):
    video = dataset.add("a", [SCENE])
    videos = [captioned(dataset, video, caption=text) for text in ("a dog", "the beach")]
    assert [measure_similarity.fn(dataset.root, SimilarityConfig(), [v])[0].cached for v in videos] == [False, True]


def test_another_caption_is_compared_anew_and_the_key_has_the_content_of_the_models(dataset, config):
    video = dataset.add("a", [SCENE])
    refs = [
        measure_similarity.fn(dataset.root, config, [captioned(dataset, video, caption=text)])[0]
        for text in ("a dog", "a dog", "the beach")
    ]
    assert [ref.cached for ref in refs] == [False, True, False]
    lineage = read_lineage(refs[0].path)
    assert lineage.model_revision == " ".join(lineage.parameters[name] for name in ("clip_model", "aesthetic_head"))
    assert "/" not in (lineage.model_revision or "/")


def test_a_head_for_another_clip_is_an_error_of_each_row(dataset, clip: Path, tmp_path: Path):
    head = save_head(tmp_path / "head.safetensors", width=5)
    config = SimilarityConfig(clip_model=str(clip), aesthetic_head=str(head))
    (row,) = measure(dataset, config, [SCENE], caption="a dog")
    assert (row["aesthetic"], row["error_code"]) == (None, "bad_model")
    assert "for embeddings of 5 numbers" in row["error_message"]


def test_a_missing_frame_store_is_an_error_of_its_clips_alone(dataset, config):
    gone, fine = dataset.add("a", [SCENE]), dataset.add("b", [SCENE])
    (dataset.root / "frames" / "a.parquet").unlink()
    videos = [captioned(dataset, video, caption="a dog") for video in (gone, fine)]
    broken, whole = (read_rows(ref)[0] for ref in measure_similarity.fn(dataset.root, config, videos))
    assert (broken["error_code"], broken["clip_similarity"]) == ("bad_manifest", None)
    assert whole["error_code"] is None


def test_a_video_that_failed_has_no_rows(dataset, config):
    video = dataset.failed("a")
    for settings in (config, SimilarityConfig()):
        (ref,) = measure_similarity.fn(dataset.root, settings, [captioned(dataset, video)])
        assert read_manifest(ref).schema == SCHEMA
        assert ref.rows == 0


def test_a_head_without_its_clip_is_refused():
    with pytest.raises(ValidationError, match="clip_model is needed"):
        SimilarityConfig(aesthetic_head="head.safetensors")
    assert list_models(SimilarityConfig(clip_model="a@b")) == {"clip_model": "a@b"}


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(SimilarityConfig) == {
        "": "frozen=True, extra='forbid'",
        "clip_model": "None",
        "aesthetic_head": "None",
    }


def test_the_step_goes_by_its_name():
    assert measure_similarity.name == "similarity"
