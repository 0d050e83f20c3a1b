"""Gaps: places where no frame was recorded for a while, because a camera stalled or recordings were joined.

A gap is seen in the frames' times alone. It is far longer than the frames' usual distance around it, so that slides
shown for ten seconds each, or one picture a minute, have none.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tasks.detectors.boundary import Boundary


class GapSettings(BaseModel):
    """The settings that define a gap in time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gap_s: float = Field(
        default=5.0, gt=0, description="Frames further apart than this are two shots, in seconds; more: fewer gaps."
    )
    gap_ratio: float = Field(
        default=10.0,
        ge=1,
        description="Least length of a gap, as a multiple of the usual distance of frames around it.",
    )


AROUND = 24
"""How many distances on either side of a gap say what is usual."""


def find_gaps(seconds: NDArray[np.floating], settings: GapSettings) -> list[Boundary]:
    """Return the gaps in the frames' times, each before the frame that ends it."""
    steps = np.diff(seconds)
    far = np.flatnonzero(steps > settings.gap_s)
    return [
        Boundary(int(i) + 1, int(i) + 1, "gap")
        for i in far
        if steps[i] >= settings.gap_ratio * find_usual(steps, int(i))
    ]


def find_usual(steps: NDArray[np.floating], i: int) -> float:
    """Return the median of the distances around distance i, without it; 0 where there are none."""
    around = np.concatenate([steps[max(i - AROUND, 0) : i], steps[i + 1 : i + 1 + AROUND]])
    return float(np.median(around)) if len(around) else 0.0
