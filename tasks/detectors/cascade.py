"""The detectors by name, and their cascade: cuts at the native rate, then fades, wipes and dissolves at 30 Hz or less.

Each detector of the cascade searches only the frames between the boundaries found before it, so that none compares
pictures across a known boundary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from tasks.detectors.boundary import Boundary, list_spans_between
from tasks.detectors.cuts import CutSettings, find_cuts
from tasks.detectors.dissolves import DissolveSettings, find_dissolves
from tasks.detectors.fades import FadeSettings, find_fades
from tasks.detectors.gaps import GapSettings, find_gaps
from tasks.detectors.pyscenedetect import LibrarySettings, find_adaptive, find_content
from tasks.detectors.thinning import choose_thinned, take_frames, thin_boundaries, widen_boundary
from tasks.detectors.wipes import WipeSettings, find_wipes
from tasks.media.signals import Signals

Detector = Literal["cascade", "adaptive", "content", "fixed"]


NEAR = 2
"""A cut at most this many frames (of those left at 30 Hz) from either end of a gradual transition belongs to it."""


class DetectorSettings(CutSettings, FadeSettings, WipeSettings, DissolveSettings, LibrarySettings, GapSettings):
    """The choice of a detector, and the settings of each."""

    detector: Detector = Field(
        default="cascade",
        description="cascade: cuts, dissolves, fades and wipes; adaptive, content: PySceneDetect; fixed: equal shots.",
    )
    stride_s: float = Field(default=10.0, gt=0, description="fixed: length of a shot, in seconds.")


def find_boundaries(signals: Signals, settings: DetectorSettings, joins: Sequence[Boundary] = ()) -> list[Boundary]:
    """Return the boundaries between shots, in order of time: the gaps in time, the `joins` that are known, and what the
    chosen detector finds in each stretch between those, as if it were a video of its own."""
    found = list({b.start: b for b in (*find_gaps(signals.seconds, settings), *joins)}.values())
    for start, end in list_spans_between(list(found), len(signals.seconds)):
        inner = DETECTORS[settings.detector](take_frames(signals, slice(start, end)), settings)
        found += [replace(b, start=b.start + start, end=b.end + start) for b in inner]
    return sorted(found)


def find_by_cascade(signals: Signals, settings: DetectorSettings) -> list[Boundary]:
    """Find hard cuts, fades, wipes and dissolves."""
    found, kept = find_cuts(signals, settings), choose_thinned(signals.seconds)
    thinned, frames = take_frames(signals, kept), len(signals.seconds)
    reach = NEAR * round(frames / len(kept))
    for detect in (find_fades, find_wipes, find_dissolves):
        gradual = detect(thinned, thin_boundaries(found, kept), settings)
        found = merge_gradual(found, [widen_boundary(b, kept, frames, found) for b in gradual], reach)
    return found


def merge_gradual(found: list[Boundary], gradual: list[Boundary], reach: int = NEAR) -> list[Boundary]:
    """Return the boundaries found so far with gradual ones, which replace the cuts inside them and those within `reach`
    frames of their ends: a dissolve may begin with a jump."""
    wider, swallowed = [], set[Boundary]()
    for transition in gradual:
        near = {b for b in found if b.kind == "cut" and transition.start - reach <= b.start <= transition.end + reach}
        starts, ends = ([edge(b) for b in (transition, *near)] for edge in (lambda b: b.start, lambda b: b.end))
        wider.append(Boundary(min(starts), max(ends), transition.kind))
        swallowed |= near
    return sorted([*(b for b in found if b not in swallowed), *wider])


def find_fixed(signals: Signals, settings: DetectorSettings) -> list[Boundary]:
    """Return a cut every `stride_s` seconds, whatever is shown."""
    seconds = signals.seconds
    ticks = np.arange(seconds[0] + settings.stride_s, seconds[-1], settings.stride_s)
    frames = np.unique(np.searchsorted(seconds, ticks - 1e-9))
    return [Boundary(int(frame), int(frame), "cut") for frame in frames]


DETECTORS: Mapping[Detector, Callable[[Signals, DetectorSettings], list[Boundary]]] = {
    "cascade": find_by_cascade,
    "adaptive": find_adaptive,
    "content": find_content,
    "fixed": find_fixed,
}
