"""Takes of one picture share its embedding."""

import pytest
import torch
from torch import Tensor

from models.svd.model import embed_pictures, load_model


def test_equal_pictures_of_a_batch_are_embedded_once_and_each_gets_its_own(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    model = load_model("tiny")
    one, other = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    apart = torch.cat([embed_pictures(model, picture[None]) for picture in (one, other, one, one)])
    seen: list[int] = []
    encode = type(model.image_encoder).forward

    def counting(encoder, pixels: Tensor):
        seen.append(len(pixels))
        return encode(encoder, pixels)

    monkeypatch.setattr(type(model.image_encoder), "forward", counting)
    together = embed_pictures(model, torch.stack([one, other, one, one]))
    assert seen == [2]
    assert torch.allclose(together, apart, atol=1e-5)
