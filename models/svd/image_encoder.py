"""A small CLIP image encoder trained from scratch: frames of one shot are alike, frames of different shots are not.

The loss is CLIP's symmetric cross-entropy (InfoNCE) between two frames of each shot, at a fixed temperature.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.svd.autoencoder import Progress

TEMPERATURE = 0.1


def new_image_encoder(width: int = 64, projection: int = 64) -> CLIPVisionModelWithProjection:
    """Return an untrained encoder of 224-pixel pictures in patches of 32, whose embedding has `projection` numbers."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projection,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=32,
        )
    )


def new_feature_extractor() -> CLIPImageProcessor:
    """Return the preprocessing that diffusers' pipeline expects beside the encoder: CLIP's own."""
    return CLIPImageProcessor()


def train_image_encoder(
    encoder: CLIPVisionModelWithProjection,
    pairs: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    learning_rate: float = 1e-3,
    progress: Progress | None = None,
) -> CLIPVisionModelWithProjection:
    """Fit `encoder` to pairs of normalised pictures [batch, 3, 224, 224], one pair a shot."""
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=1e-2)
    encoder.train()
    for step in range(steps):
        loss, hits = contrastive_loss(*(encoder(pictures).image_embeds for pictures in next(pairs)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if progress:
            progress(step, {"loss": loss.item(), "matched": hits})
    return encoder.eval()


def contrastive_loss(first: Tensor, second: Tensor) -> tuple[Tensor, float]:
    """Return the InfoNCE of embeddings [batch, width] whose rows belong together, and the share that is matched
    right."""
    alike = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / TEMPERATURE
    target = torch.arange(len(alike))
    loss = (F.cross_entropy(alike, target) + F.cross_entropy(alike.T, target)) / 2
    return loss, (alike.argmax(1) == target).float().mean().item()
