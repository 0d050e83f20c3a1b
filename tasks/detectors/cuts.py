"""Hard cuts: a frame that changes far more than its neighbours, to a picture that stays.

Modelled on PySceneDetect's AdaptiveDetector. Frames that repeat the one before are not counted as neighbours; fast pans
change much, but evenly; dark pictures change little. A flash is no cut: the picture before it comes back. Held
pictures, as in animation, change at once and then stand still: other updates to pictures that are alike, up to HELD_S
away, count as neighbours. Where nothing moves, a small change to an unlike picture is a cut: slides change little.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import LUMA, Boundary, Floats, measure_distance
from tasks.media.signals import HELD, Signals, correlate, find_neighbours


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
    still_floor: float = Field(
        default=0.5, ge=0, description="Least change of a cut, 0 to 255, between pictures that stand still."
    )
    still_difference: float = Field(
        default=0.08,
        ge=0,
        description="Least difference of such pictures, as 1 less the correlation of their lumas; more: fewer cuts.",
    )
    flash_s: float = Field(
        default=0.25, ge=0, description="A picture that comes back within this many seconds was interrupted by a flash."
    )
    flash_return: float = Field(
        default=0.5,
        ge=0,
        description="How much it may differ when it comes back, as a share of the flash; more: fewer cuts.",
    )


HELD_S = 0.6
"""How long a held picture may be shown, in seconds: neighbours are searched that far. Two of them at 4 Hz."""

ALIKE = 0.6
"""Least correlation of the lumas of a picture and of the one that replaces it, where both are held."""

STILL = 0.1
"""Nothing moves where frames change on average by less than this share of the change of the frame in question."""


def find_cuts(signals: Signals, settings: CutSettings) -> list[Boundary]:
    """Return the hard cuts, in order of time; the first frame is never one."""
    change, floors = signals.change, find_floors(signals, settings)
    # Both frames beside one that replaces a still picture repeat the one before them.
    beside = np.maximum(np.concatenate([[0.0], change[:-1]]), np.concatenate([change[1:], [0.0]]))
    small = (change >= settings.still_floor) & (beside <= STILL * change) & np.isfinite(floors)
    return [
        Boundary(int(i), int(i), "cut")
        for i in np.flatnonzero((change >= floors) | small)
        if stands_out(signals, int(i), settings)
        and (change[i] >= floors[i] or replaces_still(signals, int(i), settings))
        and lasts(signals, int(i), settings)
    ]


def find_floors(signals: Signals, settings: CutSettings) -> Floats:
    """Return the least change of a cut at each frame; infinite for the first."""
    brighter = np.maximum(signals.luma[1:], signals.luma[:-1])
    floors = np.concatenate([[np.inf], np.maximum(settings.floor, settings.relative_floor * brighter)])
    return floors[: len(signals.change)]


def stands_out(signals: Signals, i: int, settings: CutSettings) -> bool:
    """Say whether frame i changes more than all its neighbours, and `threshold` times as much as they do on average."""
    change = signals.change
    before = find_neighbours(change[i - 1 : 0 : -1], change[i], settings.window)
    after = find_neighbours(change[i + 1 :], change[i], settings.window)
    first_of_equals = change[i] > before.max() and change[i] >= after.max()
    stands = first_of_equals and change[i] >= settings.threshold * (before.mean() + after.mean()) / 2
    return bool(stands and change[i] >= settings.threshold * find_held_change(signals, i))


def find_held_change(signals: Signals, i: int) -> float:
    """Return the least change of the updates of held pictures before and after frame i, 0 where there are none on one
    side; at either end of the video those of the other side count for both."""
    seconds, change = signals.seconds, signals.change
    first, last = np.searchsorted(seconds, seconds[i] + np.array([-HELD_S, HELD_S]))
    if np.median(change[max(first, 1) : last]) > STILL * change[i]:
        return 0.0
    sides = np.arange(max(first, 1), i), np.arange(i + 1, last)
    found = [[change[j] for j in side[change[side] >= HELD * change[i]] if is_alike(signals, int(j))] for side in sides]
    inside = [side for side, whole in zip(found, (first > 0, last < len(seconds)), strict=True) if side or whole]
    return float(min((max(side, default=0.0) for side in inside), default=0.0))


def is_alike(signals: Signals, i: int) -> bool:
    """Say whether frame i shows a picture like the one before it."""
    return correlate_lumas(signals, i) >= ALIKE


def correlate_lumas(signals: Signals, i: int) -> float:
    """Return the correlation, -1 to 1, of the lumas of frame i and of the one before; 0 where one is flat."""
    return correlate(signals.thumbnails[i - 1, :LUMA], signals.thumbnails[i, :LUMA])


def replaces_still(signals: Signals, i: int, settings: CutSettings) -> bool:
    """Say whether frame i shows a picture unlike the one before it, and nothing moves around it."""
    first, last = np.searchsorted(signals.seconds, signals.seconds[i] + np.array([-HELD_S, HELD_S]))
    around = np.concatenate([signals.change[max(first, 1) : i], signals.change[i + 1 : last]])
    is_still = around.max(initial=0) <= STILL * signals.change[i]
    return bool(is_still and correlate_lumas(signals, i) <= 1 - settings.still_difference)


def lasts(signals: Signals, i: int, settings: CutSettings) -> bool:
    """Say whether the picture before frame i does not come back after it, and frame i's was not shown before."""
    seconds, pictures = signals.seconds, signals.thumbnails
    last = max(np.searchsorted(seconds, seconds[i] + settings.flash_s, side="right"), i + 2)
    first = min(np.searchsorted(seconds, seconds[i - 1] - settings.flash_s), i - 2)
    step = settings.flash_return * measure_distance(pictures[i - 1], pictures[i])
    back = measure_distance(pictures[i + 1 : last], pictures[i - 1])
    there = measure_distance(pictures[max(first, 0) : i - 1], pictures[i])
    return not (np.any(back < step) or np.any(there < step))
