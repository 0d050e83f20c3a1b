"""Dissolves: for some frames, every picture is a mixture of two pictures that have little in common.

Three pictures A, M, B are `reach` steps of a rate apart. Where M = (1-a) A + a B, three things hold that motion of the
camera or of objects does not cause: M is explained as such a mixture (`residual`, as a share of the difference of A and
B); its variance dips by a (1-a) times the variance of A - B (`dip`: 1 in a dissolve, about 0 in motion); and the energy
of its fine detail, in which A and B are not correlated, falls to (1-a)^2 and a^2 of theirs (`blur`: 1, about 0). There
are two rates: the middle one finds dissolves of some frames, the low one dissolves of seconds.

The dissolve's start and end are then fitted at the native rate, to the course of variance and detail of a mixture of
two shots whose own variance and detail are constant.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import (
    LUMA,
    WEIGHTS,
    Boundary,
    Floats,
    FrameSpan,
    choose_frames,
    drop_overlaps,
    list_spans_between,
)
from tasks.signals import Signals


class DissolveSettings(BaseModel):
    """The settings that define a dissolve."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    middle_rate: float = Field(
        default=8.0, gt=0, description="Frames per second at which dissolves of some frames are found."
    )
    low_rate: float = Field(default=2.5, gt=0, description="Frames per second at which dissolves of seconds are found.")
    middle_threshold: float = Field(
        default=0.6, gt=0, description="Least mean of dip and blur, 0 to 1, at the middle rate; more: fewer dissolves."
    )
    low_threshold: float = Field(default=0.55, gt=0, description="The same at the low rate.")
    min_difference: float = Field(
        default=0.8, ge=0, description="Least difference of the two pictures, as a multiple of their contrast."
    )
    max_residual: float = Field(
        default=0.55,
        ge=0,
        description="How much of the two pictures' difference a mixture may leave unexplained; more: more dissolves.",
    )
    min_fit: float = Field(
        default=0.55,
        ge=0,
        description="Least product of the mean of dip and blur and the fit of the mixture; more: fewer dissolves.",
    )
    min_dissolve_frames: int = Field(
        default=3, ge=1, description="Least frames of a dissolve; a shorter mixture is a cut."
    )


STEPS = (2, 3)
"""The distances of the outer two of three pictures from the middle one, in steps of the rate."""

LEAST = 0.3
"""The least dip and the least blur, whatever their mean."""

FIT_S = 1.5
"""How far on each side of its middle a dissolve is fitted, in seconds."""

BATCH = 4096
"""Triples of pictures compared at a time, to keep memory small."""


def find_dissolves(signals: Signals, taken: list[Boundary], settings: DissolveSettings) -> list[Boundary]:
    """Return the dissolves, in order of time; none overlaps a boundary in `taken`, nor compares pictures across one."""
    free = list_spans_between(taken, len(signals.seconds))
    found: list[tuple[float, Boundary]] = []
    rates = ((settings.middle_rate, settings.middle_threshold), (settings.low_rate, settings.low_threshold))
    for rate, threshold in rates:
        for span in free:
            for score, middle in find_candidates(signals, span, rate, threshold, settings):
                fit, dissolve = fit_dissolve(signals, span, middle)
                if score * fit >= settings.min_fit and dissolve.end - dissolve.start >= settings.min_dissolve_frames:
                    found.append((score * fit, dissolve))
    return drop_overlaps(found)


def find_candidates(
    signals: Signals, span: FrameSpan, rate: float, threshold: float, settings: DissolveSettings
) -> list[tuple[float, int]]:
    """Return the (score, frame) of the best frame in each stretch of the span that looks like a dissolve at `rate`."""
    start, end = span
    frames = choose_frames(signals.seconds[start:end], rate) + start
    scores = np.zeros(len(frames))
    for step in STEPS:
        if len(frames) > 2 * step:
            here = slice(step, -step)
            scores[here] = np.maximum(scores[here], score_frames(signals, frames, step, settings))
    good = np.concatenate([[False], scores >= threshold, [False]])
    stretches = np.flatnonzero(np.diff(good)).reshape(-1, 2)
    best = [a + int(np.argmax(scores[a:b])) for a, b in stretches]
    return [(float(scores[i]), int(frames[i])) for i in best]


def score_frames(signals: Signals, frames: NDArray[np.intp], step: int, settings: DissolveSettings) -> Floats:
    """Return the mean of dip and blur for all frames except the outer `step` ones; 0 where another condition fails."""
    triples = np.stack([frames[: -2 * step], frames[step:-step], frames[2 * step :]])
    batches = [triples[:, i : i + BATCH] for i in range(0, triples.shape[1], BATCH)]
    return np.concatenate([_score(signals, batch, settings) for batch in batches])


def _score(signals: Signals, triples: NDArray[np.intp], settings: DissolveSettings) -> Floats:
    a, m, b = (signals.thumbnails[i].astype(np.float32) for i in triples)
    step = b - a
    squared = np.maximum(step**2 @ WEIGHTS, 1e-6)
    share = np.clip(((m - a) * step) @ WEIGHTS / squared, 0, 1)
    residual = np.sqrt((m - a - share[:, None] * step) ** 2 @ WEIGHTS / squared)
    mixing = np.maximum(share * (1 - share), 1e-3)
    expected, difference = (1 - share) * variance(a) + share * variance(b), variance(step)
    dip = (expected - variance(m)) / np.maximum(mixing * difference, 1e-3)
    detail = signals.detail[triples].astype(np.float64)
    lost = (1 - share) * detail[0] + share * detail[2] - detail[1]
    blur = lost / np.maximum(mixing * (detail[0] + detail[2]), 1e-3)
    apart = np.sqrt(2 * difference / (variance(a) + variance(b) + 1))
    mixed = (mixing > 0.16) & (residual <= settings.max_residual) & (apart >= settings.min_difference)
    mixed &= (dip >= LEAST) & (blur >= LEAST)
    return np.where(mixed, (np.minimum(dip, 1) + np.minimum(blur, 1)) / 2, 0.0)


def variance(pictures: Floats) -> Floats:
    """Return the weighted variance over the pixels of thumbnails [pictures, values], of all planes together."""
    luma, chroma = pictures[:, :LUMA], pictures[:, LUMA:].reshape(len(pictures), 2, -1)
    return luma.var(axis=1) / 2 + chroma.var(axis=2).mean(axis=1) / 2


def fit_dissolve(signals: Signals, span: FrameSpan, middle: int) -> tuple[float, Boundary]:
    """Return how well the best dissolve around a frame fits, and that dissolve.

    The fit is 1 less the error of the mixture's course as a share of a straight course's, the mean of both courses.
    """
    seconds = signals.seconds
    start = max(span[0], int(np.searchsorted(seconds, seconds[middle] - FIT_S)))
    end = min(span[1], int(np.searchsorted(seconds, seconds[middle] + FIT_S)))
    courses = np.stack([signals.deviation[start:end].astype(float) ** 2, signals.detail[start:end]], axis=1)
    courses /= np.maximum(courses.mean(axis=0), 1e-6)
    first, last = fit_mixture(courses, middle - start)
    share = np.clip((np.arange(len(courses)) - first) / max(last - first, 1), 0, 1)
    inside = slice(first, last + 1)
    bent = compute_errors(courses, (1 - share) ** 2, share**2)[inside].sum(axis=0)
    straight = compute_errors(courses, 1 - share, share)[inside].sum(axis=0)
    fit = 1 - float(np.minimum(bent / np.maximum(straight, 1e-9), 1).mean())
    return fit, Boundary(start + first + 1, max(start + last, start + first + 1), "dissolve")


def fit_mixture(courses: Floats, middle: int) -> FrameSpan:
    """Return the last frame of one shot and the first of the other that best explain the courses [frames, courses].

    A course is (1-a)^2 times one constant plus a^2 times another, where a rises in a straight line from 0 to 1.
    """
    frame = np.arange(len(courses))
    pairs = [(s, e) for s in range(middle) for e in range(middle + 1, len(courses))]
    if not pairs:
        return middle, middle
    shares = (np.clip((frame - s) / (e - s), 0, 1) for s, e in pairs)
    misfits = [compute_errors(courses, (1 - share) ** 2, share**2).sum() for share in shares]
    return pairs[int(np.argmin(misfits))]


def compute_errors(courses: Floats, one: Floats, other: Floats) -> Floats:
    """Return the squared errors [frames, courses] of the best two constants for each course, where a course is `one`
    times the first plus `other` times the second, [frames] each."""
    a, b, c = one @ one, one @ other, other @ other
    first, second = one @ courses, other @ courses
    determinant = max(a * c - b * b, 1e-9)
    x, y = (c * first - b * second) / determinant, (a * second - b * first) / determinant
    return (courses - one[:, None] * x - other[:, None] * y) ** 2
