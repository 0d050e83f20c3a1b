"""The motion that a model makes for each motion bucket, as measured, and the bucket for a wanted motion.

Speeds are in a motion's own unit: short sides per second for pans and tilts; for zooms the natural logarithm of
magnification per second; for roll degrees per second; and the mean optical flow where no motion was named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BadInput, BadModel
from models.given_files import read_json

UNNAMED = "any"
"""The name for clips that were made without a named motion."""

LARGEST_BUCKET, FASTEST = 255, 1e6
"""What a model can be told, and a speed that no clip has."""


@dataclass(frozen=True)
class Response:
    """A model's response to one motion: rising buckets and the speed measured at each, a median over clips."""

    buckets: tuple[int, ...]
    speeds: tuple[float, ...]

    def rising(self) -> list[float]:
        """Return the speeds made never to fall, by pooling neighbours that do (isotonic regression)."""
        pools: list[list[float]] = []
        for speed in self.speeds:
            pools.append([speed])
            while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
                pools[-2:] = [pools[-2] + pools[-1]]
        return [float(np.mean(pool)) for pool in pools for _ in pool]

    def bucket(self, strength: float) -> int:
        """Return the bucket whose speed is nearest to `strength`, interpolated linearly between measured ones.

        If several buckets give the same speed, return the middle one; beyond the ends, the end.
        """
        speeds = self.rising()
        low = np.interp(strength, *_drop_equal_speeds(speeds, self.buckets))
        high = np.interp(-strength, *_drop_equal_speeds([-s for s in speeds[::-1]], self.buckets[::-1]))
        return round(float(low + high) / 2)

    def speed(self, bucket: int) -> float:
        """Return the speed to expect at a bucket."""
        return float(np.interp(bucket, self.buckets, self.rising()))


@dataclass(frozen=True)
class Calibration:
    """A model's responses by motion (UNNAMED: none named); `model_revision` is the digest of the weights measured."""

    model_revision: str
    responses: Mapping[str, Response]

    def bucket(self, motion: str | None, strength: float) -> int:
        """Return the bucket that gives a motion of that strength; raises BadInput for an unmeasured motion."""
        name = motion or UNNAMED
        if name not in self.responses:
            known = ", ".join(sorted(self.responses)) or "none"
            raise BadInput(
                f"The model was not calibrated for {name} (only for: {known}); give a motion bucket instead."
            )
        return self.responses[name].bucket(strength)


def make_calibration(model_revision: str, rows: Sequence[Mapping[str, Any]]) -> Calibration:
    """Make the calibration from measured clips: rows with `motion`, `motion_bucket` and `strength_measured`."""
    responses = {}
    for name in dict.fromkeys(row["motion"] or UNNAMED for row in rows):
        speeds: dict[int, list[float]] = {}
        for row in rows:
            if (row["motion"] or UNNAMED) == name and row["strength_measured"] is not None:
                speeds.setdefault(row["motion_bucket"], []).append(row["strength_measured"])
        buckets = tuple(sorted(speeds))
        responses[name] = Response(buckets, tuple(float(np.median(speeds[bucket])) for bucket in buckets))
    return Calibration(model_revision, {name: each for name, each in responses.items() if each.buckets})


def dump_calibration(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as a file keeps it."""
    return asdict(calibration)


def load_calibration(path: Path, model_revision: str) -> Calibration:
    """Read a calibration; raises BadInput when it cannot be read and BadModel when it is for other weights."""
    calibration = read_calibration(path)
    if calibration.model_revision != model_revision:
        raise BadModel(f"{path}: measured on weights other than the model's. Run `reelmill calibrate` again.")
    return calibration


def read_calibration(path: Path) -> Calibration:
    """Read a calibration, whatever its weights; raises BadInput when it cannot be read."""
    try:
        kept = read_json(path)
        responses = {name: _read_response(name, each) for name, each in kept["responses"].items()}
        return Calibration(str(kept["model_revision"]), responses)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path}: not a calibration ({error}). Make one with `reelmill calibrate`.") from error


def _read_response(name: str, kept: Mapping[str, Any]) -> Response:
    """Return a response as a file keeps it; raises ValueError for one that no measuring makes."""
    buckets, speeds = tuple(map(int, kept["buckets"])), tuple(map(float, kept["speeds"]))
    if not buckets or len(buckets) != len(speeds):
        raise ValueError(f"{name} has {len(buckets)} buckets and {len(speeds)} speeds")
    if list(buckets) != sorted({*buckets}) or not 0 <= buckets[0] <= buckets[-1] <= LARGEST_BUCKET:
        raise ValueError(f"the buckets of {name} do not rise from 0 to {LARGEST_BUCKET} at most")
    if not all(abs(speed) <= FASTEST for speed in speeds):
        raise ValueError(f"{name} has a speed that is no speed")
    return Response(buckets, speeds)


def _drop_equal_speeds(speeds: Sequence[float], buckets: Sequence[int]) -> tuple[list[float], list[int]]:
    """Drop all but the first of equal speeds, and their buckets, as interpolation needs."""
    kept = [i for i in range(len(speeds)) if i == 0 or speeds[i] > speeds[i - 1]]
    return [speeds[i] for i in kept], [buckets[i] for i in kept]
