"""The columns of clips.parquet as arrays, in the forms in which rules and pages compare them."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Values = NDArray[np.floating]


def measure_seconds(clips: pa.Table) -> NDArray[np.float64]:
    """Return the length of each clip."""
    return clips["end_s"].to_numpy() - clips["start_s"].to_numpy()


def read_floats(clips: pa.Table, column: str) -> Values:
    """Return a column of numbers in its own precision, NaN for null; float32 when all are null."""
    values = clips[column].to_numpy()
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float32)


def encode_values(clips: pa.Table, *names: str) -> NDArray[np.int64]:
    """Return a number for each combination of the columns' values, the same for the same values; -1 for null."""
    found = np.zeros(len(clips), np.int64)
    for name in names:
        column = clips[name].combine_chunks()
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        found = np.where((index < 0) | (found < 0), -1, found * len(column.dictionary) + index)
    return found


def is_measured(clips: pa.Table, column: str) -> bool:
    """Return whether any clip has a value in the column."""
    return column in clips.column_names and clips[column].null_count < len(clips)


def read_integers(clips: pa.Table, column: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, 0 for null."""
    return clips[column].fill_null(0).to_numpy().astype(np.int64)
