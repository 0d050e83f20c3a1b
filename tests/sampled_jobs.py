"""Jobs that are read and sampled, and what came of them, by item."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.manifest import ManifestRef, read_rows

NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


def read(root: Path, jobs: Path, model: str, **settings: Any) -> ManifestRef:
    return read_jobs.fn(root, JobsConfig(model=model, steps=2, **settings), jobs)


def run(root: Path, jobs: ManifestRef, batch: int) -> list[ManifestRef]:
    config = SampleConfig(batch=batch)
    return sample_jobs.fn(root, config, plan_all_batches(jobs, config))


def rows_of(manifests: Sequence[ManifestRef]) -> dict[str, dict[str, Any]]:
    return {row["item_key"]: row for manifest in manifests for row in read_rows(manifest)}


def latents_of(root: Path, manifests: Sequence[ManifestRef]) -> dict[str, Tensor]:
    return {key: load_file(root / row["latents"])["latents"] for key, row in rows_of(manifests).items()}
