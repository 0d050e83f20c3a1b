"""Verdicts on a table in memory, where `select` appends them to a file."""

import pyarrow as pa

from tasks.keep_rules import SelectConfig, judge_clips
from tasks.keep_verdicts import SCHEMA, make_verdict_columns


def decide(clips: pa.Table, config: SelectConfig) -> pa.Table:
    """Return the clips with the columns of SCHEMA; whatever verdict they had is replaced."""
    clips = clips.drop_columns([name for name in SCHEMA.names if name in clips.column_names])
    for column, values in zip(SCHEMA, make_verdict_columns(judge_clips(clips, config).bits).columns, strict=True):
        clips = clips.append_column(column, values)
    return clips
