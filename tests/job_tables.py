"""Tables of jobs as tests write them, and the rows they are resolved to."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.manifest import read_rows


def jobs_of(root: Path, jobs: Path, model: str, **settings: Any) -> list[dict[str, Any]]:
    """The rows of the jobs' manifest."""
    return read_rows(read_jobs.fn(root, JobsConfig(model=model, **settings), jobs))


def table(folder: Path, *rows: dict[str, Any], name: str = "jobs.parquet") -> Path:
    """A Parquet table of rows that may each have other columns."""
    pq.write_table(
        pa.Table.from_pylist([dict.fromkeys(k for r in rows for k in r) | row for row in rows]), folder / name
    )
    return folder / name
