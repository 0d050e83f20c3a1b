"""Captions: drawn in the paper's shares, and never of a captioner that said nothing."""

from collections import Counter

import pytest
import torch

from tasks.finetune.captions import Captions, draw_caption


@pytest.mark.parametrize(
    ("captions", "shares"),
    [
        (("image", "video", "summary"), {"image": 0.5, "video": 0.25, "summary": 0.25}),
        ((None, None, "summary"), {"summary": 1.0}),
        (("image", None, "summary"), {"image": 2 / 3, "summary": 1 / 3}),
        ((None, None, None), {"": 1.0}),
    ],
)
def test_captions_are_drawn_by_the_shares_of_those_that_there_are(captions: Captions, shares: dict[str, float]):
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw_caption(captions, generator) for _ in range(4000))
    assert {name: pytest.approx(share, abs=0.03) for name, share in shares.items()} == {
        name: count / 4000 for name, count in drawn.items()
    }
