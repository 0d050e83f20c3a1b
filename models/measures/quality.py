"""Technical faults of a picture: blur, clipped light, the grid of a coarse codec, and black bars.

sharpness: 0 (flat or blurred) to 1, the share of the energy of luma's gradient that a further blur takes away, after
Crete et al., "The blur effect" (2007); of the two directions the less sharp one, so that a moving camera's blur counts.
Pictures are resized to a short side of SHORT_SIDE first, so that the resolution does not matter; a smaller one is
enlarged, and is as blurred as it then looks. Contrast does not matter; noise counts as sharp.
exposure: -1 to 1, the larger of two shares of the luma: crushed to black (negative) or blown out to white; 0 is
neither.
blockiness: steps of luma across the lines of the codec's grid over those half a block away, after Wang, Bovik and
Evans (2000); 1 is no grid, and in a picture of the video's own size 2 is obvious. A shrunk picture hides some of it:
half the size shows half of what is above 1, and a third shows only that a codec was very coarse. So compare only videos
of one size.
Bars are black, flat, steady and straight; a dark scene is none of these, and a doubtful bar does not count.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.measures.alignment import Gray

Line = NDArray[np.floating]

SHORT_SIDE = 360

BLUR = 9
"""Pixels: the width of the blur that sharpness compares with."""

STEP_FLOOR = 0.25
"""Gray levels added to mean steps: a flat picture, whose steps are rounding, is not blocky."""

ENERGY_FLOOR = 0.25
"""Squared gray levels added to the gradient's energy: a flat picture is not sharp either."""

CRUSHED, BLOWN = 5, 250
"""Luma at or below the first is crushed, at or above the second blown out: detail is lost."""

BLOCK = 8
"""Pixels: the side of a codec's smallest common block."""

LEAST_PERIOD = 4.0
"""Pixels that blocks need at least to be distinguished from other detail."""

DARK = 20
"""Luma that a bar may reach in places, with the codec's ringing."""

STRAY = 0.05
"""Share of the pixels in a bar's line that may be brighter."""

LIT = 0.5
"""Share of the line next to a bar that must be brighter in some frame: a bar's edge is straight."""

LEAST_PICTURE = 0.3
"""Least share of each side between bars: an upright video in a wide one fills 0.316 of it; less is a lit sign."""

FLAT = 2.0
"""Gray levels by which a bar may vary in space (deviation), and in time (mean range)."""

RINGING = 2
"""Lines next to a bar's edge into which the codec smears the picture."""


@dataclass(frozen=True)
class Bars:
    """The width in pixels of the black bars on each side of a picture; 0 for none."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def crop(self, width: int, height: int) -> str | None:
        """Return the crop without the bars of a picture of that size, as ffmpeg's filter `crop` takes it: "w:h:x:y".

        All numbers are even, since most videos have half the chroma; a bar may take up to a pixel of the picture with
        it. None without bars.
        """
        if self == NO_BARS:
            return None
        x, y = self.left + self.left % 2, self.top + self.top % 2
        kept = (width - self.right - x) // 2 * 2, (height - self.bottom - y) // 2 * 2
        return f"{kept[0]}:{kept[1]}:{x}:{y}"

    def shrunk(self, shown: tuple[int, int], picture: Gray) -> "Bars":
        """Return the lines that the bars touch in a smaller picture of the video, whose (width, height) is `shown`."""
        across, down = picture.shape[1] / shown[0], picture.shape[0] / shown[1]
        sides = (self.top * down, self.bottom * down, self.left * across, self.right * across)
        return Bars(*(math.ceil(round(side, 6)) for side in sides))

    def cut(self, picture: NDArray[np.uint8], shown: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a picture [height, width] or [height, width, channels] without the lines that the bars touch; of the
        video's own size, or shrunk from that of `shown`. What has no line left stays whole."""
        bars = self.shrunk(shown, picture) if shown else self
        inner = picture[bars.top : picture.shape[0] - bars.bottom, bars.left : picture.shape[1] - bars.right]
        return inner if inner.size else picture


NO_BARS = Bars()


@dataclass(frozen=True)
class Range:
    """The darkest and the brightest luma that each pixel [height, width] has in a clip."""

    darkest: Gray
    brightest: Gray


def measure_range(frames: Iterable[Gray]) -> Range:
    """Measure the range over one or more gray uint8 frames of one size; only one is in memory at a time."""
    darkest = brightest = None
    for frame in frames:
        if darkest is None or brightest is None:
            darkest, brightest = frame.copy(), frame.copy()
        cv2.min(darkest, frame, dst=darkest)
        cv2.max(brightest, frame, dst=brightest)
    if darkest is None or brightest is None:
        raise ValueError("A range needs at least one frame.")
    return Range(darkest, brightest)


def sharpness(picture: Gray, bars: Bars = NO_BARS) -> float:
    """Measure how sharp a gray uint8 picture is without its `bars`, 0 to 1."""
    inner, scale = _crop_bars(picture, bars), SHORT_SIDE / min(picture.shape)
    size = max(1, round(inner.shape[1] * scale)), max(1, round(inner.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    seen = cv2.resize(inner, size, interpolation=way).astype(np.uint8, copy=False)
    return min(_measure_sharpness_across(seen), _measure_sharpness_across(np.ascontiguousarray(seen.T)))


def exposure(picture: Gray, bars: Bars = NO_BARS) -> float:
    """Measure the larger share of a gray uint8 picture without its `bars` that is crushed to black (negative) or blown
    out to white, -1 to 1."""
    inner = _crop_bars(picture, bars)
    crushed, blown = float((inner <= CRUSHED).mean()), float((inner >= BLOWN).mean())
    return blown if blown >= crushed else -crushed


def blockiness(picture: Gray, shown: tuple[int, int], bars: Bars = NO_BARS) -> float:
    """Measure how much a gray uint8 picture shows of its codec's grid; 1 when it shows none.

    `shown` is the (width, height) of the video: in a shrunk picture, the grid is shrunk as well. When blocks of BLOCK
    pixels are then too small to be seen, the search is for those of twice the size, and so on. The grid begins in the
    corner: little is found in a video that was cropped or enlarged after it was coded coarsely. `bars`, whose edges are
    not blocks, are left out.
    """
    height, width = picture.shape
    inner = _crop_bars(picture, bars)
    across = _measure_grid_steps(inner, bars.left, _find_period(width, shown[0]))
    down = _measure_grid_steps(inner.T, bars.top, _find_period(height, shown[1]))
    return float(np.mean([across, down]))


def find_bars(seen: Range, shown: tuple[int, int]) -> Bars:
    """Find the bars of a clip in pixels of the video, whose (width, height) is `shown`, from the range of its frames.

    In shrunk frames the edge is found between their pixels, by how dark the line with the edge is: exactly while the
    video is up to three times as large, and to within one pixel beyond that. Text in a bar counts as picture.
    """
    bright = seen.brightest > DARK
    rows, columns = np.flatnonzero(bright.mean(1) > STRAY), np.flatnonzero(bright.mean(0) > STRAY)
    if not len(rows) or not len(columns):
        return NO_BARS
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    if min(np.divide(bright[box].shape, bright.shape)) < LEAST_PICTURE:
        return NO_BARS
    wide, high = shown[0] / bright.shape[1], shown[1] / bright.shape[0]
    down, across = _apply_view(seen, lambda p: p[:, box[1]]), _apply_view(seen, lambda p: p[box[0]].T)
    return Bars(
        top=_measure_bar(down, high),
        bottom=_measure_bar(_apply_view(down, np.flipud), high),
        left=_measure_bar(across, wide),
        right=_measure_bar(_apply_view(across, np.flipud), wide),
    )


def _apply_view(seen: Range, view: Callable[[Gray], Gray]) -> Range:
    """Apply a view to both pictures of a range."""
    return Range(view(seen.darkest), view(seen.brightest))


def _crop_bars(picture: Gray, bars: Bars) -> Gray:
    height, width = picture.shape
    return picture[bars.top : height - bars.bottom, bars.left : width - bars.right]


def _measure_bar(seen: Range, scale: float) -> int:
    """Measure the height of the bar above the first bright line, times `scale`, to the pixel; 0 without a bar."""
    darkest, brightest = seen.darkest, seen.brightest
    depth = int(np.argmax((brightest > DARK).mean(1) > STRAY))
    if not depth or (brightest[depth : depth + RINGING] > DARK).mean(1).max() < LIT:
        return 0
    inside = slice(0, max(1, depth - RINGING))
    steady = np.subtract(brightest[inside], darkest[inside]).mean() <= FLAT
    if not steady or brightest[inside].std() > FLAT:
        return 0
    return round(scale * _find_edge(brightest.mean(1), depth)) if scale > 1 else depth


def _find_edge(lines: Line, depth: int) -> float:
    """Find where the bar ends, between lines: those around its edge are dark by the bar's share of them."""
    start, picture = max(0, depth - RINGING), depth + RINGING
    black, bright = lines[: max(1, start)].min(), lines[min(picture, len(lines) - 1)]
    if bright <= black:
        return float(depth)
    shares = 1 - (lines[start:picture] - black) / (bright - black)
    return start + float(np.clip(shares, 0, 1).sum())


def _measure_sharpness_across(picture: Gray) -> float:
    """Measure the share of the energy of the steps from column to column that a blur along the rows removes."""
    before, after = (
        _measure_step_energy(picture),
        _measure_step_energy(cv2.blur(picture, (BLUR, 1)).astype(np.uint8, copy=False)),
    )
    return max(0.0, before - after) / (before + ENERGY_FLOOR)


def _measure_step_energy(picture: Gray) -> float:
    """Return the mean square of the steps from column to column."""
    steps = picture.shape[0] * (picture.shape[1] - 1)
    return cv2.norm(picture[:, 1:], picture[:, :-1], cv2.NORM_L2SQR) / steps if steps else 0.0


def _find_period(pixels: int, shown: int) -> float:
    """Return the distance of the grid's lines in a side of `pixels` that is `shown` pixels long in the video."""
    period = BLOCK * pixels / shown
    while period < LEAST_PERIOD:
        period *= 2
    return period


def _measure_grid_steps(picture: Gray, start: int, period: float) -> float:
    """Measure the median step across a grid's vertical lines over that half a period away; medians, since an edge of
    the picture may be on a line. `start` is the position of the picture's first column in the grid."""
    if not picture.size or picture.shape[1] < 2:
        return 1.0
    steps = cv2.absdiff(np.ascontiguousarray(picture[:, 1:]), np.ascontiguousarray(picture[:, :-1])).mean(0)
    # The step from column x - 1 to x crosses the line at x.
    place = np.arange(start + 1, start + 1 + len(steps)) / period
    off = np.abs(place - np.rint(place)) * period
    on_line, between = steps[off < 0.5], steps[off > period / 2 - 1]
    if not len(on_line) or not len(between):
        return 1.0
    return float((np.median(on_line) + STEP_FLOOR) / (np.median(between) + STEP_FLOOR))
