"""Of shots that look alike, which is kept: the cleanest, without text over it, with the most true detail, the least
blocky. tasks/pages/rules.js decides alike."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.clip_columns import Values, encode_values, is_measured, measure_seconds, read_floats, read_integers

Mask = NDArray[np.bool_]

TEXT_GRACE, DETAIL_GRACE, BLOCK_GRACE = 0.005, 0.03, 0.05
"""Shots that look alike are equally clean to this share of the picture in text, to this share of their true detail, and
to this much blockiness."""

CLEANNESS = {
    "text": ("text_area", 0.0),
    "detail": ("fineness", 0.5),
    "blocks": ("blockiness", 1.0),
    "sharp": ("sharpness", 0.0),
}
"""The columns that shots which look alike are compared by, and the value of what was not measured."""


def find_repeats(clips: pa.Table, eligible: Mask) -> Mask:
    """Return which clips repeat another: in each `dedup_group`, all but those of the cleanest shot.

    Of a group's shots those with the least text are left, to TEXT_GRACE of the picture; of these those with the most
    true detail, to DETAIL_GRACE; of these the least blocky ones, to BLOCK_GRACE. Then the one with the most pixels is
    kept; then the sharpest; then the one with the most eligible seconds; then the first. Only `eligible` clips, those
    that no other rule drops, are worth keeping: a group without any has no repetitions.
    """
    group, shot = encode_values(clips, "dedup_group"), encode_values(clips, "video_id", "shot_start_pts")
    rows = np.flatnonzero((group >= 0) & eligible)
    shots, member = np.unique(shot[rows], return_inverse=True)
    # A shot is of one group but for pieces that look like different others; each pair is judged for itself.
    pairs, lead, member = np.unique(group[rows] * (len(shots) + 1) + member, return_index=True, return_inverse=True)
    count = np.bincount(member, minlength=len(pairs))
    seconds = measure_seconds(clips)[rows]

    def average(values: Values) -> Values:
        return np.bincount(member, weights=values[rows], minlength=len(pairs)) / count

    length = np.bincount(member, weights=seconds, minlength=len(pairs))
    pixels = (read_integers(clips, "width") * read_integers(clips, "height"))[rows[lead]]
    groups = group[rows[lead]]
    worst = find_dirtier(groups, *(average(read_cleanness(clips, name)) for name in ("text", "detail", "blocks")))
    sharpness = average(read_cleanness(clips, "sharp"))
    ranked = np.lexsort((lead, -length, -sharpness, -pixels, worst, groups))
    names, best = np.unique(groups[ranked], return_index=True)
    wanted = np.full(int(group.max(initial=-1)) + 2, -1)
    wanted[names] = shot[rows[lead[ranked[best]]]]
    return (wanted[group] >= 0) & (wanted[group] != shot)


def find_dirtier(groups: NDArray[np.int64], text: Values, detail: Values, blocks: Values) -> Mask:
    """Return which shots are not among the cleanest of their groups; see `find_repeats`."""
    left = np.ones(len(groups), bool)
    for values, share, grace in ((text, 1.0, TEXT_GRACE), (-detail, 1 - DETAIL_GRACE, 0.0), (blocks, 1.0, BLOCK_GRACE)):
        least = np.full(int(groups.max(initial=-1)) + 1, np.inf)
        np.minimum.at(least, groups[left], values[left])
        left &= values <= least[groups] * share + grace
    return ~left


def read_cleanness(clips: pa.Table, name: str) -> NDArray[np.float64]:
    """Return what clips that look alike are compared by, float64: `text`, the share of the picture that is text;
    `detail`, fineness times the square root of the short side, by which a picture has more than an enlarged copy and
    than a reduced one; `blocks` and `sharp`, blockiness and sharpness. What was not measured counts as usual."""
    column, usual = CLEANNESS[name]
    measured = is_measured(clips, column)
    values = read_floats(clips, column).astype(np.float64) if measured else np.full(len(clips), np.nan)
    values = np.where(np.isfinite(values), values, usual)
    if name != "detail":
        return values
    return values * np.sqrt(np.minimum(read_integers(clips, "width"), read_integers(clips, "height")))
