"""The image encoder's loss against known answers, and a short training that tells two kinds of picture apart."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.svd.image_encoder import (
    TEMPERATURE,
    contrastive_loss,
    new_feature_extractor,
    new_image_encoder,
    train_image_encoder,
)


def test_pairs_that_match_and_differ_from_all_others_cost_next_to_nothing():
    loss, matched = contrastive_loss(torch.eye(5), 3 * torch.eye(5))
    assert loss.item() == pytest.approx(math.log(1 + 4 * math.exp(-1 / TEMPERATURE)), rel=1e-3)
    assert matched == 1.0


def test_embeddings_that_are_all_alike_cost_the_log_of_their_number():
    loss, _ = contrastive_loss(torch.ones(7, 3), torch.ones(7, 3))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-5)


def test_mixed_up_pairs_are_counted_and_cost_much():
    loss, matched = contrastive_loss(torch.eye(4), torch.eye(4)[[1, 0, 2, 3]])
    assert matched == 0.5
    assert loss.item() == pytest.approx(5, abs=0.01), "half the pairs are off by one over the temperature"


def test_the_loss_is_the_same_from_either_side():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 8, generator=generator) for _ in range(2))
    assert contrastive_loss(first, second)[0].item() == pytest.approx(contrastive_loss(second, first)[0].item())


def test_an_embedding_has_the_asked_width():
    encoder = new_image_encoder(32, 48)
    assert encoder(torch.zeros(2, 3, 224, 224)).image_embeds.shape == (2, 48)


def test_pictures_are_prepared_as_clip_prepares_them():
    extractor = new_feature_extractor()
    assert list(extractor.image_mean) == pytest.approx([0.481, 0.458, 0.408], abs=1e-3)
    assert list(extractor.image_std) == pytest.approx([0.269, 0.261, 0.276], abs=1e-3)


def pairs_of_colours() -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs of noisy pictures of eight colours."""
    generator = torch.Generator().manual_seed(0)
    corners = [(i >> 2 & 1, i >> 1 & 1, i & 1) for i in range(8)]
    colours = torch.tensor(corners, dtype=torch.float32)[:, :, None, None] * 2 - 1
    while True:
        first, second = (colours + 0.3 * torch.randn(8, 3, 224, 224, generator=generator) for _ in range(2))
        yield first, second


@pytest.mark.training
def test_it_learns_which_pictures_belong_together():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = new_image_encoder(32, 32)
    told: list[dict[str, float]] = []
    trained = train_image_encoder(encoder, pairs_of_colours(), 30, progress=lambda _, facts: told.append(facts))
    assert len(told) == 30
    assert told[-1]["loss"] < 0.5 * told[0]["loss"]
    assert told[-1]["matched"] == 1.0
    assert not trained.training
