import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.curate.look import LookConfig, measure_look
from tasks.curate.text import (
    SCHEMA,
    TextConfig,
    describe_text,
    find_static_boxes,
    find_text,
    list_models,
    measure_union,
)
from tasks.footage import Camera, Scene, render_shot, render_title
from tasks.manifest import read_rows
from tests.declared import declared
from tests.small_models import save_craft

CONFIG = TextConfig()
SIZE = (160, 96)


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize(("height", "width"), [(100, 200), (36, 64), (2160, 3840)])
def test_a_box_covers_its_share(height: int, width: int):
    boxes = np.array([box(0.25 * width, 0.5 * height, 0.75 * width, height)])
    assert measure_union(boxes, height, width) == pytest.approx(0.25, abs=0.003)


def test_overlapping_boxes_count_once():
    boxes = np.array([box(0, 0, 50, 50), box(0, 0, 50, 50), box(25, 0, 75, 50)])
    assert measure_union(boxes, 100, 100) == pytest.approx(0.375, abs=0.003)


def test_boxes_are_corners_not_a_corner_and_a_size():
    """Read as (x, y, width, height) the first two corners would say 60 x 40 at (60, 40): out of the picture."""
    assert measure_union(np.array([box(60, 40, 100, 80)]), 80, 100) == pytest.approx(0.2, abs=0.003)


def test_a_slanted_box_is_not_the_rectangle_around_it():
    diamond = np.array([[[50, 0], [100, 50], [50, 100], [0, 50]]])
    assert measure_union(diamond, 100, 100) == pytest.approx(0.5, abs=0.003)


def test_what_sticks_out_of_the_picture_does_not_count():
    assert measure_union(np.array([box(-50, -50, 50, 50)]), 100, 100) == pytest.approx(0.25, abs=0.003)
    assert measure_union(np.array([box(-50, -50, 150, 150)]), 100, 100) == 1


def test_no_box_covers_nothing():
    assert measure_union(np.empty((0, 4, 2)), 100, 100) == 0


NO_BOX = np.empty((0, 4, 2))

LINE = box(10, 80, 60, 90)


def test_the_area_is_the_mean_over_frames_and_the_rest_the_most():
    found = describe_text([np.array([LINE, box(0, 0, 50, 50)]), NO_BOX, np.array([LINE])], 100, 100)
    assert found["text_area"] == pytest.approx((0.3 + 0 + 0.05) / 3, abs=0.003)
    assert found["text_area_max"] == pytest.approx(0.3, abs=0.003)
    assert (found["text_static_area"], found["text_boxes"]) == (0, 2)


def test_text_that_is_in_one_place_on_every_frame_stays():
    moving = [np.array([LINE, box(left, 0, left + 20, 10)]) for left in (0, 30, 60)]
    assert find_static_boxes(moving).tolist() == [LINE]
    assert describe_text(moving, 100, 100)["text_static_area"] == pytest.approx(0.05, abs=0.003)


def test_a_subtitle_stays_whatever_its_length():
    longer = np.array([box(20, 80, 50, 90)]), np.array([LINE]), np.array([box(5, 80, 95, 91)])
    assert len(find_static_boxes(longer)) == 1


@pytest.mark.parametrize("moved", [box(10, 76, 60, 86), box(30, 80, 80, 90), box(10, 0, 60, 10)])
def test_a_box_that_moved_does_not_stay(moved: list[list[float]]):
    assert len(find_static_boxes([np.array([LINE]), np.array([LINE]), np.array([moved])])) == 0


def test_text_on_a_part_of_the_frames_does_not_stay():
    assert len(find_static_boxes([np.array([LINE]), np.array([LINE]), NO_BOX])) == 0
    assert len(find_static_boxes([np.array([LINE]), NO_BOX, np.array([LINE])])) == 0


def test_all_text_of_a_single_frame_stays():
    assert len(find_static_boxes([np.array([LINE, box(0, 0, 20, 10)])])) == 2


@pytest.mark.slow
def test_a_watermark_over_a_moving_scene_is_found_in_its_place(dataset):
    scenes = render_shot(Scene(1), Camera(pan=0.6), 25, size=(320, 192))
    marked = np.stack(
        [cv2.putText(frame.copy(), "reelmill", (180, 180), 0, 0.9, (255, 255, 255), 2, cv2.LINE_AA) for frame in scenes]
    )
    (ref,) = find_text.fn(dataset.root, CONFIG, [dataset.add("a", [marked], every=12)])
    (row,) = read_rows(ref)
    assert row["text_static_area"] == pytest.approx(row["text_area"], rel=0.3)
    assert row["text_static_area"] > 0.03


@pytest.fixture(scope="module")
def craft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_craft(tmp_path_factory.mktemp("craft") / "craft.safetensors")


@pytest.mark.slow
def test_easyocr_measures_with_craft_in_the_same_columns(dataset, flat, craft: Path):
    """These weights take whatever is bright for text: a quarter of the first clip, nothing of the second."""
    bright = flat(2)
    bright[:, 12:36, 16:48] = 255
    config = TextConfig(engine="easyocr", craft_weights=str(craft))
    (ref,) = find_text.fn(dataset.root, config, [dataset.add("a", [bright, flat(2)])])
    first, second = read_rows(ref)
    assert 0.25 <= first["text_area"] < 0.5
    assert first["text_area"] == pytest.approx(first["text_static_area"])
    assert (first["text_boxes"], second["text_boxes"], second["text_area"]) == (1, 0, 0)


@pytest.mark.slow
def test_an_engine_measures_again_only_when_what_it_reads_has_changed(dataset, flat, craft: Path, tmp_path: Path):
    video = dataset.add("a", [flat(2)])
    config = TextConfig(engine="easyocr", craft_weights=str(craft))
    moved = Path(shutil.copy(craft, tmp_path / craft.name))

    def is_found(config: TextConfig) -> bool:
        return find_text.fn(dataset.root, config, [video])[0].cached

    assert not is_found(config)
    assert is_found(config.model_copy(update={"craft_weights": str(moved), "min_score": 0.9}))
    assert not is_found(config.model_copy(update={"low_text": 0.3}))
    assert not is_found(TextConfig())
    assert is_found(TextConfig(craft_weights="elsewhere.safetensors", low_text=0.3))


def test_models_are_named_by_the_engine_that_needs_them():
    assert list_models(TextConfig()) == {}
    assert list_models(TextConfig(engine="easyocr")) == {"craft_weights": "craft.safetensors"}


def test_a_card_is_mostly_text_and_a_scene_is_not(dataset):
    card = render_title(["REELMILL", "A FILM BY", "NOBODY"], 3, SIZE)
    plain = render_shot(Scene(1), Camera(), 3, size=SIZE)
    turning = np.concatenate([card[:1], plain[:2]])
    (ref,) = find_text.fn(dataset.root, CONFIG, [dataset.add("a", [card, plain, turning])])
    first, second, third = read_rows(ref)
    assert first["text_area"] > 0.4
    assert first["text_boxes"] == 3
    assert (second["text_area"], second["text_boxes"]) == (0, 0)
    assert third["text_area"] == pytest.approx(third["text_area_max"] / 3)
    assert {row["error_code"] for row in (first, second, third)} == {None}


def test_text_is_a_share_of_the_picture_inside_the_bars(dataset):
    card = render_title(["REELMILL", "NOBODY"], 3, SIZE)
    barred = np.pad(card, ((0, 0), (48, 48), (0, 0), (0, 0)))
    plain, boxed = dataset.add("a", [card]), dataset.add("b", [barred])
    videos = [v._replace(look=measure_look.fn(dataset.root, LookConfig(), [v])[0]) for v in (plain, boxed)]
    (row,), (found,) = (read_rows(ref) for ref in find_text.fn(dataset.root, CONFIG, videos))
    assert found["text_area"] == pytest.approx(row["text_area"], rel=0.2)


def test_a_clip_of_one_frame_is_measured(dataset, flat):
    (ref,) = find_text.fn(dataset.root, CONFIG, [dataset.add("a", [flat(1), flat(2)])])
    assert [row["text_area"] for row in read_rows(ref)] == [0, 0]


def test_what_cannot_be_measured_is_null_with_the_reason(dataset, flat):
    gone, fine = dataset.add("a", [flat(2)]), dataset.add("b", [flat(2)])
    (dataset.root / "frames" / "a.parquet").unlink()
    refs = find_text.fn(dataset.root, CONFIG, [gone, fine, dataset.failed("c")])
    broken = read_rows(refs[0])[0]
    assert (broken["text_area"], broken["error_code"]) == (None, "bad_manifest")
    assert "a.parquet" in broken["error_message"]
    assert read_rows(refs[1])[0]["text_area"] == 0
    assert refs[2].rows == 0


def test_another_threshold_is_another_manifest_with_the_same_columns(dataset, flat):
    video = dataset.add("a", [flat(2)])
    (first,) = find_text.fn(dataset.root, CONFIG, [video])
    (again,) = find_text.fn(dataset.root, CONFIG, [video])
    (other,) = find_text.fn(dataset.root, TextConfig(min_score=0.9), [video])
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert list(read_rows(other)[0]) == SCHEMA.names


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(TextConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "engine": "'rapidocr'",
        "working_side": "256, ge=32",
        "min_score": "0.66, ge=0.3, le=1",
        "max_line": "0.5, gt=0, le=1",
        "craft_weights": "'craft.safetensors'",
        "canvas_side": "1280, ge=32",
        "text_threshold": "0.7, ge=0, le=1",
        "link_threshold": "0.4, ge=0, le=1",
        "low_text": "0.4, ge=0, le=1",
    }


def test_the_step_goes_by_its_name():
    assert find_text.name == "text"
