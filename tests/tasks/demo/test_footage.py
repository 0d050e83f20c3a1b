"""The demo's films show what their truth table says, and are the same each time."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from models.errors import BadMedia
from models.measures.camera import measure_motion
from tasks.demo.footage import (
    FILMS,
    HELD_OUT,
    STEP,
    FootageConfig,
    RenderedShot,
    choose_seeds,
    make_truth_rows,
    render_film,
    render_footage,
    render_shot_frames,
    write_held_out,
)
from tasks.ledger import mark
from tasks.manifest import digest_file, publish_text, read_rows
from tasks.media.video import open_video, read_frames
from tests.declared import declared

SMALL = FootageConfig(width=96, height=72, fps=12)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cv2.setNumThreads(1)
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def truth(root: Path) -> list[dict[str, Any]]:
    return read_rows(render_footage.fn(root, SMALL))


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.to_ndarray(format="rgb24") for _, frame in read_frames(path)])


@pytest.mark.slow
def test_every_file_has_its_rows_and_every_row_its_file(root, truth):
    files = {row["file"] for row in truth}
    assert files == {f"footage/{path.name}" for path in (root / "footage").iterdir()}
    assert len(files) == len(FILMS)
    assert 60 < sum(row["end_s"] - row["start_s"] for row in truth) < 120


def test_shots_follow_one_another_and_end_with_the_film(root, truth):
    for film in FILMS:
        rows = [row for row in truth if row["file"] == f"footage/{film.name}"]
        assert rows[0]["start_s"] == 0
        assert rows[0]["transition"] == "start"
        for before, after in pairwise(rows):
            overlap = after["transition_s"] if after["transition"] == "dissolve" else 0
            assert after["start_s"] == pytest.approx(before["end_s"] - overlap)
        if rows[0]["whole"]:
            assert len(frames_of(root / rows[0]["file"])) == round(rows[-1]["end_s"] * SMALL.fps)


@pytest.mark.slow
def test_a_camera_does_what_the_table_says(root, truth):
    # The camera's speed is measured away from the shot's joins; zoom and roll move the average pixel by less.
    rows = [row for row in truth if row["kind"] == "scene" and row["whole"] and row["end_s"] - row["start_s"] > 1]
    frames = {row["file"]: frames_of(root / row["file"]) for row in rows}
    for row in rows:
        ends = [r for r in truth if r["file"] == row["file"] and r["shot"] == row["shot"] + 1]
        late = max((r["transition_s"] for r in ends), default=0.0)
        span = range(round((row["start_s"] + row["transition_s"]) * 12) + 1, round((row["end_s"] - late) * 12) - 1, 5)
        measured = measure_motion(frames[row["file"]][list(span)], [i / 12 for i in span])
        assert measured.motion == row["motion"], row
        if row["motion"].startswith(("pan", "tilt")):
            assert measured.strength == pytest.approx(row["speed"], rel=0.15), row


def test_there_is_enough_to_train_a_motion_lora_on(truth):
    pans = [
        r
        for r in truth
        if r["motion"] == "pan_right" and r["whole"] and not r["copy_of"] and r["transition"] != "dissolve"
    ]
    assert len(pans) >= 8
    assert all(2 <= round(r["end_s"] - r["start_s"], 6) <= 3 and 0.3 <= r["speed"] <= 0.6 for r in pans)


def test_all_that_a_curator_meets_is_there(truth):
    assert {row["transition"] for row in truth} == {"start", "cut", "dissolve", "fade"}
    assert {row["kind"] for row in truth} == {"scene", "freeze", "title", "flat"}
    assert len({row["motion"] for row in truth}) == 8
    assert any(row["end_s"] - row["start_s"] < 1 for row in truth)


def test_a_dissolve_mixes_both_shots_and_a_fade_goes_through_black(root, truth):
    dissolve, fade = (next(r for r in truth if r["transition"] == name) for name in ("dissolve", "fade"))
    film = next(film for film in FILMS if film.name == "dissolve.mp4")
    before, after = (
        render_shot_frames(shot, seed, SMALL)
        for shot, seed in list(zip(film.shots, choose_seeds(film, SMALL.seed), strict=True))[:2]
    )
    middle = frames_of(root / dissolve["file"])[round(dissolve["start_s"] * 12) + 2].astype(float)
    mixed = (before[-4].astype(float) + after[2]) / 2
    assert np.abs(middle - mixed).mean() < 0.3 * min(np.abs(middle - shot).mean() for shot in (before[-4], after[2]))
    assert frames_of(root / fade["file"])[round(fade["start_s"] * 12) - 1].mean() < 3


def test_the_copy_looks_like_its_original_but_is_another_file(root, truth):
    rows = [row for row in truth if row["copy_of"]]
    copy, original = frames_of(root / rows[0]["file"]), frames_of(root / rows[0]["copy_of"])
    assert np.abs(copy.astype(float) - original[: len(copy)]).mean() < 6
    assert (root / rows[0]["file"]).read_bytes() != (root / rows[0]["copy_of"]).read_bytes()
    assert (root / rows[0]["file"]) > (root / rows[0]["copy_of"]), "by name, curation meets the original first"


def test_a_flat_picture_and_a_freeze_do_not_move(root, truth):
    for kind in ("flat", "freeze", "title"):
        row = next(row for row in truth if row["kind"] == kind)
        shot = frames_of(root / row["file"])[round(row["start_s"] * 12) : round(row["end_s"] * 12)].astype(float)
        assert np.abs(np.diff(shot, axis=0)).mean() < 0.5


def test_the_truncated_file_lacks_its_end(root, truth):
    rows = [row for row in truth if not row["whole"]]
    assert len({row["file"] for row in rows}) == 1
    with pytest.raises(BadMedia), open_video(root / rows[0]["file"]) as (container, stream):
        decoded = sum(1 for _ in container.decode(stream))
        assert decoded < 0.9 * rows[-1]["end_s"] * 12
        raise BadMedia("partly readable")


def test_no_scene_is_filmed_twice_nor_held_out():
    originals = [seed for film in FILMS if not film.copy_of for seed in choose_seeds(film, SMALL.seed)]
    assert len(originals) == len(set(originals))
    assert originals == list(range(5_000_000, 5_000_000 + len(originals)))
    assert max(originals) < HELD_OUT
    assert HELD_OUT >= 10_000_000


@pytest.mark.slow
def test_the_same_settings_give_the_same_bytes(root, truth):
    path = root / "footage" / "fade.mp4"
    before = digest_file(path)
    assert render_footage.fn(root, SMALL).cached
    path.unlink()
    again = render_footage.fn(root, SMALL)
    assert not again.cached
    assert digest_file(path) == before


def test_other_settings_leave_no_file_of_the_old_ones_and_those_of_others(tmp_path):
    mark(tmp_path, "demo", "1")
    publish_text(tmp_path / "footage" / "old.mp4", "old")
    (tmp_path / "footage" / "mine.mp4").write_bytes(b"mine")
    render_footage.fn(tmp_path, FootageConfig(width=32, height=32, fps=6))
    assert {path.name for path in (tmp_path / "footage").iterdir()} == {"mine.mp4", *(film.name for film in FILMS)}


def test_a_film_is_as_long_as_its_shots_say():
    film = next(film for film in FILMS if film.name == "fade.mp4")
    assert len(render_film(film, SMALL)) == round(list(make_truth_rows(film, SMALL.fps))[-1]["end_s"] * SMALL.fps)


def test_a_freeze_has_no_moving_shapes():
    still = render_shot_frames(RenderedShot("static", 1.0, kind="freeze"), 1, SMALL)
    moving = render_shot_frames(RenderedShot("static", 1.0), 1, SMALL)
    assert (still == still[0]).all()
    assert not (moving == moving[0]).all()


def test_held_out_pictures_are_different_scenes_in_a_folder_of_their_own(tmp_path):
    mark(tmp_path, "demo", "1")
    folder = tmp_path / "pictures"
    assert len(write_held_out(folder, 4)) == 4
    paths = write_held_out(folder, 3, side=64)
    assert sorted(folder.iterdir()) == paths
    pictures = [np.asarray(Image.open(path)) for path in paths]
    assert all(picture.shape == (64, 64, 3) for picture in pictures)
    assert all(np.abs(a.astype(float) - b).mean() > 10 for a, b in pairwise(pictures))
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_held_out(folder, 3, side=64)] == before


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FootageConfig) == {
        "": "frozen=True, extra='forbid'",
        "width": "256, ge=32",
        "height": "192, ge=32",
        "fps": "24.0, gt=0",
        "seed": "5000000, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert render_footage.name == "footage"
    assert STEP.files == ("file",)
