"""Choosing among takes: every clip of a job is scored, the best is chosen, and a gate says whether it is good enough.

score: 0..1, higher is better: the share of good frames, times the meters' mean, each brought to 0..1 (see `quality`); 1
is a sharp, steady clip of the picture's own colours. A take that makes the camera motion asked for always ranks before
one that does not, whatever their scores; then one that moves before one that is frozen. `reasons` say why a take does
not pass the gate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from tasks.caching import Step, find_or_compute
from tasks.generate.meter_columns import describe_length
from tasks.manifest import ManifestRef, make_table, read_rows

VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("item_key", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("passed", pa.bool_()),
        pa.field("reasons", pa.list_(pa.string())),
        pa.field("chosen", pa.bool_()),
    ]
)
"""A row for each take that has a file; one take of each job is `chosen`, whether it `passed` the gate or not."""

STEP = Step("choose", VERSION, SCHEMA)

JOB_NEEDS = ("job", "take", "item_key", "motion", "frames", "status")

COLOUR_SPAN = 40.0
"""Gray levels of colour drift at which that part of the score is 0."""

FLICKER_SPAN = 10.0
"""Gray levels of flicker at which that part of the score is 0."""


class GateConfig(BaseModel):
    """When a take is good enough, and how many more may be made of a job that has no passing take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extra_takes: int = Field(default=0, ge=0, le=64, description="Further takes of a job while none passes the gate")
    good_share: float = Field(default=0.75, ge=0, le=1, description="Least share of a clip's frames that are good")
    score_min: float = Field(default=0.0, ge=0, le=1, description="Least score")
    frozen_max: float = Field(default=0.3, ge=0, le=1, description="Largest share of repeated frames")
    motion: bool = Field(default=True, description="Whether the camera motion asked for must be met")


@dataclass(frozen=True)
class Take:
    """What the choice knows of a clip; see models/measures/meters.py for the units."""

    item_key: str
    motion_asked: str | None
    motion_measured: str
    frames: int
    good_frames: int
    sharpness: float
    colour: float
    identity: float
    flicker: float
    frozen_share: float

    @property
    def met(self) -> bool:
        """Say whether the motion asked for, if any, was measured."""
        return self.motion_asked in (None, self.motion_measured)


@dataclass(frozen=True)
class TakeChoice:
    """The place of the best take, and each take's score and the rules it fails."""

    best: int
    scores: tuple[float, ...]
    reasons: tuple[tuple[str, ...], ...]


def measure_quality(take: Take) -> dict[str, float]:
    """Return the parts of the score, 0..1 each, 1 best. Sharpness half or twice that of the first frame counts the
    same."""
    return {
        "sharpness": min(take.sharpness, 1 / max(take.sharpness, 1e-6)),
        "colour": max(0.0, 1 - take.colour / COLOUR_SPAN),
        "identity": max(0.0, take.identity),
        "flicker": max(0.0, 1 - take.flicker / FLICKER_SPAN),
        "moving": 1 - take.frozen_share,
    }


def score(take: Take) -> float:
    """Return the share of good frames times the mean of the parts: 0..1, higher is better."""
    parts = measure_quality(take)
    return take.good_frames / take.frames * sum(parts.values()) / len(parts)


def list_failed_rules(take: Take, gate: GateConfig) -> tuple[str, ...]:
    """Return the rules of the gate that the take fails, in words for a person; none when it passes.

    Where the camera is asked to stand still, a still clip passes, but one in which something moves ranks higher.
    """
    stands = take.motion_asked != "static" and take.frozen_share > gate.frozen_max
    rules = {
        f"camera {take.motion_measured}, asked {take.motion_asked}": gate.motion and not take.met,
        describe_length(take.good_frames, take.frames): take.good_frames < gate.good_share * take.frames,
        f"{take.frozen_share:.0%} of the frames repeated": stands,
        f"score {score(take):.2f} below {gate.score_min:.2f}": score(take) < gate.score_min,
    }
    return tuple(said for said, failed in rules.items() if failed)


def choose(takes: Sequence[Take], gate: GateConfig) -> TakeChoice:
    """Choose the best of a job's takes, of which there is at least one. Equal takes keep their order."""
    reasons = tuple(list_failed_rules(take, gate) for take in takes)
    scores = tuple(score(take) for take in takes)
    ranks = [
        (take.met, take.frozen_share <= gate.frozen_max, not failed, own)
        for take, failed, own in zip(takes, reasons, scores, strict=True)
    ]
    return TakeChoice(max(range(len(takes)), key=lambda i: ranks[i]), scores, reasons)


def make_take(clip: Mapping[str, Any], job: Mapping[str, Any]) -> Take:
    """Return a measured clip's row as a take of its job; a clip that ended early lacks the frames that it should
    have."""
    names = ("item_key", "motion_measured", "sharpness", "colour", "identity", "flicker", "frozen_share")
    own = {name: clip[name] for name in names}
    return Take(motion_asked=job["motion"], frames=job["frames"], good_frames=clip["good_until"], **own)


def make_choice_rows(
    jobs: Sequence[Mapping[str, Any]],
    clips: Sequence[Mapping[str, Any]],
    videos: Sequence[Mapping[str, Any]],
    gate: GateConfig,
) -> list[dict[str, Any]]:
    """Return the manifest's rows: for each job, its takes that have a file, in order; their `clips` are what is
    judged."""
    written = {video["item_key"] for video in videos if video["video"]}
    made = {clip["item_key"]: clip for clip in clips if clip["item_key"] in written}
    ready = sorted((job for job in jobs if job["item_key"] in made), key=lambda job: (job["job"], job["take"]))
    rows = []
    for _, group in groupby(ready, key=lambda job: job["job"]):
        takes = [make_take(made[job["item_key"]], job) for job in group]
        choice = choose(takes, gate)
        rows += [
            {
                "item_key": take.item_key,
                "score": own,
                "passed": not failed,
                "reasons": failed,
                "chosen": i == choice.best,
            }
            for i, (take, own, failed) in enumerate(zip(takes, choice.scores, choice.reasons, strict=True))
        ]
    return rows


def list_unmet_jobs(jobs: Sequence[Mapping[str, Any]], choices: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the numbers of the jobs that have takes to judge, none of which passed the gate."""
    numbers = {job["item_key"]: job["job"] for job in jobs if job["item_key"]}
    judged = [(numbers[row["item_key"]], row["passed"]) for row in choices]
    return {number for number, _ in judged} - {number for number, passed in judged if passed}


@task(name="choose")
def choose_takes(
    root: Path,
    config: GateConfig,
    jobs: ManifestRef,
    clips: Sequence[ManifestRef],
    videos: Sequence[ManifestRef],
) -> ManifestRef:
    """Score every take that was measured and has a file, and choose one for each job."""

    def compute(_: str) -> pa.Table:
        decoded, encoded = ([row for ref in refs for row in read_rows(ref)] for refs in (clips, videos))
        ready = [row for row in read_rows(jobs, JOB_NEEDS) if row["status"] == "ready"]
        return make_table(make_choice_rows(ready, decoded, encoded, config), SCHEMA)

    return find_or_compute(STEP, root, config, [jobs, *clips, *videos], compute)
