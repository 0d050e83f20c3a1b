"""Which caption of a clip a step trains with: one of three, drawn anew each time (SVD, appendix C.1)."""

from collections.abc import Sequence

import torch

CAPTION_COLUMNS = ("caption_image", "caption_video", "caption")
"""What the image captioner said, what the video captioner said, and the summary that a language model made of both."""

SHARES = (0.5, 0.25, 0.25)

Captions = tuple[str | None, str | None, str | None]


def draw_caption(captions: Captions, generator: torch.Generator) -> str:
    """Return one of a clip's captions: the image captioner's half the time, each other one a quarter of it. The shares
    of missing ones go to the others; without any, the caption is empty."""
    shares = [share if caption else 0.0 for share, caption in zip(SHARES, captions, strict=True)]
    place = torch.rand((), generator=generator).item() * sum(shares)
    return _find_at(place, shares, captions)


def _find_at(place: float, shares: Sequence[float], captions: Captions) -> str:
    for share, caption in zip(shares, captions, strict=True):
        place -= share
        if caption and place < 0:
            return caption
    return ""
