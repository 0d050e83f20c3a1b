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
from tasks.media.signals import Signals


class DissolveSettings(BaseModel):
    """The settings that define a dissolve."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    middle_rate: float = Field(
        default=8.0, gt=0, description="Frames per second at which dissolves of some frames are found."
    )
    low_rate: float = Field(default=2.5, gt=0, description="Frames per second at which dissolves of seconds are found.")
    slow_rate: float = Field(
        default=1.25, gt=0, description="Frames per second at which dissolves of four seconds and more are found."
    )
    middle_threshold: float = Field(
        default=0.6, gt=0, description="Least mean of dip and blur, 0 to 1, at the middle rate; more: fewer dissolves."
    )
    low_threshold: float = Field(default=0.55, gt=0, description="The same at the low rate.")
    slow_threshold: float = Field(default=0.55, gt=0, description="The same at the slow rate.")
    min_difference: float = Field(
        default=0.8, ge=0, description="Least difference of the two pictures, as a multiple of their contrast."
    )
    max_residual: float = Field(
        default=0.55,
        ge=0,
        description="How much of the two pictures' difference a mixture may leave unexplained; more: more dissolves.",
    )
    min_fit: float = Field(
        default=0.5,
        ge=0,
        description="Least product of the mean of dip and blur and the fit of the mixture; more: fewer dissolves.",
    )
    min_slow_fit: float = Field(default=0.45, ge=0, description="The same at the slow rate.")
    min_dissolve_frames: int = Field(
        default=3, ge=1, description="Least frames of a dissolve; a shorter mixture is a cut."
    )


Triple = tuple[int, int, int]
"""The frames A, M and B."""

STEPS = (2, 3)
"""The distances of the outer two of three pictures from the middle one, in steps of the rate."""

LEAST = 0.3
"""The least dip and the least blur, whatever their mean."""

FIT_S, SLOW_FIT_S = 1.5, 4.0
"""How far on each side of its middle a dissolve is fitted, in seconds: one found at the middle or the low rate, or at
the slow one."""

MOST = 96
"""A dissolve is fitted to so many frames at most, evenly spaced."""

PURE = 0.75
"""A purity of which this much is enough: what moves slowly takes the rest."""

PLACE = 3.0
"""The weight of a picture's place between the two in the fit, beside those of variance and detail."""

BATCH = 4096
"""Triples of pictures compared at a time, to keep memory small."""


def find_dissolves(signals: Signals, taken: list[Boundary], settings: DissolveSettings) -> list[Boundary]:
    """Return the dissolves, in order of time; none overlaps a boundary in `taken`, nor compares pictures across one."""
    free = list_spans_between(taken, len(signals.seconds))
    found: list[tuple[float, Boundary]] = []
    for rate, threshold, least, reach_s in (
        (settings.middle_rate, settings.middle_threshold, settings.min_fit, FIT_S),
        (settings.low_rate, settings.low_threshold, settings.min_fit, FIT_S),
        (settings.slow_rate, settings.slow_threshold, settings.min_slow_fit, SLOW_FIT_S),
    ):
        for span in free:
            for score, triple in find_candidates(signals, span, rate, threshold, settings):
                fit, dissolve = fit_dissolve(signals, span, triple, reach_s)
                if score * fit >= least and dissolve.end - dissolve.start >= settings.min_dissolve_frames:
                    found.append((score * fit, dissolve))
    return drop_overlaps(found)


def find_candidates(
    signals: Signals, span: FrameSpan, rate: float, threshold: float, settings: DissolveSettings
) -> list[tuple[float, Triple]]:
    """Return the score and the frames A, M, B of the best M in each stretch of the span that looks like a dissolve at
    `rate`."""
    start, end = span
    frames = choose_frames(signals.seconds[start:end], rate) + start
    scores, steps = np.zeros(len(frames)), np.full(len(frames), STEPS[0])
    for step in STEPS:
        if len(frames) > 2 * step:
            of_step = np.pad(score_frames(signals, frames, step, settings), step)
            scores, steps = np.maximum(scores, of_step), np.where(of_step > scores, step, steps)
    good = np.concatenate([[False], scores >= threshold, [False]])
    stretches = np.flatnonzero(np.diff(good)).reshape(-1, 2)
    best = [a + int(np.argmax(scores[a:b])) for a, b in stretches]
    return [(float(scores[i]), (int(frames[i - steps[i]]), int(frames[i]), int(frames[i + steps[i]]))) for i in best]


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


def fit_dissolve(signals: Signals, span: FrameSpan, triple: Triple, reach_s: float) -> tuple[float, Boundary]:
    """Return how well the best dissolve around a triple's middle frame fits, and that dissolve.

    The fit, 0 to 1, is that of its courses, less where its pictures show what neither shot shows: there something moved
    fast.
    """
    seconds, middle = signals.seconds, triple[1]
    start = max(span[0], int(np.searchsorted(seconds, seconds[middle] - reach_s)))
    end = min(span[1], int(np.searchsorted(seconds, seconds[middle] + reach_s)))
    frames = np.arange(start, end)[(middle - start) % -(-(end - start) // MOST) :: -(-(end - start) // MOST)]
    courses = measure_courses(signals, frames, (triple[0], triple[2]))
    first, last = fit_mixture(courses, int(np.searchsorted(frames, middle)))
    after = int(frames[first]) + 1
    dissolve = Boundary(after, max(int(frames[last]), after), "dissolve")
    pure = min(measure_purity(signals, frames[first : last + 1]) / PURE, 1.0)
    return pure * measure_fit(courses, first, last), dissolve


def measure_purity(signals: Signals, frames: NDArray[np.intp]) -> float:
    """Return 1 less what the pictures of a mixture have that neither the first nor the last of the `frames` has: the
    root mean square, as a share of the difference of these two."""
    a, b = (signals.thumbnails[i].astype(np.float32) for i in (frames[0], frames[-1]))
    step, rest = b - a, signals.thumbnails[frames] - a
    squared = max(float(step**2 @ WEIGHTS), 1e-6)
    share = np.clip((rest * step) @ WEIGHTS / squared, 0, 1)
    return 1 - float(np.sqrt(((rest - share[:, None] * step) ** 2 @ WEIGHTS).mean() / squared))


def measure_fit(courses: Floats, first: int, last: int) -> float:
    """Return 1 less the error of a mixture's courses [frames, 3] as a share of those of straight ones: of variance and
    detail inside the mixture, and of the place over all frames; the mean of the three."""
    share = np.clip((np.arange(len(courses)) - first) / max(last - first, 1), 0, 1)[None]
    whole = np.linspace(0, 1, len(courses))[None]
    left = []
    for course, mix in zip(courses.T, MIXTURES, strict=True):
        here, other = (slice(None), whole) if mix is mix_straight else (slice(first, last + 1), share)
        bent, straight = (compute_errors(course, parts)[0, here].sum() for parts in (mix(share), mix_straight(other)))
        left.append(min(bent / max(straight, 1e-9), 1.0))
    return 1 - float(np.mean(left))


def measure_courses(signals: Signals, frames: NDArray[np.intp], outer: FrameSpan) -> Floats:
    """Return the courses [frames, 3] of a mixture: of the variance of luma and of the detail, as multiples of their
    means, and of the place of each picture on the way from the one of the `outer` frames to the other."""
    a, b = (signals.thumbnails[i].astype(np.float32) for i in outer)
    step = b - a
    place = ((signals.thumbnails[frames] - a) * step) @ WEIGHTS / max(float(step**2 @ WEIGHTS), 1e-6)
    courses = np.stack([signals.deviation[frames].astype(float) ** 2, signals.detail[frames]], axis=1)
    courses /= np.maximum(courses.mean(axis=0), 1e-6)
    return np.column_stack([courses, PLACE * place])


def mix_straight(share: Floats) -> Floats:
    """Return the parts [..., 2] that two values have in their mixture: 1-a and a."""
    return np.stack([1 - share, share], axis=-1)


def mix_detail(share: Floats) -> Floats:
    """Return the parts that the detail of two pictures has in that of their mixture, not being correlated: (1-a)^2 and
    a^2."""
    return np.stack([(1 - share) ** 2, share**2], axis=-1)


def mix_variance(share: Floats) -> Floats:
    """Return the parts of the variances of two pictures and, in the middle, of their covariance."""
    return np.stack([(1 - share) ** 2, 2 * share * (1 - share), share**2], axis=-1)


MIXTURES = (mix_variance, mix_detail, mix_straight)
"""How each of the courses is mixed."""


def fit_mixture(courses: Floats, middle: int) -> FrameSpan:
    """Return the last frame of one shot and the first of the other that best explain the courses [frames, 3], where a
    rises in a straight line from 0 to 1 between them."""
    ends = np.arange(middle + 1, len(courses))
    if not middle or not len(ends):
        return middle, middle
    misfits = np.stack([measure_misfits(courses, start, ends) for start in range(middle)])
    start, end = np.unravel_index(int(np.argmin(misfits)), misfits.shape)
    return int(start), int(ends[end])


def measure_misfits(courses: Floats, start: int, ends: NDArray[np.intp]) -> Floats:
    """Return the sums [ends] of squared errors of the best mixtures from frame `start` to each of the `ends`.

    What moves in the two shots moves their place too: it may drift in a straight line before and after the mixture.
    """
    way = (np.arange(len(courses)) - start) / (ends - start)[:, None]
    share = np.clip(way, 0, 1)
    drifting = np.stack([np.ones_like(share), share, np.minimum(way, 0), np.maximum(way - 1, 0)], axis=-1)
    parts = (mix_variance(share), mix_detail(share), drifting)
    errors = (compute_errors(course, each) for course, each in zip(courses.T, parts, strict=True))
    return np.sum([each.sum(axis=1) for each in errors], axis=0)


def compute_errors(course: Floats, parts: Floats) -> Floats:
    """Return the squared errors [n, frames] of a course [frames] that has these parts [n, frames, values] of the values
    that explain it best."""
    crossed = np.swapaxes(parts, 1, 2)
    system = crossed @ parts + 1e-9 * np.eye(parts.shape[-1])
    values = np.linalg.solve(system, (crossed @ course)[..., None])
    return (course - (parts @ values)[..., 0]) ** 2
