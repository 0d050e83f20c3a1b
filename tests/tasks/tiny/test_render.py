"""The embedded model's footage: every scene forwards and backwards, with the truth of how it moves."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.measures.camera import measure_motion
from tasks.footage import OPPOSITE, compute_mean_flow
from tasks.manifest import digest_file, read_manifest, read_rows
from tasks.media.video import read_frames
from tasks.tiny.render import SCHEMA, SHARES, STEP, RenderConfig, film_scene, render_files, write_dataset
from tests.declared import declared

cv2.setNumThreads(1)

CONFIG = RenderConfig(scenes=5, scenes_per_file=3, side=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, of three and of two scenes, joined to a dataset."""
    root = tmp_path_factory.mktemp("footage")
    write_dataset.fn(root, render_files.fn(root, CONFIG, [0, 3]))
    return root


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.to_ndarray(format="rgb24") for _, frame in read_frames(path)])


@pytest.mark.slow
def test_scenes_are_filmed_in_the_shares_and_at_the_speeds_given():
    config = RenderConfig(scenes=1000, side=32, frames=2)
    shown = [film_scene(index, config)[:2] for index in range(200)]
    for motion, share in SHARES.items():
        assert np.mean([m == motion for m, _ in shown]) == pytest.approx(share, abs=0.1)
    for motion, flow in shown:
        assert compute_mean_flow(motion, 0.25) <= flow <= compute_mean_flow(motion, 0.75)


def test_the_shares_are_of_a_whole():
    assert sum(SHARES.values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_scene_does_what_its_row_says_forwards_and_backwards(root: Path):
    rows = read_rows(root / "clips.parquet")
    assert len(rows) == 2 * CONFIG.scenes
    for row in rows:
        first, last = (round(row[name] * CONFIG.fps) for name in ("start_s", "end_s"))
        frames = frames_of(root / row["source"])[first:last]
        measured = measure_motion(frames, [i / CONFIG.fps for i in range(len(frames))])
        assert measured.motion == row["camera_motion"], row
        assert measured.magnitude == pytest.approx(row["motion_score"], rel=0.3, abs=0.05), row


def test_every_scene_is_there_twice_with_opposite_motions_and_the_same_pictures(root: Path):
    rows = read_rows(root / "clips.parquet")
    assert len(rows) == 2 * CONFIG.scenes
    for there, back in zip(rows[::2], rows[1::2], strict=True):
        assert OPPOSITE[there["camera_motion"]] == back["camera_motion"]
        assert there["motion_score"] == back["motion_score"]
        frames, first = frames_of(root / there["source"]), round(there["start_s"] * CONFIG.fps)
        shown, again = frames[first : first + 8].astype(int), frames[first + 8 : first + 16].astype(int)
        assert np.abs(shown - again[::-1]).mean() < 3


def test_the_dataset_is_like_a_curated_one(root: Path):
    clips = read_rows(root / "clips.parquet")
    assert read_manifest(root / "clips.parquet").schema.names == [n for n in SCHEMA.names if n != "digest"]
    assert all(clip["keep"] for clip in clips)
    assert len({clip["clip_id"] for clip in clips}) == len(clips)
    videos = {video["video_id"]: video for video in read_rows(root / "videos.parquet")}
    assert {clip["video_id"] for clip in clips} == set(videos)
    for video_id, video in videos.items():
        assert video["digest"] == digest_file(root / video["source"])
        assert video["digest"].startswith(video_id)


def test_a_file_is_rendered_once_and_the_same_each_time(tmp_path: Path, root: Path):
    (found,) = render_files.fn(root, CONFIG, [3])
    (made,) = render_files.fn(tmp_path, CONFIG, [3])
    assert (found.cached, made.cached, made.digest) == (True, False, found.digest)


def test_another_seed_gives_other_scenes():
    first, other = (film_scene(0, RenderConfig(seed=seed, side=32))[2] for seed in (0, 1000))
    assert np.abs(first.astype(int) - other).mean() > 20


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(RenderConfig) == {
        "": "frozen=True, extra='forbid'",
        "scenes": "1000, ge=1",
        "scenes_per_file": "40, ge=1",
        "frames": "8, ge=2",
        "fps": "7.0, gt=0",
        "side": "128, ge=32",
        "slowest": "0.25, gt=0",
        "fastest": "0.75, gt=0",
        "seed": "0, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert render_files.name == "render"
    assert write_dataset.name == "dataset"
    assert STEP.files == ("source",)
