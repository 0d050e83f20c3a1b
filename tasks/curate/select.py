"""Select: decides which clips are kept, and writes clips.parquet.

The rules are in tasks/keep_rules.py. They need only the columns of clips.parquet, so deciding again needs nothing else.
`drop_reasons` has every reason against a dropped clip; `drop_reason` has the first of them, in the order of REASONS.
Only these columns are written: the measured ones are copied as bytes, however many and wide they are.

The Prefect task is made in flows/curate.py. `reelmill select` calls these functions without Prefect, whose import takes
longer than deciding a million clips.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from models.errors import BadInput, BadManifest
from tasks.caching import Step, make_lineage
from tasks.clip_columns import measure_seconds
from tasks.curate.parquet_append import extend_manifest
from tasks.keep_rules import ABSENT, NEEDS, SelectConfig, judge_clips
from tasks.keep_verdicts import SCHEMA, Funnel, count_funnel, make_verdict_columns
from tasks.manifest import UNREADABLE, ManifestRef, check_size, read_lineage

VERSION = 3

STEP = Step("select", VERSION, SCHEMA)


class Selection(BaseModel):
    """clips.parquet as written, and its funnel."""

    model_config = ConfigDict(frozen=True)

    clips: ManifestRef
    funnel: Funnel


def select_clips(root: Path, config: SelectConfig, joined: ManifestRef) -> Selection:
    """Decide on the joined clips, and write clips.parquet below `root`."""
    return _select(root, config, joined.path, joined.digest)


def reselect(root: Path, config: SelectConfig) -> Selection:
    """Decide again on the clips of the dataset at `root`, from its clips.parquet alone. Raises BadInput when there is
    none."""
    return _select(root, config, *find_measures(root))


def find_measures(root: Path) -> tuple[Path, str]:
    """Return a dataset's clips.parquet and the digest of its measures; raises BadInput or BadManifest when there are
    none."""
    path = root / "clips.parquet"
    if not path.is_file():
        raise BadInput(f"{root}: not a dataset, it has no clips.parquet. Make one with `reelmill curate`.")
    inputs = read_lineage(path).inputs
    if len(inputs) != 1:
        raise BadManifest(f"{path}: was not made by select. Make it with `reelmill curate`.")
    return path, inputs[0]


def read_measures(path: Path) -> tuple[pa.Table, pa.Schema]:
    """Read the columns that the rules need from a table of clips; return them, and the schema of all its measured
    columns.

    Raises BadManifest when some are missing. Words that repeat come as dictionaries, which are quicker to compare.
    """
    try:
        with pq.ParquetFile(path, read_dictionary=["video_id", "camera_motion", "dedup_group"]) as file:
            check_size(path, file.metadata)
            names = file.schema_arrow.names
            missing = ", ".join(sorted({*NEEDS} - ABSENT - {*names}))
            if missing:
                raise BadManifest(f"{path}: the columns {missing} are missing. Was it made by an older step?")
            table = file.read(columns=[name for name in NEEDS if name in names])
        with pq.ParquetFile(path) as file:
            return table, pa.schema([column for column in file.schema_arrow if column.name not in SCHEMA.names])
    except UNREADABLE as error:
        raise BadManifest(f"{path}: not a readable manifest ({error}). Delete it and run again.") from error


def _select(root: Path, config: SelectConfig, source: Path, digest: str) -> Selection:
    clips, measured = read_measures(source)
    verdict = judge_clips(clips, config)
    added = make_verdict_columns(verdict.bits)
    written = extend_manifest(
        root / "clips.parquet", source, digest, added, make_lineage(STEP, config, (digest,)), measured
    )
    return Selection(clips=written, funnel=count_funnel(verdict, measure_seconds(clips)))
