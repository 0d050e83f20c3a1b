"""A model's card: what jobs must know about a model, read from its configuration without loading its weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import BadModel
from models.families.family import Inputs, Rules
from models.families.known import find_family
from models.families.latents import DENOISERS
from models.families.svd import NAME as SVD
from models.svd.model import ModelFacts, load_facts, load_words
from models.weights.files import weight_bytes
from models.weights.names import find_model_folder, find_revision
from models.weights.pipeline_folder import list_parts, read_config, read_index

FULL_WIDTH = 128
"""Channels of a full-size autoencoder at full resolution."""


@dataclass(frozen=True)
class ModelCard:
    """A model's family with its rules, the motions it knows by name and the revision of its content.

    `facts` are numbers that only Stable Video Diffusion has. `decoder_width`: channels of the autoencoder at full
    resolution. `denoiser_bytes` and `weight_bytes`: size on disk of the loaded weights of the networks that run in
    every step, and of all networks.
    """

    family: str
    inputs: Inputs
    rules: Rules
    facts: ModelFacts | None
    words: frozenset[str]
    revision: str
    decoder_width: int
    denoiser_bytes: int
    weight_bytes: int
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def guidance(self) -> tuple[float, float]:
        """Return the native guidance at the first and at the last frame; for most families they are equal."""
        return self.facts.guidance if self.facts else (self.rules.guidance, self.rules.guidance)

    @property
    def motion_bucket(self) -> int | None:
        """Return the native motion bucket; None for a family without one."""
        return self.facts.motion_bucket if self.facts else None

    @property
    def noise_aug(self) -> float | None:
        """Return the native deviation of the noise on the picture; None for a family without it."""
        return self.facts.noise_aug if self.facts else None


def read_card(name: str) -> ModelCard:
    """Read the card of the model of a name (models/weights/names.py); raises BadInput or BadModel."""
    folder = find_model_folder(name)
    family, pipeline = find_family(folder)
    try:
        rules, width = family.read_rules(folder), _read_decoder_width(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadModel(f"{folder}: its configuration is not that of {family.NAME} ({error!r}).") from error
    facts = load_facts(folder) if family.NAME == SVD else None
    return ModelCard(
        family=family.NAME,
        inputs=family.PIPELINES[pipeline],
        rules=rules,
        facts=facts,
        words=frozenset(load_words(folder)),
        revision=find_revision(name),
        decoder_width=width,
        denoiser_bytes=sum(weight_bytes(folder / part) for part in DENOISERS),
        weight_bytes=sum(weight_bytes(folder / part) for part in list_parts(read_index(folder))),
        lineage=facts.lineage if facts else {},
    )


def _read_decoder_width(folder: Path) -> int:
    vae = read_config(folder, "vae")
    widths = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or [vae.get("base_dim", FULL_WIDTH)]
    return int(widths[0])
