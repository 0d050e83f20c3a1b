"""Generate videos from pictures: read the jobs, sample latents, decode and measure them, and collect one table."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from prefect import flow
from pydantic import Field

from flows.config import FlowConfig, Outcome
from flows.running import Run, running
from tasks.generate.choose import GateConfig, choose_takes, unmet_jobs
from tasks.generate.decode import DecodeConfig, decode_jobs, sampled
from tasks.generate.gallery import write_gallery
from tasks.generate.jobs import JobsConfig, read_jobs
from tasks.generate.outputs import collect_outputs
from tasks.generate.sample import Batch, SampleConfig, batches_of, fill_batches, ready_items, sample_jobs
from tasks.manifest import ManifestRef, read_rows, remove_asides

log = logging.getLogger("reelmill")

SECONDS_PER_CELL = 6.5e-5
"""On one core, for one latent cell of one frame through one denoising step of the embedded model, with guidance."""

DECODE_SHARE = 0.12
"""Decoding, encoding and measuring a clip, as a share of sampling it."""


class GenerateConfig(FlowConfig, JobsConfig):
    """Everything a batch of generated videos depends on. `jobs`: see the columns of tasks.generate.jobs.JobLine."""

    jobs: Path = Field(description="Folder of pictures, one picture, or a CSV, JSONL or Parquet table of jobs")
    out: Path = Field(description="Folder of the videos, the table and the page")
    batch: int = Field(default=1, ge=1, le=256, description="Clips sampled together; more need more memory")
    crf: int = Field(default=16, ge=0, le=51, description="H.264 quality, 0 best, 51 smallest")
    trim: bool = Field(default=False, description="Whether a clip ends where it stops being good")
    gate: GateConfig = Field(default=GateConfig(), description="When a take will do, and how many more are tried")

    @property
    def per_job(self) -> JobsConfig:
        """The part that jobs are resolved with."""
        return JobsConfig(**{name: getattr(self, name) for name in JobsConfig.model_fields})


class GenerateOutcome(Outcome):
    """Where the table and the page are, and how many clips there are."""

    clips: int
    duplicates: int
    outputs: Path
    page: Path


class GeneratePlan(Outcome):
    """What a run would make: one line for what is ready, one for each job that is not."""

    ready: int
    batches: int
    each: str
    not_made: tuple[str, ...]

    def __str__(self) -> str:
        """The plan as lines."""
        lines = [f"ready: {self.ready} clips in {self.batches} batches", *([self.each] if self.each else [])]
        return "\n".join([*lines, *self.not_made])


@flow(name="generate")
def generate(config: GenerateConfig) -> GenerateOutcome:
    """Make a video of every job that can be made; the others are rows with a reason."""
    with running(config.out, "generate", config) as run:
        remove_asides(config.out)
        jobs = run.whole(read_jobs, config.per_job, config.jobs)
        samples = sample(run, config, jobs, batches_of(jobs, SampleConfig(batch=config.batch)))
        clips = decode(run, config, jobs, samples)
        choices = run.whole(choose_takes, config.gate, jobs, clips)
        made = further_takes(run, config, Made(jobs, samples, clips, choices))
        outputs = collect_outputs(config.out, jobs, made.samples, made.clips, made.choices, made.jobs)
        page = write_gallery(config.out, outputs)
        return summary(outputs, page)


class Made(NamedTuple):
    """What a run has made so far: the jobs with all takes that were tried, their latents, clips and choice."""

    jobs: ManifestRef
    samples: list[ManifestRef]
    clips: list[ManifestRef]
    choices: ManifestRef


def further_takes(run: Run, config: GenerateConfig, made: Made) -> Made:
    """One more take at a time of each job of which no take passes the gate, while the budget lasts."""
    for extra in range(1, config.gate.extra_takes + 1):
        before = read_rows(made.jobs)
        unmet = unmet_jobs(before, read_rows(made.choices))
        if not unmet:
            break
        log.info("gate: no take of %d jobs passes; take %d more of each", len(unmet), extra)
        settings = config.per_job.model_copy(update={"takes": config.takes + extra})
        jobs = run.whole(read_jobs, settings, config.jobs)
        wanted = {row["item_key"] for row in read_rows(jobs) if row["job"] in unmet}
        wanted -= {row["item_key"] for row in before}
        batches = fill_batches([item for item in ready_items(jobs) if item.item_key in wanted], config.batch)
        samples = sample(run, config, jobs, [(jobs, tuple(item.item_key for item in batch)) for batch in batches])
        clips = [*made.clips, *decode(run, config, jobs, samples)]
        choices = run.whole(choose_takes, config.gate, jobs, clips)
        made = Made(jobs, [*made.samples, *samples], clips, choices)
    report_yield(made)
    return made


def report_yield(made: Made) -> None:
    """Say how many takes and jobs pass the gate."""
    judged, unmet = read_rows(made.choices), unmet_jobs(read_rows(made.jobs), read_rows(made.choices))
    jobs = sum(row["chosen"] for row in judged)
    passed = sum(row["passed"] for row in judged)
    met = jobs - len(unmet)
    log.info("gate: %d of %d jobs have a take that passes; %d of %d takes do", met, jobs, passed, len(judged))


def sample(run: Run, config: GenerateConfig, jobs: ManifestRef, batches: Sequence[Batch]) -> list[ManifestRef]:
    """The latents of every batch, in chunks of whole batches."""
    settings = SampleConfig(batch=config.batch)
    return run.chunks(sample_jobs, settings, batches, [seconds(config, jobs) * len(keys) for _, keys in batches])


def decode(run: Run, config: GenerateConfig, jobs: ManifestRef, samples: list[ManifestRef]) -> list[ManifestRef]:
    """The videos of everything sampled."""
    items = sampled(jobs, samples)
    cost = seconds(config, jobs) * DECODE_SHARE
    return run.chunks(decode_jobs, DecodeConfig(crf=config.crf, trim=config.trim), items, [cost] * len(items))


def seconds(config: GenerateConfig, jobs: ManifestRef) -> float:
    """Roughly what sampling one clip takes on one core."""
    row = next((r for r in read_rows(jobs, ("frames", "width", "height", "steps")) if r["frames"]), None)
    return SECONDS_PER_CELL * row["frames"] * row["width"] * row["height"] / 16 * row["steps"] if row else 0.0


def summary(outputs: ManifestRef, page: Path) -> GenerateOutcome:
    """The outcome that the table tells."""
    states = Counter(row["status"] for row in read_rows(outputs, ("status",)))
    return GenerateOutcome(
        failed=states["failed"], clips=states["ok"], duplicates=states["duplicate"], outputs=outputs.path, page=page
    )


def plan(config: GenerateConfig) -> GeneratePlan:
    """Check every job and say what a run would make; nothing is sampled, and nothing is written to `out`."""
    with TemporaryDirectory() as folder:
        jobs = read_jobs.fn(Path(folder), config.per_job, config.jobs)
        batches = batches_of(jobs, SampleConfig(batch=config.batch))
        rows = read_rows(jobs)
    ready = [row for row in rows if row["status"] == "ready"]
    return GeneratePlan(
        failed=sum(row["status"] == "failed" for row in rows),
        ready=len(ready),
        batches=len(batches),
        each=_each(ready),
        not_made=tuple(f"job {r['job']}: {r['error_message']}" for r in rows if r["status"] != "ready"),
    )


def _each(ready: list[dict[str, Any]]) -> str:
    if not ready:
        return ""
    first, steps = ready[0], sorted({row["steps"] for row in ready})
    asked = f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"
    return f"each: {first['frames']} frames of {first['width']}x{first['height']}, {asked}, by {first['model']}"
