"""Fades through a flat picture of any colour: the contrast falls steadily to zero, or rises from it.

PySceneDetect's ThresholdDetector finds black pictures by their mean; a picture that is flat by its contrast may be
black, white or any other colour, and a dark shot is not flat. The ramps on both sides belong to the fade: contrast
times a share that is 1 in the shot and falls in a straight line to 0, fitted by least squares.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import Boundary, Floats, FrameSpan, list_spans_between, measure_distance
from tasks.media.signals import Signals

AFTER = 10
"""The number of the shot's own frames that are fitted together with a ramp."""


BACK = 0.3
"""A picture comes back when it differs by less than this share of its difference to the flat picture."""


class FadeSettings(BaseModel):
    """The settings that define a fade."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flat_contrast: float = Field(
        default=4.0, ge=0, description="Most contrast of a flat picture, as the deviation of luma, 0 to 255."
    )
    min_fade_frames: int = Field(default=3, ge=2, description="A shorter ramp to or from a flat picture is a cut.")
    max_fade_s: float = Field(default=3.0, gt=0, description="Longest ramp that is searched for, in seconds.")
    fade_misfit: float = Field(
        default=0.12, ge=0, description="How far contrast may differ from the ramp, as a share of it; more: more fades."
    )
    blink_s: float = Field(
        default=0.4, ge=0, description="A fade from a shot to the same shot within this many seconds is a flash."
    )


def find_fades(signals: Signals, cuts: list[Boundary], settings: FadeSettings) -> list[Boundary]:
    """Return the fades, in order of time; one that begins or ends the video reaches to its first or last frame.

    No ramp crosses one of the `cuts`.
    """
    fades = []
    for start, end in find_flat_runs(signals.deviation, settings.flat_contrast):
        shots = list_spans_between(cuts, len(signals.deviation))
        first = next((a for a, b in shots if a < start <= b), start)
        last = next((b for a, b in shots if a <= end < b), end)
        before = measure_ramp(signals, (first, start), settings, backwards=True)
        after = measure_ramp(signals, (end, last), settings, backwards=False)
        fade = Boundary(start - before, end + after, "fade")
        if before + after and not is_blink(signals, fade, settings):
            fades.append(fade)
    return merge_fades(fades)


def find_flat_runs(contrast: Floats, limit: float) -> list[FrameSpan]:
    """Return the spans of consecutive frames whose contrast is at most `limit`."""
    flat = np.concatenate([[False], contrast <= limit, [False]])
    return [(int(a), int(b)) for a, b in np.flatnonzero(np.diff(flat)).reshape(-1, 2)]


def measure_ramp(signals: Signals, shot: FrameSpan, settings: FadeSettings, backwards: bool) -> int:
    """Return how many frames of a shot beside a flat picture belong to the fade; 0 where the picture is cut to instead.

    The shot's frames are before the flat picture where `backwards`, else after it.
    """
    outwards = slice(*shot)
    course, seconds = signals.deviation[outwards].astype(float), signals.seconds[outwards]
    if backwards:
        course, seconds = course[::-1], seconds[::-1]
    longest = np.count_nonzero(np.abs(seconds - seconds[0]) <= settings.max_fade_s) if len(seconds) else 0
    misfits = [measure_misfit(course, length) for length in range(longest)]
    best = int(np.argmin(misfits)) if misfits else 0
    return best if best >= settings.min_fade_frames and misfits[best] <= settings.fade_misfit else 0


def measure_misfit(course: Floats, length: int) -> float:
    """Return how badly a ramp of `length` frames explains the contrast from a flat picture outwards, as a share of the
    shot's contrast: the root mean square over the ramp and the ten frames after it."""
    near = course[: length + AFTER]
    model = np.minimum(1, np.arange(1, len(near) + 1) / (length + 1))
    level = model @ near / (model @ model)
    return float(np.sqrt(np.mean((near - level * model) ** 2)) / max(level, 1e-6))


def is_blink(signals: Signals, fade: Boundary, settings: FadeSettings) -> bool:
    """Say whether a short fade goes back to the picture it came from."""
    before, after = fade.start - 1, fade.end
    if before < 0 or after >= len(signals.seconds):
        return False
    pictures, flattest = signals.thumbnails, fade.start + int(np.argmin(signals.deviation[fade.start : fade.end]))
    returns = measure_distance(pictures[before], pictures[after]) < BACK * measure_distance(
        pictures[before], pictures[flattest]
    )
    return bool(returns and signals.seconds[after] - signals.seconds[before] <= settings.blink_s)


def merge_fades(fades: list[Boundary]) -> list[Boundary]:
    """Return the fades, with those that touch or overlap merged into one."""
    joined: list[Boundary] = []
    for fade in fades:
        if joined and fade.start <= joined[-1].end:
            joined[-1] = Boundary(joined[-1].start, max(joined[-1].end, fade.end), "fade")
        else:
            joined.append(fade)
    return joined
