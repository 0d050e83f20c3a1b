"""A small share of benchmarks/fuzz.py: mutated files become rows, whatever they hold."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import LIMIT_S, MUTATIONS, run, table


@pytest.mark.slow
def test_every_mutated_file_is_a_row_and_none_ends_or_holds_up_the_run(tmp_path: Path):
    result = run(tmp_path, 60, seed=7)
    assert result.rows == result.files == result.outcomes.total() == 60
    kinds = {kind for _, kind in result.outcomes}
    assert "read" in kinds
    assert any(kind.startswith(("ingest: ", "scan: ")) for kind in kinds)
    assert result.slowest_s < LIMIT_S + 10
    assert "60 rows for 60 files" in table(result, 7)


def test_mutations_change_the_file_and_the_same_seed_the_same_way():
    content = bytes(range(256)) * 40
    for mutation in MUTATIONS:
        made = [
            [bytes(mutation(bytearray(content), np.random.default_rng([s, 1]))) for s in range(8)] for _ in range(2)
        ]
        assert made[0] == made[1], mutation
        assert any(one != content for one in made[0]), mutation
