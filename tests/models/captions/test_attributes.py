from typing import Any

import pytest

from models.captions.attributes import compose, describe_camera
from models.measures.camera import MOTIONS

MEASURED: dict[str, Any] = {
    "start_s": 2.0,
    "end_s": 5.5,
    "camera_motion": "pan_left",
    "camera_strength": 0.3,
    "camera_roll": 0.0,
    "object_motion": 0.02,
    "brightness": 40.0,
    "contrast": 30.0,
    "colours": ["blue", "grey"],
    "text_area": 0.0,
}


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ({}, "For 3.5 seconds, the camera pans left across a dark scene in blue and grey where little else moves."),
        (
            {"camera_motion": "static", "brightness": 200.0, "colours": ["white"], "object_motion": 0.0},
            "For 3.5 seconds, the camera stands still before a bright scene in white where nothing else moves.",
        ),
        (
            {"camera_strength": 0.05, "brightness": 100.0, "colours": [], "object_motion": 0.2, "text_area": 0.1},
            "For 3.5 seconds, the camera slowly pans left across a scene where much else moves, with text on screen.",
        ),
        (
            {"camera_motion": "zoom_in", "camera_strength": 0.7},
            "For 3.5 seconds, the camera quickly zooms in on a dark scene in blue and grey where little else moves.",
        ),
        (
            {"contrast": 0.5, "brightness": 100.0, "colours": []},
            "For 3.5 seconds, the camera pans left across an empty picture where little else moves.",
        ),
    ],
)
def test_the_sentence_says_what_was_measured(measured: dict[str, Any], sentence: str):
    assert compose(MEASURED | measured) == sentence


def test_what_is_null_is_left_out():
    nothing = dict.fromkeys(MEASURED) | {"start_s": 0.0, "end_s": 1.0}
    assert compose(nothing) == "For 1.0 seconds, the camera shows a scene."
    assert compose({"start_s": 0.0, "end_s": 1.0}) == "For 1.0 seconds, the camera shows a scene."


@pytest.mark.parametrize(("roll", "sense"), [(20.0, "clockwise"), (-20.0, "counter-clockwise")])
def test_a_roll_says_its_sense(roll: float, sense: str):
    assert (
        describe_camera({"camera_motion": "roll", "camera_strength": 0.2, "camera_roll": roll}) == f"rolls {sense} over"
    )


def test_every_class_of_motion_has_words_of_its_own():
    phrases = {describe_camera({"camera_motion": motion, "camera_strength": 0.3}) for motion in MOTIONS}
    assert len(phrases) == len(MOTIONS)
