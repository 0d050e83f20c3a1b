import logging

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import BadModel
from models.measures import text_boxes
from models.measures.text_boxes import find_text_boxes, read_weights_revision
from tasks.footage import Camera, Scene, render_shot, render_title

cv2.setNumThreads(1)


def with_line(frame: NDArray[np.uint8], words: str, corner: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    """A frame with one line of white text whose baseline begins at `corner`."""
    return cv2.putText(frame.copy(), words, corner, 0, scale, (255, 255, 255), 2, cv2.LINE_AA).astype(np.uint8)


def scene(seed: int, size: tuple[int, int] = (320, 192)) -> NDArray[np.uint8]:
    return render_shot(Scene(seed), Camera(), 1, size=size)[0]


def test_each_line_of_a_title_card_has_a_box():
    (card,) = render_title(["REELMILL", "A FILM BY", "NOBODY"], 1)
    boxes = find_text_boxes(card)
    assert boxes.shape == (3, 4, 2)
    assert np.all(boxes[:, :, 0] <= 320)
    assert np.all(boxes[:, :, 1] <= 192)


@pytest.mark.parametrize("size", [(320, 192), (640, 384), (96, 64)], ids=["as is", "shrunk", "enlarged"])
def test_a_box_is_four_corners_around_the_line_in_the_pictures_own_pixels(size: tuple[int, int]):
    unit = size[1] / 192
    blank = np.full((size[1], size[0], 3), 40, np.uint8)
    (length, height), _ = cv2.getTextSize("Good night", 0, unit, 2)
    left, bottom = round(60 * unit), round(120 * unit)
    (box,) = find_text_boxes(with_line(blank, "Good night", (left, bottom), unit))
    right, top = left + length, bottom - height
    expected = [[left, top], [right, top], [right, bottom], [left, bottom]]
    assert np.abs(box - expected).max() < 14 * unit


@pytest.mark.parametrize("seed", [1, 4])
def test_a_subtitle_over_a_scene_is_found(seed: int):
    boxes = find_text_boxes(with_line(scene(seed), "the end of it", (40, 175), 0.9))
    assert len(boxes) >= 1
    assert boxes[:, :, 1].min() > 130


@pytest.mark.parametrize(("seed", "size"), [(0, (320, 192)), (3, (320, 192)), (5, (96, 64)), (202, (64, 64))])
def test_shapes_that_fill_the_picture_are_no_text(seed: int, size: tuple[int, int]):
    boxes = find_text_boxes(scene(seed, size))
    areas = [cv2.contourArea(box) / (size[0] * size[1]) for box in boxes]
    assert sum(areas) < 0.03


def test_a_flat_picture_has_no_boxes():
    assert find_text_boxes(np.zeros((48, 64, 3), np.uint8)).shape == (0, 4, 2)


def test_a_higher_score_or_a_thinner_line_asks_for_more():
    (card,) = render_title(["REELMILL", "A FILM BY", "NOBODY"], 1)
    assert len(find_text_boxes(card, min_score=0.99)) == 0
    assert len(find_text_boxes(card, max_line=0.1)) == 0


def test_there_is_one_detector_and_it_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        find_text_boxes(np.zeros((48, 64, 3), np.uint8))
    assert text_boxes._get_detector() is text_boxes._get_detector()
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if "rapid" in record.name.lower()]


def test_the_detector_runs_on_one_thread_and_reads_nothing():
    detector = text_boxes._get_detector()
    options = detector.text_det.session.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert (detector.text_cls, detector.text_rec) == (None, None)


def test_the_revision_names_the_weights_and_their_content():
    assert read_weights_revision().startswith("PP-OCRv6_det_small.onnx:")
    assert len(read_weights_revision().split(":")[1]) == 12


def test_missing_weights_are_one_clear_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_boxes, "WEIGHTS", "gone.onnx")
    with pytest.raises(BadModel, match=r"gone\.onnx: .*rapidocr"):
        text_boxes._find_weights_file()
