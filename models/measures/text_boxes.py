"""Boxes of the text in a picture: four corners each, from rapidocr's text detector (PP-OCRv6, DBNet) alone.

The weights are those in rapidocr's wheel. Nothing is downloaded, and the text is neither read nor classified.
"""

import hashlib
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import BadModel

WEIGHTS = "PP-OCRv6_det_small.onnx"

MAX_ENLARGEMENT = 3.0
"""Pictures are not enlarged more than this: if they were, shapes without any text would pass for giant letters."""

LEAST_SIDE, LONGEST_SIDE = 32, 2048
"""The shortest and the longest side of a picture that the detector is given."""

LOWEST_SCORE = 0.3
"""The detector's own limit; callers ask for higher scores."""

_building = threading.Lock()


def find_text_boxes(
    picture: NDArray[np.uint8], working_side: int = 256, min_score: float = 0.66, max_line: float = 0.5
) -> NDArray[np.float32]:
    """Find the corners [boxes, 4, 2] of text lines in a uint8 RGB picture, (x, y) in pixels, clockwise from top left.

    The picture is resized to a short side of `working_side`, or less where it is very long. `min_score`, 0..1, is the
    least mean text probability in a box. A box more than `max_line` of the short side thick is a shape that looks like
    a letter, not a line.
    """
    height, width = picture.shape[:2]
    scale = min(working_side / min(height, width), MAX_ENLARGEMENT, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    bgr = cv2.cvtColor(_pad_to_least(resized), cv2.COLOR_RGB2BGR)
    found = _get_detector()(bgr, use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None or not len(found.boxes):
        return np.empty((0, 4, 2), np.float32)
    boxes, scores = np.asarray(found.boxes, np.float32), np.asarray(found.scores)
    thickness = np.array([min(cv2.minAreaRect(box)[1]) for box in boxes]) / min(size)
    good = boxes[(scores >= min_score) & (thickness <= max_line)]
    return good * np.array([width / size[0], height / size[1]], np.float32)


def _pad_to_least(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture with each side at least as long as the detector needs; the last line is repeated."""
    height, width = picture.shape[:2]
    below, right = max(0, LEAST_SIDE - height), max(0, LEAST_SIDE - width)
    if not (below or right):
        return picture
    return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")


@lru_cache(maxsize=1)
def read_weights_revision() -> str:
    """Return the weights' name and the first digits of their SHA-256: the boxes depend on them and the picture."""
    digest = hashlib.sha256(_find_weights_file().read_bytes()).hexdigest()
    return f"{WEIGHTS}:{digest[:12]}"


def _get_detector() -> Any:
    """Return the one detector of this process, built on first use."""
    with _building:
        return _build()


@lru_cache(maxsize=1)
def _build() -> Any:
    # ONNX Runtime reports every session to its maker, from the moment it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    # The detector must not enlarge the picture again: its own least side is for scanned pages.
    sizes = {"Det.limit_side_len": LEAST_SIDE, "Global.min_side_len": LEAST_SIDE, "Global.max_side_len": LONGEST_SIDE}
    quiet = {"Global.log_level": "critical"}
    scores = {"Det.model_path": str(_find_weights_file()), "Det.box_thresh": LOWEST_SCORE}
    return RapidOCR(params={**threads, **sizes, **quiet, **scores})


def _find_weights_file() -> Path:
    import rapidocr

    path = Path(rapidocr.__file__).parent / "models" / WEIGHTS
    if not path.is_file():
        raise BadModel(f"{path}: the text detector's weights are missing. Install rapidocr from its wheel again.")
    return path
