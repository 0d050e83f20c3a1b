"""Camera motions composed of others, one per region of the picture: zooms and rolls from the words for pans and tilts.

Where a camera zooms in, the left of the picture slides to the left, the right to the right, the top up and the bottom
down. So each of these regions gets the word for the sliding that is seen there, and at every step the denoised latents
are blended from the regions, as MultiDiffusion does with prompts (Bar-Tal et al., arXiv 2302.08113). A model that
learned pans and tilts by name zooms and rolls this way without further training, for one pass of the UNet per region.

A motion composed of regions has a word of its own, "regions:zoom_in": a job asks for it, and its row keeps it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from models.errors import BadInput
from models.svd.model import make_context

PREFIX = "regions:"

PARTS = ("pan_left", "pan_right", "tilt_down", "tilt_up")
"""The words that regions are told, in the order of their shares: the picture slides right, left, up and down."""

SLIDING: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "zoom_in": lambda right, down: (right, down),
    "zoom_out": lambda right, down: (-right, -down),
    "roll": lambda right, down: (-down, right),
}
"""Which way, to the right and down, the picture slides at a place so far to the right of and below its middle."""


def choose_word(motion: str | None, by_regions: Collection[str]) -> str | None:
    """Return the word that asks a model for a motion: one by regions, where the model makes the motions `by_regions`
    so."""
    return f"{PREFIX}{motion}" if motion in by_regions else motion


def list_words(word: str | None) -> tuple[str, ...]:
    """Return the words that a model must know for `word`, one for each pass of the UNet; none for None.

    Raises BadInput for a motion that no regions make.
    """
    if word is None:
        return ()
    if not word.startswith(PREFIX):
        return (word,)
    if word.removeprefix(PREFIX) not in SLIDING:
        raise BadInput(f"{word}: regions make the camera motions {', '.join(SLIDING)} and no others.")
    return PARTS


def compute_shares(motion: str, height: int, width: int) -> Tensor:
    """Return how much each of PARTS counts at each latent cell, [4, height, width]: 1 in its region, halves on its
    border."""
    side = min(height, width)
    down = ((torch.arange(height) - (height - 1) / 2) / side)[:, None].expand(height, width)
    right = ((torch.arange(width) - (width - 1) / 2) / side)[None].expand(height, width)
    to_right, to_below = SLIDING[motion](right, down)
    speeds = torch.stack([to_right, -to_right, -to_below, to_below])
    fastest = (speeds == speeds.amax(0)).float()
    return fastest / fastest.sum(0)


def make_region_contexts(
    embeddings: Tensor, words: Mapping[str, Tensor], asked: Sequence[str | None], size: tuple[int, int]
) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
    """Return the context of clips, and the regions where they differ: each one's context and its shares [batch, 1, 1,
    h, w].

    embeddings: [batch, width]; asked: a word for each clip, or None; size: (h, w) of the latents. The context is that
    of the whole clip, or of its first region. Raises BadInput for an unknown word, or where only some clips of a batch
    have regions.
    """
    parts = [list_words(word) for word in asked]
    if not any(len(each) > 1 for each in parts):
        return make_context(embeddings, words, asked), ()
    if not all(len(each) > 1 for each in parts):
        raise BadInput("Clips with and without regions of motion cannot share a batch.")
    own = torch.stack([compute_shares(str(word).removeprefix(PREFIX), *size) for word in asked]).to(embeddings)
    contexts = [make_context(embeddings, words, [part] * len(asked)) for part in PARTS]
    return contexts[0], tuple((context, own[:, i, None, None]) for i, context in enumerate(contexts))
