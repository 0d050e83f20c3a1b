import numpy as np
import pytest

from tasks.curate.text import SCHEMA, TextConfig, columns_of, find_text, union_area
from tasks.footage import Camera, Scene, render_shot, text_card
from tasks.manifest import read_rows

CONFIG = TextConfig()
SIZE = (160, 96)


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize(("height", "width"), [(100, 200), (36, 64), (2160, 3840)])
def test_a_box_covers_its_share(height: int, width: int):
    boxes = np.array([box(0.25 * width, 0.5 * height, 0.75 * width, height)])
    assert union_area(boxes, height, width) == pytest.approx(0.25, abs=0.003)


def test_overlapping_boxes_count_once():
    boxes = np.array([box(0, 0, 50, 50), box(0, 0, 50, 50), box(25, 0, 75, 50)])
    assert union_area(boxes, 100, 100) == pytest.approx(0.375, abs=0.003)


def test_boxes_are_corners_not_a_corner_and_a_size():
    """Read as (x, y, width, height) the first two corners would say 60 x 40 at (60, 40): out of the picture."""
    assert union_area(np.array([box(60, 40, 100, 80)]), 80, 100) == pytest.approx(0.2, abs=0.003)


def test_a_slanted_box_is_not_the_rectangle_around_it():
    diamond = np.array([[[50, 0], [100, 50], [50, 100], [0, 50]]])
    assert union_area(diamond, 100, 100) == pytest.approx(0.5, abs=0.003)


def test_what_sticks_out_of_the_picture_does_not_count():
    assert union_area(np.array([box(-50, -50, 50, 50)]), 100, 100) == pytest.approx(0.25, abs=0.003)
    assert union_area(np.array([box(-50, -50, 150, 150)]), 100, 100) == 1


def test_no_box_covers_nothing():
    assert union_area(np.empty((0, 4, 2)), 100, 100) == 0


def test_the_area_is_the_mean_over_frames_and_the_rest_the_most():
    found = columns_of([0.3, 0.0, 0.06], [2, 0, 1])
    assert found == {"text_area": pytest.approx(0.12), "text_area_max": 0.3, "text_boxes": 2}


def test_a_card_is_mostly_text_and_a_scene_is_not(dataset):
    card = text_card(["REELMILL", "A FILM BY", "NOBODY"], 3, SIZE)
    plain = render_shot(Scene(1), Camera(), 3, size=SIZE)
    turning = np.concatenate([card[:1], plain[:2]])
    (ref,) = find_text.fn(dataset.root, CONFIG, [dataset.add("a", [card, plain, turning])])
    first, second, third = read_rows(ref)
    assert first["text_area"] > 0.4
    assert first["text_boxes"] == 3
    assert (second["text_area"], second["text_boxes"]) == (0, 0)
    assert third["text_area"] == pytest.approx(third["text_area_max"] / 3)
    assert {row["error_code"] for row in (first, second, third)} == {None}


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
