"""Generate videos from pictures: read the jobs, sample latents, decode and measure them, and collect one table."""

import logging
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow
from pydantic import Field

from flows.config import FlowConfig, Outcome
from flows.running import Run, running
from tasks.asking import JobsConfig
from tasks.generate.decode import DecodeConfig, decode_jobs, sampled
from tasks.generate.gallery import write_gallery
from tasks.generate.jobs import read_jobs
from tasks.generate.outputs import collect_outputs
from tasks.generate.sample import SampleConfig, batches_of, sample_jobs
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
        samples = sample(run, config, jobs)
        clips = decode(run, config, jobs, samples)
        outputs = collect_outputs(config.out, jobs, samples, clips)
        page = write_gallery(config.out, outputs)
        return summary(outputs, page)


def sample(run: Run, config: GenerateConfig, jobs: ManifestRef) -> list[ManifestRef]:
    """The latents of every job, in chunks of whole batches."""
    settings = SampleConfig(batch=config.batch)
    batches = batches_of(jobs, settings)
    return run.chunks(sample_jobs, settings, batches, [seconds(config, jobs) * len(keys) for _, keys in batches])


def decode(run: Run, config: GenerateConfig, jobs: ManifestRef, samples: list[ManifestRef]) -> list[ManifestRef]:
    """The videos of everything sampled."""
    items = sampled(jobs, samples)
    cost = seconds(config, jobs) * DECODE_SHARE
    return run.chunks(decode_jobs, DecodeConfig(crf=config.crf), items, [cost] * len(items))


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
