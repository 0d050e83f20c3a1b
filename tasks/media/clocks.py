"""The times of a video's frames: which of the two that a file gives is right, and times that go on where its clock was
set back."""

import math
from fractions import Fraction

from av.video.frame import VideoFrame


class GuessedClock:
    """Frame times as ffmpeg guesses them: a frame's pts, or its dts in files whose pts run backwards more often
    (libav's guess_correct_pts; H.264 in AVI is one)."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}

    def set_time(self, frame: VideoFrame) -> int | None:
        """Set the frame's pts to the time to use, and return it."""
        given = {"pts": frame.pts, "dts": frame.dts}
        for name, time in given.items():
            if time is not None:
                self._faults[name] += time <= self._last.get(name, time - 1)
                self._last[name] = time
        if given["pts"] is None or (given["dts"] is not None and self._faults["pts"] > self._faults["dts"]):
            frame.pts = given["dts"]
        return frame.pts


CLOCK_JUMP_S = 0.5
"""A clock that goes back by more than this was set anew, as where recordings are joined; by less, a time is wrong."""


FIXED = frozenset({"mov", "matroska", "webm", "avi"})
"""Demuxers of files whose index orders all frames: no clock is set back in them, so that they can be read from any
place. Of others it is not known before they are read."""


def can_be_set_back(demuxer: str) -> bool:
    """Say whether the clock of files of this demuxer ("mov,mp4,m4a") may be set back."""
    return FIXED.isdisjoint(demuxer.split(","))


def find_jump(time_base: Fraction) -> int:
    """Return CLOCK_JUMP_S in units of the time base."""
    return math.ceil(CLOCK_JUMP_S / time_base)


class SteadyClock:
    """Times that go on where the clock of a video was set back: from there on they are shifted, so that the first such
    frame follows the one before as frames did so far."""

    def __init__(self, time_base: Fraction) -> None:
        self._jump = find_jump(time_base)
        self._last: int | None = None
        self._step = 1
        self._shift = 0

    def set_time(self, pts: int) -> tuple[int | None, bool]:
        """Return the time of the next frame, None where it is not after the one before, and whether the clock was set
        back there."""
        time = pts + self._shift
        back = self._last is not None and time < self._last - self._jump
        if self._last is not None and back:
            self._shift += self._last + self._step - time
            time = self._last + self._step
        if self._last is not None and time <= self._last:
            return None, False
        if self._last is not None and not back:
            self._step = time - self._last if time - self._last < self._jump else self._step
        self._last = time
        return time, back
