"""Hard cuts: a frame that changes far more than its neighbours, to a picture that stays.

Modelled on PySceneDetect's AdaptiveDetector. Frames that repeat the one before are not counted as neighbours; fast pans
change much, but evenly; dark pictures change little. A flash is no cut: the picture before it comes back.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import Boundary, Floats, measure_distance
from tasks.signals import Signals, find_neighbours


class CutSettings(BaseModel):
    """The settings that define a hard cut."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float = Field(
        default=3.0, gt=1, description="Least change of a cut, as a multiple of its neighbours' mean; more: fewer cuts."
    )
    window: int = Field(default=2, ge=1, description="Frames on either side that count as neighbours.")
    floor: float = Field(default=2.0, ge=0, description="Least change of a cut, 0 to 255; more: fewer cuts.")
    relative_floor: float = Field(
        default=0.06, ge=0, description="Least change as a share of the brighter frame's mean luma."
    )
    flash_s: float = Field(
        default=0.25, ge=0, description="A picture that comes back within this many seconds was interrupted by a flash."
    )
    flash_return: float = Field(
        default=0.5,
        ge=0,
        description="How much it may differ when it comes back, as a share of the flash; more: fewer cuts.",
    )


def find_cuts(signals: Signals, settings: CutSettings) -> list[Boundary]:
    """Return the hard cuts, in order of time; the first frame is never one."""
    luma = signals.luma
    brighter = np.maximum(luma[1:], luma[:-1])
    floors = np.concatenate([[np.inf], np.maximum(settings.floor, settings.relative_floor * brighter)])
    return [
        Boundary(int(i), int(i), "cut")
        for i in np.flatnonzero(signals.change >= floors[: len(signals.change)])
        if stands_out(signals.change, int(i), settings) and lasts(signals, int(i), settings)
    ]


def stands_out(change: Floats, i: int, settings: CutSettings) -> bool:
    """Say whether frame i changes more than all its neighbours, and `threshold` times as much as they do on average."""
    before = find_neighbours(change[i - 1 : 0 : -1], change[i], settings.window)
    after = find_neighbours(change[i + 1 :], change[i], settings.window)
    usual = (before.mean() + after.mean()) / 2
    first_of_equals = change[i] > before.max() and change[i] >= after.max()
    return bool(change[i] >= settings.threshold * usual and first_of_equals)


def lasts(signals: Signals, i: int, settings: CutSettings) -> bool:
    """Say whether the picture before frame i does not come back after it, and frame i's was not shown before."""
    seconds, pictures = signals.seconds, signals.thumbnails
    last = max(np.searchsorted(seconds, seconds[i] + settings.flash_s, side="right"), i + 2)
    first = min(np.searchsorted(seconds, seconds[i - 1] - settings.flash_s), i - 2)
    step = settings.flash_return * measure_distance(pictures[i - 1], pictures[i])
    back = measure_distance(pictures[i + 1 : last], pictures[i - 1])
    there = measure_distance(pictures[max(first, 0) : i - 1], pictures[i])
    return not (np.any(back < step) or np.any(there < step))
