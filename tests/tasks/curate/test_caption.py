import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import BadModel
from tasks.curate.caption import NEEDS, ask_all, caption_clips, load_clip_frames, spread_frames
from tasks.curate.caption_writers import CaptionConfig, EndpointConfig, find_missing_key, list_models
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.motion import MotionConfig, measure_motion
from tasks.curate.text import TextConfig, find_text
from tasks.curate.video_manifests import add_manifests, read_clips
from tasks.footage import Camera, Scene, render_shot, render_title
from tasks.manifest import read_rows
from tests.chat_server import Server, said, serving
from tests.small_models import save_image_captioner, save_video_captioner, save_writer


def caption(dataset, *videos, config: CaptionConfig | None = None):
    """The captions of scanned videos, through the steps whose measures they are made of."""
    root, listed = dataset.root, list(videos)
    looks = measure_look.fn(root, LookConfig(), listed)
    motions = measure_motion.fn(root, MotionConfig(), listed)
    texts = find_text.fn(root, TextConfig(), listed)
    measured = add_manifests(listed, look=looks, motion=motions, text=texts)
    return caption_clips.fn(root, config or CaptionConfig(), measured)


def test_clips_are_captioned_from_their_own_measures(dataset):
    pan = render_shot(Scene(2), Camera(pan=0.3), 48, size=(96, 64))
    card = render_title(["HELLO", "WORLD"], 12, (96, 64))
    (ref,) = caption(dataset, dataset.add("a", [pan, card], every=12))
    first, second = read_rows(ref)
    assert first["caption"].startswith("For 2.0 seconds, the camera pans right across a ")
    assert "text" not in first["caption"]
    assert second["caption"].startswith("For 0.5 seconds, the camera stands still before a ")
    assert second["caption"].endswith("with text on screen.")
    assert {first[name] for name in ("caption_image", "caption_video", "caption_model", "error_code")} == {None}
    assert first["caption_note"].startswith(
        "No caption_image: no captioner is named (caption.image_engine). No caption_"
    )
    assert {row["caption_engine"] for row in (first, second)} == {"attributes"}


def test_a_clip_that_could_not_be_measured_still_has_a_caption(dataset, flat):
    gone = dataset.add("a", [flat(24)])
    (dataset.root / "frames" / "a.parquet").unlink()
    first, second = caption(dataset, gone, dataset.failed("b"))
    assert [row["caption"] for row in read_rows(first)] == ["For 1.0 seconds, the camera shows a scene."]
    assert second.rows == 0


def test_captions_are_found_again(dataset, flat):
    video = dataset.add("a", [flat(12)])
    assert [caption(dataset, video)[0].cached for _ in range(2)] == [False, True]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image captioner, a video captioner and a language model."""
    folder = tmp_path_factory.mktemp("models")
    save_image_captioner(folder / "image", word="dog")
    save_video_captioner(folder / "video", word="pans", frames=6)
    save_writer(folder / "writer", answer="the camera pans left")
    return folder


def in_process(models: Path, **settings: Any) -> CaptionConfig:
    named = {"model": "writer", "image_model": "image", "video_model": "video"}
    engines: dict[str, Any] = dict.fromkeys(("engine", "image_engine", "video_engine"), "transformers")
    paths: dict[str, Any] = {name: str(models / folder) for name, folder in named.items()}
    return CaptionConfig(**(engines | paths | settings))


def test_networks_write_the_three_captions_each_with_its_model_and_revision(dataset, flat, models: Path):
    (ref,) = caption(dataset, dataset.add("a", [flat(12), flat(2, 200)]), config=in_process(models))
    rows = read_rows(ref)
    assert len(rows) == 2
    for row in rows:
        assert set(row["caption_image"].split()) == {"dog"}
        assert set(row["caption_video"].split()) == {"pans"}
        assert row["caption"] == "the camera pans left"
        assert row["caption_engine"] == "transformers"
        assert row["caption_model"].startswith("writer:")
        assert row["caption_image_model"].startswith("image:")
        assert row["caption_video_model"].startswith("video:")
        assert (row["caption_note"], row["error_code"]) == (None, None)


def test_a_picture_may_be_described_beside_a_sentence_of_attributes(dataset, flat, models: Path):
    config = CaptionConfig(image_engine="transformers", image_model=str(models / "image"))
    (row,) = read_rows(caption(dataset, dataset.add("a", [flat(12)]), config=config)[0])
    assert row["caption"].startswith("For 0.5 seconds")
    assert (row["caption_engine"], row["caption_model"], row["caption_video"]) == ("attributes", None, None)
    assert row["caption_image"].startswith("dog")
    assert row["caption_note"] == "No caption_video: no captioner is named (caption.video_engine)."


def test_a_model_moved_elsewhere_is_the_same_and_another_one_is_not(dataset, flat, models: Path, tmp_path: Path):
    video = dataset.add("a", [flat(12)])
    config = in_process(models)
    moved = shutil.copytree(models, tmp_path / "moved")
    assert not caption(dataset, video, config=config)[0].cached
    assert caption(dataset, video, config=in_process(Path(moved)))[0].cached
    other = save_image_captioner(tmp_path / "image", word="beach")
    (ref,) = caption(dataset, video, config=config.model_copy(update={"image_model": str(other)}))
    assert not ref.cached
    assert read_rows(ref)[0]["caption_image"].startswith("beach")


def test_a_model_that_says_nothing_is_an_error_and_the_other_captions_stay(dataset, flat, models: Path, tmp_path: Path):
    silent = save_image_captioner(tmp_path / "silent", word="[SEP]")
    config = in_process(models, image_model=str(silent))
    (row,) = read_rows(caption(dataset, dataset.add("a", [flat(12)]), config=config)[0])
    assert row["caption_image"] is None
    assert row["caption_image_model"] is None
    assert row["caption"] is None
    assert row["caption_video"].startswith("pans")
    assert row["error_code"] == "bad_model"
    assert row["error_message"] == "caption_image: the model returned an empty answer."


def test_a_clip_without_frames_is_its_own_error(dataset, flat, models: Path):
    gone, fine = dataset.add("a", [flat(12)]), dataset.add("b", [flat(12)])
    (dataset.root / "frames" / "a.parquet").unlink()
    broken, whole = (read_rows(ref)[0] for ref in caption(dataset, gone, fine, config=in_process(models)))
    assert (broken["caption"], broken["caption_image"], broken["error_code"]) == (None, None, "bad_manifest")
    assert whole["caption"] == "the camera pans left"


def test_what_captioners_see_has_no_black_bars(dataset):
    barred = np.zeros((9, 48, 96, 3), np.uint8)
    barred[:, :, 16:80] = np.random.default_rng(0).integers(60, 255, (9, 48, 64, 3), dtype=np.uint8)
    video = dataset.add("a", [barred])
    (clip,) = read_clips(video._replace(look=measure_look.fn(dataset.root, LookConfig(), [video])[0]), NEEDS)
    for number in (1, 4):
        seen = load_clip_frames(dataset.root / "frames/a.parquet", clip, number)
        assert isinstance(seen, np.ndarray)
        assert seen.shape == (number, 48, 96 - clip["bar_left"] - clip["bar_right"], 3)
        assert seen.mean(axis=(0, 1, 3)).min() > 100


def test_the_middle_frame_is_described_and_the_video_by_frames_spread_over_it():
    times = [0.0, 0.04, 0.5, 1.0, 1.5, 2.0]
    assert spread_frames(times, 1) == [3]
    assert spread_frames(times, 3) == [0, 3, 5]
    assert spread_frames(times, 5) == [0, 2, 3, 4, 5]
    assert spread_frames([1.0], 4) == [0, 0, 0, 0]


def test_errors_and_nothing_are_not_asked_about():
    failed = BadModel("no.")
    assert ask_all(["a", None, failed, "b"], lambda items: [f"{item}!" for item in items]) == [
        "a!",
        None,
        failed,
        "b!",
    ]


def test_what_goes_wrong_with_all_is_told_of_each():
    def broken(items: object) -> list[str]:
        raise BadModel("not a model.")

    assert [str(answer) for answer in ask_all(["a", None, "b"], broken)] == ["not a model.", "None", "not a model."]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def at(server: Server, **settings: Any) -> CaptionConfig:
    """All three captions from one server."""
    engines: dict[str, Any] = dict.fromkeys(("engine", "image_engine", "video_engine"), "endpoint")
    named: dict[str, Any] = {"model": "org/writer", "image_model": "org/seer", "video_model": "org/watcher"}
    endpoint: dict[str, Any] = {"base_url": server.url, "attempts": 2, "pause_s": 0.01, "concurrency": 1} | settings
    return CaptionConfig(**engines, **named, endpoint=EndpointConfig(**endpoint))


def test_a_server_writes_the_three_captions(dataset, flat, server: Server):
    server.answers = [said("A dog."), said("A dog runs."), said("A dog runs on the beach.")]
    (row,) = read_rows(caption(dataset, dataset.add("a", [flat(12)]), config=at(server))[0])
    assert [row[name] for name in ("caption_image", "caption_video", "caption")] == [
        "A dog.",
        "A dog runs.",
        "A dog runs on the beach.",
    ]
    assert row["caption_model"] == f"org/writer at {server.url}"
    assert [body["model"] for body in server.asked] == ["org/seer", "org/watcher", "org/writer"]
    pictures = [body["messages"][0]["content"] for body in server.asked]
    assert [len(content) for content in pictures[:2]] == [2, 7]
    assert "A dog.\nOf the whole: A dog runs." in pictures[2]


def test_what_the_server_refuses_is_an_error_of_that_clip(dataset, flat, server: Server):
    config = CaptionConfig(image_engine="endpoint", image_model="seer", endpoint=at(server).endpoint)
    server.answers = [said("One."), (400, {"error": "too dark"}), said("Three.")]
    rows = read_rows(caption(dataset, dataset.add("a", [flat(12), flat(12, 9), flat(12)]), config=config)[0])
    assert [row["caption_image"] for row in rows] == ["One.", None, "Three."]
    assert [row["error_code"] for row in rows] == [None, "endpoint_failed", None]
    assert "too dark" in rows[1]["error_message"]
    assert all(row["caption"] for row in rows)


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    dataset, flat, server: Server, monkeypatch: pytest.MonkeyPatch
):
    config = at(server, key_env="CAPTION_KEY")
    assert ["CAPTION_KEY" in line for line in find_missing_key(config)] == [True]
    monkeypatch.setenv("CAPTION_KEY", "very-secret")
    assert find_missing_key(config) == []
    caption(dataset, dataset.add("a", [flat(12)]), config=config)
    assert {headers["authorization"] for headers in server.headers} == {"Bearer very-secret"}
    written = [path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()]
    assert written
    assert not any(b"very-secret" in content for content in written)


def test_how_patiently_a_server_is_asked_changes_no_caption(dataset, flat, server: Server):
    video = dataset.add("a", [flat(12)])
    assert not caption(dataset, video, config=at(server))[0].cached
    assert caption(dataset, video, config=at(server, timeout_s=5.0, concurrency=3))[0].cached


def test_models_of_this_process_are_named_and_a_servers_are_not(models: Path, server: Server):
    assert set(list_models(in_process(models))) == {"model", "image_model", "video_model"}
    assert list_models(at(server)) == list_models(CaptionConfig()) == {}


def test_the_step_goes_by_its_name():
    assert caption_clips.name == "caption"
