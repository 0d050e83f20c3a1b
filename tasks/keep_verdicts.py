"""What became of the clips: the rules' verdicts as columns of clips.parquet and back, and how many clips each rule
drops.

A verdict is a few bits for each clip (see Verdict), and there are far fewer different verdicts than clips: everything
here is done once for each different verdict.
"""

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.keep_rules import REASONS, Bits, Values, Verdict

SCHEMA = pa.schema([("keep", pa.bool_()), ("drop_reason", pa.string()), ("drop_reasons", pa.list_(pa.string()))])
"""The verdict on a clip, as columns."""


def make_verdict_columns(bits: Bits) -> pa.Table:
    """Return the verdicts as the columns of SCHEMA."""
    present = np.flatnonzero(np.bincount(bits, minlength=1))
    place = np.zeros(int(present[-1]) + 1 if len(present) else 1, np.int32)
    place[present] = np.arange(len(present))
    reasons = [[reason for i, reason in enumerate(REASONS) if code >> i & 1] for code in present.tolist()]
    index = pa.array(place[bits])
    first = pa.DictionaryArray.from_arrays(
        index, pa.array([each[0] if each else None for each in reasons], pa.string())
    )
    ends = np.cumsum([0, *map(len, reasons)], dtype=np.int32)
    every = pa.ListArray.from_arrays(
        pa.array(ends), pa.array([reason for each in reasons for reason in each], pa.string())
    )
    return pa.table([pa.array(bits == 0), first.dictionary_decode(), every.take(index)], SCHEMA)


def read_bits(drop_reasons: pa.ChunkedArray) -> Bits:
    """Return the verdicts from the column `drop_reasons`."""
    every = drop_reasons.combine_chunks()
    flat = every.flatten().dictionary_encode()
    known = np.array([1 << REASONS.index(reason) for reason in flat.dictionary.to_pylist()], np.int64)
    bits = np.zeros(len(every), np.int64)
    owner = np.repeat(np.arange(len(every)), np.diff(every.offsets.to_numpy()))
    np.add.at(bits, owner, known[flat.indices.to_numpy()] if len(flat) else known)
    return bits.astype(np.uint16)


class ReasonCount(BaseModel):
    """How many clips fail one rule: in all (those that it alone would drop), as their first reason, and as their only
    one."""

    model_config = ConfigDict(frozen=True)

    reason: str
    failing: int
    first: int
    only: int
    limit: float | None = None


class Funnel(BaseModel):
    """What became of all clips; `reasons` in the order of the rules, including those that dropped nothing.

    `together[i][j]` counts the clips that fail both rule i and rule j. No count but `first` depends on the order of the
    rules. `skipped` says which settings were ignored.
    """

    model_config = ConfigDict(frozen=True)

    clips: int
    kept: int
    seconds: float
    kept_seconds: float
    reasons: tuple[ReasonCount, ...]
    together: tuple[tuple[int, ...], ...] = ()
    skipped: tuple[str, ...] = ()


def count_funnel(verdict: Verdict, seconds: Values) -> Funnel:
    """Return the funnel of a verdict on clips of these lengths."""
    bits = verdict.bits
    counts = np.bincount(bits, minlength=1 << len(REASONS))
    fails = (np.arange(len(counts))[:, None] >> np.arange(len(REASONS)) & 1).astype(bool)
    first = np.bincount(fails[1:].argmax(axis=1), weights=counts[1:], minlength=len(REASONS)).astype(int)
    together = fails.T.astype(np.int64) @ (fails * counts[:, None])
    reasons = tuple(
        ReasonCount(
            reason=reason,
            failing=int(together[i, i]),
            first=int(first[i]),
            only=int(counts[1 << i]),
            limit=verdict.limits.get(reason),
        )
        for i, reason in enumerate(REASONS)
    )
    return Funnel(
        clips=len(bits),
        kept=int(counts[0]),
        seconds=float(seconds.sum()),
        kept_seconds=float(seconds[bits == 0].sum()),
        reasons=reasons,
        together=tuple(map(tuple, together.tolist())),
        skipped=verdict.skipped,
    )
