from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.measures.camera import measure_motion as measure_frames
from tasks.curate import motion
from tasks.curate.look import LookConfig, measure_look
from tasks.curate.motion import SCHEMA, MotionConfig, list_models, measure_clip, measure_motion, space_evenly
from tasks.curate.scan import Sampling, scan_file
from tasks.curate.video_manifests import VideoManifests
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_manifest, read_rows
from tasks.media.video import write_video
from tests.declared import declared
from tests.small_models import save_raft

CONFIG = MotionConfig()


def shot(
    seed: int, camera: Camera, frames: int = 48, fps: float = 24.0, size: tuple[int, int] = (96, 64), movers: int = 0
):
    return render_shot(Scene(seed, movers), camera, frames, fps, size)


def rows(root: Path, video: VideoManifests, config: MotionConfig = CONFIG) -> list[dict[str, Any]]:
    return read_rows(measure_motion.fn(root, config, [video])[0])


def test_a_pan_of_three_pixels_a_frame_has_its_speed_in_sides_per_second(dataset):
    height, fps = 192, 24.0
    speed = 3 * fps / height
    video = dataset.add("a", [shot(1, Camera(pan=speed), size=(320, height))], fps, every=12)
    (row,) = rows(dataset.root, video)
    assert row["motion_score"] == pytest.approx(speed, rel=0.1)
    assert row["camera_pan"] == pytest.approx(speed, rel=0.03)
    assert row["camera_motion"] == "pan_right"
    assert row["error_code"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("size", "fps"), [((96, 64), 24.0), ((256, 144), 24.0), ((96, 64), 60.0), ((96, 64), 10.0)])
def test_the_score_depends_on_neither_resolution_nor_frame_rate(dataset, size: tuple[int, int], fps: float):
    video = dataset.add("a", [shot(2, Camera(tilt=0.3), int(2 * fps), fps, size)], fps, every=int(fps / 2))
    (row,) = rows(dataset.root, video)
    assert row["motion_score"] == pytest.approx(0.3, rel=0.07)


@pytest.mark.parametrize("bars", [((44, 44), (0, 0)), ((0, 0), (100, 100))])
def test_black_bars_change_neither_the_speed_nor_the_class(dataset, bars: tuple[tuple[int, int], tuple[int, int]]):
    pan = shot(3, Camera.doing("pan_left", 0.3), size=(320, 180))
    (top, bottom), (left, right) = bars
    barred = pan.copy()
    barred[:, :top], barred[:, 180 - bottom :] = 0, 0
    barred[:, :, :left], barred[:, :, 320 - right :] = 0, 0
    plain, boxed = (dataset.add(name, [frames], every=12) for name, frames in (("a", pan), ("b", barred)))
    (row,), (found,) = (
        rows(dataset.root, video._replace(look=measure_look.fn(dataset.root, LookConfig(), [video])[0]))
        for video in (plain, boxed)
    )
    assert found["camera_motion"] == row["camera_motion"] == "pan_left"
    assert found["motion_score"] == pytest.approx(0.3, rel=0.05)
    assert found["camera_pan"] == pytest.approx(row["camera_pan"], rel=0.05)


def test_motion_that_cancels_out_counts_as_motion(dataset):
    """The mean of magnitudes: the mean of signed flow would be nothing for a zoom."""
    (row,) = rows(dataset.root, dataset.add("a", [shot(3, Camera(zoom=0.4))], every=12))
    assert row["motion_score"] > 0.15
    assert abs(row["camera_pan"]) + abs(row["camera_tilt"]) < 0.02


def test_frames_are_measured_at_full_working_size_not_at_sixteen_pixels(dataset):
    """Bands that slide to the left and to the right by turns blend into a still when they are two pixels high."""
    grain = np.random.default_rng(0).integers(0, 2, (48, 90)).repeat(4, 0).repeat(2, 1) * 200
    slides = [
        np.concatenate([np.roll(band, 3 * i * (-1) ** n, 1) for n, band in enumerate(np.split(grain, 6))])
        for i in range(4)
    ]
    frames = np.stack(slides)[..., None].repeat(3, axis=-1).astype(np.uint8)
    (row,) = rows(dataset.root, dataset.add("a", [frames], fps=2.0))
    assert row["motion_score"] == pytest.approx(2 * 3 / 180, rel=0.2)


def test_a_still_does_not_move_and_a_shape_in_it_does(dataset):
    still, busy = rows(dataset.root, dataset.add("a", [shot(5, Camera()), shot(5, Camera(), movers=3)], every=12))
    assert (still["motion_score"], still["camera_motion"]) == (pytest.approx(0, abs=1e-4), "static")
    assert busy["camera_motion"] == "static"
    assert busy["object_motion"] > 0.005


@pytest.mark.slow
def test_each_clip_is_measured_on_its_own_frames(dataset):
    shots = [shot(6, Camera.doing(motion, 0.4)) for motion in ("pan_left", "tilt_up", "zoom_out", "roll")]
    found = rows(dataset.root, dataset.add("a", shots, every=12))
    assert [row["camera_motion"] for row in found] == ["pan_left", "tilt_up", "zoom_out", "roll"]
    assert found[3]["camera_roll"] == pytest.approx(24, rel=0.05)


def test_a_clip_of_one_frame_has_nulls_and_the_reason_and_has_not_failed(dataset):
    clips = [shot(7, Camera(), 1), shot(7, Camera(pan=0.3), 24)]
    lone, pan = rows(dataset.root, dataset.add("a", clips, every=12))
    measured = set(SCHEMA.names) - {"clip_id", "error_code", "error_message", "attempt"}
    assert {lone[name] for name in measured} == {None}
    assert lone["error_code"] is None
    assert lone["error_message"].startswith("frames stored: 1, and motion needs two.")
    assert pan["camera_motion"] == "pan_right"


@pytest.mark.slow
def test_a_missing_frame_store_is_an_error_of_its_clips_alone(dataset):
    gone, fine = (dataset.add(name, [shot(8, Camera(pan=0.3), 24)], every=12) for name in ("a", "b"))
    (dataset.root / "frames" / "a.parquet").unlink()
    broken, whole = (read_rows(ref)[0] for ref in measure_motion.fn(dataset.root, CONFIG, [gone, fine]))
    assert broken["error_code"] == "bad_manifest"
    assert broken["motion_score"] is None
    assert whole["error_code"] is None


def test_a_measurement_that_does_not_end_is_an_error_of_its_clips_alone(dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(motion, "LIMIT_S", 0.0)
    monkeypatch.setattr(motion, "LIMIT_FACTOR", 0.0)
    found = rows(dataset.root, dataset.add("a", [shot(8, Camera(pan=0.3), 24)] * 2, every=12))
    assert [row["error_code"] for row in found] == ["decoder_timeout"] * 2
    assert [row["motion_score"] for row in found] == [None] * 2


def test_a_video_that_failed_has_no_rows(dataset):
    (ref,) = measure_motion.fn(dataset.root, CONFIG, [dataset.failed("a")])
    assert read_manifest(ref).schema == SCHEMA
    assert ref.rows == 0


@pytest.mark.slow
def test_the_same_call_is_found_and_another_density_is_not(dataset):
    video = dataset.add("a", [shot(9, Camera(pan=0.3), 24)], every=6)
    first, again = (measure_motion.fn(dataset.root, CONFIG, [video])[0] for _ in range(2))
    denser = measure_motion.fn(dataset.root, MotionConfig(frames_per_s=4.0), [video])[0]
    assert (first.cached, again.cached, denser.cached) == (False, True, False)
    assert first.digest == again.digest


def test_frames_are_taken_evenly_whatever_else_is_stored():
    times = [0.0, 0.04, 0.1, 0.5, 0.6, 1.1, 1.6, 1.7]
    assert [times[i] for i in space_evenly(times, 2.0)] == [0.0, 0.5, 1.1, 1.7]
    assert space_evenly([3.0, 3.04], 2.0) == [0, 1]
    assert space_evenly([3.0], 2.0) == [0]
    assert space_evenly([], 2.0) == []


def test_an_uneven_last_step_does_not_change_the_speed(dataset):
    video = dataset.add("a", [shot(10, Camera(pan=0.3), 40)], every=12)
    assert rows(dataset.root, video)[0]["motion_score"] == pytest.approx(0.3, rel=0.05)


def test_stored_frames_give_what_the_frames_themselves_give(dataset):
    frames = shot(11, Camera(pan=0.25, tilt=0.05), 25)
    (row,) = rows(dataset.root, dataset.add("a", [frames], every=12))
    direct = measure_frames(frames[::12], [i / 24 for i in range(0, 25, 12)])
    assert row["motion_score"] == pytest.approx(direct.magnitude, rel=0.03)
    assert np.hypot(row["camera_pan"], row["camera_tilt"]) == pytest.approx(direct.strength, rel=0.03)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that see everything move by 9.6 pixels to the left and 4.8 up."""
    return save_raft(tmp_path_factory.mktemp("raft") / "raft.safetensors", step=(-0.1, -0.05))


def film(folder: Path, camera: Camera, seed: int = 91) -> tuple[Path, dict[str, Any]]:
    """A film of 1.5 s at 30 frames a second as it is scanned: its frame store, and a clip of all of it."""
    path, store = folder / "film.mp4", folder / "frames.parquet"
    write_video(path, render_shot(Scene(seed), camera, 45, 30, (320, 180)), 30)
    scan = scan_file(path, store, Sampling())
    known = {"width": 320, "height": 180, "bar_top": 0, "bar_bottom": 0, "bar_left": 0, "bar_right": 0}
    return store, known | {"clip_id": "c", "start_pts": int(scan["pts"][0]), "end_pts": scan["end_pts"]}


@pytest.mark.parametrize(
    ("camera", "expected", "column", "speed"),
    [
        (Camera(pan=2.0), "pan_right", "camera_pan", 2.0),
        (Camera(pan=-3.0), "pan_left", "camera_pan", -3.0),
        (Camera(tilt=2.0), "tilt_up", "camera_tilt", 2.0),
        (Camera(roll=90.0), "roll", "camera_roll", 90.0),
        (Camera(roll=-150.0), "roll", "camera_roll", -150.0),
    ],
)
def test_a_fast_camera_is_measured_to_frames_stored_soon_after(
    tmp_path: Path, camera: Camera, expected: str, column: str, speed: float
):
    store, clip = film(tmp_path, camera)
    found = measure_clip(store, clip, MotionConfig())
    assert found["camera_motion"] == expected
    assert found[column] == pytest.approx(speed, rel=0.15)


def test_what_is_unknown_is_null_and_in_no_class(dataset):
    frames = render_shot(Scene(91), Camera(pan=4.0), 36, fps=12.0, size=(320, 180))
    video = dataset.add("v", [frames], fps=12.0, every=6)
    (row,) = rows(dataset.root, video)
    assert (row["camera_motion"], row["error_code"]) == ("unknown", None)
    assert row["motion_score"] > 0
    names = ("camera_strength", "camera_pan", "camera_tilt", "camera_zoom", "camera_roll", "object_motion")
    assert [row[name] for name in names] == [None] * 6


def test_raft_measures_stored_frames_in_the_same_units(dataset, raft: Path):
    video = dataset.add("a", [shot(12, Camera(), 13)], every=12)
    (row,) = rows(dataset.root, video, MotionConfig(engine="raft", raft_weights=str(raft), raft_short_side=192))
    assert row["motion_score"] == pytest.approx(np.hypot(9.6, 4.8) / 192 / 0.5, rel=0.02)
    assert row["camera_pan"] == pytest.approx(9.6 / 192 / 0.5, rel=0.02)
    assert row["camera_tilt"] == pytest.approx(-4.8 / 192 / 0.5, rel=0.02)
    assert row["error_code"] is None


def test_the_flows_are_kept_apart_and_found_again(dataset, raft: Path):
    video = dataset.add("a", [shot(13, Camera(), 13)], every=12)
    config = MotionConfig(engine="raft", raft_weights=str(raft), raft_short_side=128)
    found = [measure_motion.fn(dataset.root, c, [video])[0].cached for c in (CONFIG, config, config)]
    assert found == [False, False, True]
    assert measure_motion.fn(dataset.root, MotionConfig(raft_short_side=300), [video])[0].cached


def test_models_are_named_by_the_engine_that_needs_them():
    assert list_models(CONFIG) == {}
    assert list_models(MotionConfig(engine="raft")) == {"raft_weights": "raft_large.safetensors"}


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(MotionConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "frames_per_s": "2.0, gt=0",
        "engine": "'farneback'",
        "raft_weights": "'raft_large.safetensors'",
        "raft_short_side": "450, ge=128",
    }


def test_the_step_goes_by_its_name():
    assert measure_motion.name == "motion"
