"""Wipes: one picture moves its edge over another. Each place changes once, at a time that rises steadily across.

In a window, a plane over the picture is fitted to the time of the greatest change of each place. In a wipe nearly all
places follow the plane (`share`), the edge takes some frames from one side to the other, the greatest change is a large
part of all changes at the place (`jump`), and the pictures before and after differ nearly everywhere (`places`). Moving
cameras and shapes change places again and again, objects that pass by leave the picture unchanged, and a cut or a flash
changes all places at once.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import LUMA, Boundary, Floats, FrameSpan, choose_frames, drop_overlaps, list_spans_between
from tasks.media.signals import THUMBNAIL_SIZES, Signals


class WipeSettings(BaseModel):
    """The settings that define a wipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wipe_rate: float = Field(default=8.0, gt=0, description="How many times per second a wipe is searched for.")
    wipe_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Least share of the change that follows the wipe's time; more: fewer wipes.",
    )
    wipe_jump: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="Least share of a place's greatest change in all its changes; more: fewer wipes.",
    )
    wipe_places: float = Field(
        default=0.65,
        ge=0,
        le=1,
        description="Least share of the picture that differs before and after; more: fewer wipes.",
    )
    min_wipe_frames: int = Field(default=6, ge=1, description="Least frames of a wipe; a shorter one is a cut.")


REACHES_S = (0.32, 0.64, 0.96)
"""How far the windows extend on both sides, in seconds."""

DIFFERS = 0.3
"""A place differs by more than this multiple of the pictures' contrast."""

WITHIN = 2.0
"""A place follows the plane when it changes within this many frames of the plane's time."""

_WIDTH, _HEIGHT = THUMBNAIL_SIZES[0]
_Y, _X = np.mgrid[0:_HEIGHT, 0:_WIDTH]
PLANE = np.stack([np.ones(LUMA), (_X.ravel() + 0.5) / _WIDTH - 0.5, (_Y.ravel() + 0.5) / _HEIGHT - 0.5], axis=1)
"""The terms of a plane over the picture, [places, 3]."""


def find_wipes(signals: Signals, taken: list[Boundary], settings: WipeSettings) -> list[Boundary]:
    """Return the wipes, in order of time; none overlaps a boundary in `taken`."""
    found = []
    for start, end in list_spans_between(taken, len(signals.seconds)):
        for middle in choose_frames(signals.seconds[start:end], settings.wipe_rate) + start:
            for reach in REACHES_S:
                window = _find_window(signals, int(middle), reach)
                if window[0] >= start and window[1] <= end:
                    found += detect_wipe(signals, window, settings)
    return drop_overlaps(found)


def detect_wipe(signals: Signals, window: FrameSpan, settings: WipeSettings) -> list[tuple[float, Boundary]]:
    """Return the wipe that the window shows, with its share, or an empty list."""
    pictures = signals.thumbnails[window[0] : window[1], :LUMA].astype(np.float32)
    if len(pictures) < 4 or measure_changed_share(pictures) < settings.wipe_places:
        return []
    steps = np.abs(np.diff(pictures, axis=0))
    pairs = steps[1:] + steps[:-1]
    share, (first, last) = fit_wipe_time(pairs)
    jump = pairs.max(axis=0).sum() / steps.sum()
    start, end = window[0] + round(first), window[0] + round(last) + 1
    if not window[0] <= start <= end - settings.min_wipe_frames < end <= window[1]:
        return []
    if share < settings.wipe_share or jump < settings.wipe_jump:
        return []
    return [(share, Boundary(start, end, "wipe"))]


def measure_changed_share(pictures: Floats) -> float:
    """Return the share of places that differ between the first and the last picture."""
    first, last = pictures[0], pictures[-1]
    contrast = max((first.std() + last.std()) / 2, 1.0)
    return float(np.mean(np.abs(last - first) > DIFFERS * contrast))


def fit_wipe_time(pairs: Floats) -> tuple[float, tuple[float, float]]:
    """Return the share of the greatest changes that follow a plane over the picture, and when it begins and ends.

    pairs: how much each place changes over two frames, [times, places]; times are counted in frames from the first
    picture.
    """
    greatest, time = pairs.max(axis=0), pairs.argmax(axis=0) + 1.0
    weights = np.maximum(greatest - 3 * np.median(pairs, axis=0), 0) ** 2 + 1e-3
    plane = _fit(weights, time)
    for _ in range(2):
        plane = _fit(weights / (1 + ((time - plane) / WITHIN) ** 2), time)
    share = greatest[np.abs(time - plane) < WITHIN].sum() / max(greatest.sum(), 1e-6)
    return float(share), (float(plane.min()), float(plane.max()))


def _fit(weights: Floats, time: Floats) -> Floats:
    weighted = PLANE * weights[:, None]
    return PLANE @ np.linalg.solve(PLANE.T @ weighted + 1e-6 * np.eye(3), weighted.T @ time)


def _find_window(signals: Signals, middle: int, reach_s: float) -> FrameSpan:
    here = signals.seconds[middle]
    first, last = np.searchsorted(signals.seconds, [here - reach_s, here + reach_s])
    return int(first), int(last) + 1
