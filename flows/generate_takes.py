"""Further takes: where none of a job's takes passes the gate, one more is made at a time, while the budget lasts."""

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

from flows.running.run import Run
from tasks.generate.choose import GateConfig, choose_takes, list_unmet_jobs
from tasks.manifest import ManifestRef, read_rows

log = logging.getLogger("reelmill")

Read = Callable[[int], ManifestRef]
"""The jobs with so many takes more."""

Make = Callable[[ManifestRef, Collection[str]], list[list[ManifestRef]]]
"""The latents, the clips and the files of some of the jobs, by their item keys."""


class Made(NamedTuple):
    """What a run has made so far: the jobs with all the takes that were tried, and their latents, measured clips, files
    and choice."""

    jobs: ManifestRef
    samples: list[ManifestRef]
    clips: list[ManifestRef]
    videos: list[ManifestRef]
    choices: ManifestRef


def make_further_takes(
    run: Run, gate: GateConfig, made: Made, read: Read, make: Make, may_start: Callable[[], bool]
) -> Made:
    """Make one more take at a time of each job that has no passing take, until no more work may start."""
    for extra in range(1, gate.extra_takes + 1):
        before = read_rows(made.jobs)
        unmet = list_unmet_jobs(before, read_rows(made.choices))
        if not unmet or not may_start():
            break
        log.info("gate: jobs without a passing take: %d; making extra take %d for each", len(unmet), extra)
        jobs = read(extra)
        wanted = {row["item_key"] for row in read_rows(jobs) if row["job"] in unmet}
        more = make(jobs, wanted - {row["item_key"] for row in before})
        samples, clips, videos = ([*old, *new] for old, new in zip(made[1:4], more, strict=True))
        made = Made(jobs, samples, clips, videos, run.whole(choose_takes, gate, jobs, clips, videos))
    if gate.extra_takes:
        report_yield(made)
    return made


def report_yield(made: Made) -> None:
    """Say how many takes and jobs pass the gate."""
    judged, unmet = read_rows(made.choices), list_unmet_jobs(read_rows(made.jobs), read_rows(made.choices))
    jobs = sum(row["chosen"] for row in judged)
    passed = sum(row["passed"] for row in judged)
    met = jobs - len(unmet)
    log.info("gate: %d of %d jobs have a take that passes; %d of %d takes do", met, jobs, passed, len(judged))
