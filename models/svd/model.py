"""A Stable-Video-Diffusion-shaped model: its parts, its folder on disk, and how a picture and a motion condition it.

The folder is the one that diffusers' StableVideoDiffusionPipeline reads, with two more files: `reelmill.json` (the
model's native numbers and where it came from) and `motion_words.safetensors` (one learned context token for each camera
motion that the model knows by name). Without a word the model is asked exactly as Stable Video Diffusion is.
"""

import copy
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    ConfigMixin,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from models.device import CPU
from models.errors import BadInput, BadModel, is_out_of_memory
from models.svd.edm import broadcast, c_in, c_noise, c_out, c_skip
from models.svd.one_token_attention import attend_to_one_token
from models.svd.scheduler import check_scheduler
from models.weights.names import WORDS_FILE, find_model_folder, find_revision
from models.weights.network import extract_first_sentence, load_part
from models.weights.pipeline_folder import read_json_object

FACTS_FILE, FIGURES_FILE = "reelmill.json", "eval.json"

PARTS = ("unet", "vae", "image_encoder")

BUCKETS_PER_SPEED = 170.0
"""Motion buckets for one short side per second of mean optical flow: SVD's usual bucket, 127, is 0.75 sides/s."""


_ENCODERS: dict[str, str] = {}
"""Digests of encoders, by the revisions of their models."""


class ModelFacts(BaseModel):
    """A model's native numbers: what it was trained at, and what generation uses unless a setting says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=25, description="Frames of a clip")
    width: int = Field(default=1024, description="Width of a clip in pixels")
    height: int = Field(default=576, description="Height of a clip in pixels")
    fps: float = Field(default=7.0, description="Frames per second")
    motion_bucket: int = Field(default=127, description="Amount of motion, 0 to 255")
    noise_aug: float = Field(default=0.02, description="Deviation of the noise added to the picture")
    guidance: tuple[float, float] = Field(default=(1.0, 3.0), description="Guidance at the first and at the last frame")
    by_regions: tuple[str, ...] = Field(
        default=(), description="Camera motions made from the words for pans and tilts (models/svd/regions.py)"
    )
    lineage: dict[str, Any] = Field(default_factory=dict, description="The run and the data that made the model")


@dataclass(frozen=True)
class VideoModel:
    """The parts of a loaded model. `revision` is the digest of its weights; `words` are [context width] tokens.

    `device` is where its parts work: models/memory/placement.py moves them there.
    """

    unet: UNetSpatioTemporalConditionModel
    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: CLIPImageProcessor
    scheduler: EulerDiscreteScheduler
    words: dict[str, Tensor]
    facts: ModelFacts
    revision: str
    device: torch.device = CPU

    @property
    def latent_scale(self) -> int:
        """Return the pixels per latent cell, along one side."""
        return 2 ** (len(read_setting(self.vae, "block_out_channels")) - 1)

    @property
    def size_unit(self) -> int:
        """Return the number of pixels that a picture's sides must be multiples of: the UNet halves the latents between
        its levels."""
        return self.latent_scale * 2 ** (len(read_setting(self.unet, "block_out_channels")) - 1)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return [frames, channels, h, w] of the latents of a clip of that size."""
        scale = self.latent_scale
        return frames, read_setting(self.vae, "latent_channels"), height // scale, width // scale


@dataclass(frozen=True)
class Conditions:
    """What the denoiser sees beside the noisy latents.

    context: [batch, 1 or 2, width], the picture's embedding and perhaps a motion word. picture: [batch, channels, h,
    w], the picture's latent, unscaled. ids: [batch, 3], frames per second less one, motion bucket, augmentation noise.
    regions: contexts that apply instead in parts of the picture, each with its shares [batch, 1, 1, h, w].
    """

    context: Tensor
    picture: Tensor
    ids: Tensor
    regions: tuple[tuple[Tensor, Tensor], ...] = ()

    def dropped(self) -> "Conditions":
        """Return the unconditional branch of guidance: no picture, neither as embedding nor as latent, and no motion
        word."""
        return Conditions(torch.zeros_like(self.context[:, :1]), torch.zeros_like(self.picture), self.ids)

    def with_dropped(self) -> "Conditions":
        """Return both branches as one batch, the unconditional one last: attending to several zeros is attending to
        one."""
        return Conditions(
            context=torch.cat([self.context, torch.zeros_like(self.context)]),
            picture=torch.cat([self.picture, torch.zeros_like(self.picture)]),
            ids=torch.cat([self.ids, self.ids]),
            regions=tuple((torch.cat([c, torch.zeros_like(c)]), torch.cat([own, own])) for c, own in self.regions),
        )


def load_model(name: str, dtype: torch.dtype = torch.float32) -> VideoModel:
    """Load the model of a name (models/weights/names.py), on the CPU, from safetensors only.

    `dtype` is the precision of the UNet and the image encoder; the autoencoder is always in float32 (models/device.py).

    Raises BadInput when there is no such model and BadModel when a part is missing or does not fit.
    """
    folder = find_model_folder(name)
    check_scheduler(folder)
    try:
        unet = load_part(UNetSpatioTemporalConditionModel, folder / "unet", dtype)
        attend_to_one_token(unet)
        return VideoModel(
            unet=unet,
            vae=load_part(AutoencoderKLTemporalDecoder, folder / "vae"),
            image_encoder=load_part(CLIPVisionModelWithProjection, folder / "image_encoder", dtype),
            feature_extractor=CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True),
            scheduler=cast(
                EulerDiscreteScheduler,
                EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            ),
            words=load_words(folder),
            facts=load_facts(folder),
            revision=find_revision(name),
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise BadModel(f"{name}: the model cannot be loaded ({extract_first_sentence(error)}).") from error


def save_model(model: VideoModel, folder: Path, half: bool = False) -> None:
    """Write the model as a diffusers pipeline folder; `half` stores float16, which loads back as float32."""
    dtype = torch.float16 if half else torch.float32
    networks: dict[str, Any] = {name: _convert(getattr(model, name), dtype) for name in PARTS}
    pipeline = StableVideoDiffusionPipeline(
        **networks, scheduler=model.scheduler, feature_extractor=model.feature_extractor
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name in PARTS:
        _forget_origin(folder / name / "config.json")
    words = {name: word.detach().to(dtype).contiguous() for name, word in model.words.items()}
    if words:
        save_file(words, folder / WORDS_FILE)
    text = json.dumps(model.facts.model_dump(mode="json"), indent=2) + "\n"
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")


def load_facts(folder: Path) -> ModelFacts:
    """Read a model's native numbers from reelmill.json; without that file they are Stable Video Diffusion's."""
    path = folder / FACTS_FILE
    if not path.is_file():
        unet = read_json_object(folder / "unet" / "config.json")
        return ModelFacts(frames=unet.get("num_frames", 25))
    try:
        return ModelFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise BadModel(f"{path}: {error.errors()[0]['msg']}.") from error


def load_words(folder: Path) -> dict[str, Tensor]:
    """Read the motion words of a model folder, by camera motion; none where the model has none."""
    path = folder / WORDS_FILE
    if not path.is_file():
        return {}
    try:
        return {name: word.float() for name, word in load_file(path).items()}
    except SafetensorError as error:
        raise BadModel(f"{path}: the motion words cannot be read ({error}). Copy the model's folder again.") from error


def digest_encoders(model: VideoModel) -> str:
    """Return the SHA-256 of the weights of the autoencoder and the image encoder: what latents and embeddings depend
    on. It is computed once for a model's revision."""
    if not model.revision:
        return _digest_encoders(model)
    if model.revision not in _ENCODERS:
        _ENCODERS[model.revision] = _digest_encoders(model)
    return _ENCODERS[model.revision]


def _digest_encoders(model: VideoModel) -> str:
    digest = hashlib.sha256()
    for part in (model.vae, model.image_encoder):
        for name, weight in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def motion_bucket(motion_score: float) -> int:
    """Return the motion bucket, 0 to 255, of a clip whose mean optical flow is `motion_score` short sides per
    second."""
    return max(0, min(255, round(BUCKETS_PER_SPEED * motion_score)))


@torch.no_grad()
def embed_pictures(model: VideoModel, pictures: Tensor) -> Tensor:
    """Embed pictures [batch, 3, H, W] in -1..1, which are on the CPU and shrunk there; return [batch, width] in float32
    on the model's device. Equal pictures are embedded once."""
    pictures, places = _find_distinct(pictures)
    side: int = model.image_encoder.config.image_size  # pyright: ignore[reportAssignmentType]
    # Antialiased, so that a large picture and its small copy look alike to the encoder.
    small = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in _read_normalisation(model.feature_extractor))
    seen = (((small.clamp(-1, 1) + 1) / 2 - mean) / deviation).to(model.device, model.image_encoder.dtype)
    return model.image_encoder(seen).image_embeds[places].float()


def make_context(embeddings: Tensor, words: Mapping[str, Tensor], motions: Sequence[str | None]) -> Tensor:
    """Return the context [batch, 1 or 2, width]: a second token where motions are asked for; all items ask for one, or
    none does.

    Raises BadInput for a motion that the model has no word for.
    """
    unknown = sorted({m for m in motions if m is not None and m not in words})
    if unknown:
        known = ", ".join(sorted(words)) or "none"
        raise BadInput(f"The model has no word for the camera motion {', '.join(unknown)}; it knows: {known}.")
    tokens = [words[m] for m in motions if m is not None]
    if not tokens:
        return embeddings[:, None]
    if len(tokens) != len(embeddings):
        raise BadInput("Clips with and without an asked camera motion cannot share a batch.")
    return torch.stack([embeddings, torch.stack(tokens).to(embeddings)], dim=1)


def denoise(unet: UNetSpatioTemporalConditionModel, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    """Return the denoised latents D [batch, frames, channels, h, w] of `noisy` at noise levels sigma [batch].

    Where there are regions, they are blended from the results of each.
    """
    if conditions.regions:
        parts = (
            share * denoise(unet, noisy, sigma, replace(conditions, context=context, regions=()))
            for context, share in conditions.regions
        )
        return functools.reduce(torch.add, parts)
    frames = noisy.shape[1]
    level = broadcast(sigma, noisy)
    picture = conditions.picture[:, None].expand(-1, frames, -1, -1, -1)
    seen = torch.cat([c_in(level) * noisy, picture], dim=2)
    # What the network works in; the latents stay in float32. Its own property walks through all of the network.
    half = next(unet.parameters()).dtype
    predicted = unet(seen.to(half), c_noise(sigma), conditions.context.to(half), conditions.ids, return_dict=False)[0]
    return c_skip(level) * noisy + c_out(level) * predicted.float()


def read_setting(part: ConfigMixin, name: str) -> Any:
    """Return a value of the configuration that a part of a model was built with."""
    return getattr(part.config, name)


def _convert(part: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy the part to another precision: a copy, so that saving never rounds the model in memory."""
    return part if next(part.parameters()).dtype == dtype else nn.Module.to(copy.deepcopy(part), dtype)


def _forget_origin(config: Path) -> None:
    """Remove the folder that a part was loaded from from its configuration: the model's digest must not depend on a
    path."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _find_distinct(pictures: Tensor) -> tuple[Tensor, list[int]]:
    """Return the distinct pictures of a batch in order of appearance, and where each picture of the batch is among
    them."""
    firsts: list[int] = []
    places = []
    for picture in pictures:
        place = next((i for i, first in enumerate(firsts) if torch.equal(pictures[first], picture)), len(firsts))
        if place == len(firsts):
            firsts.append(len(places))
        places.append(place)
    return pictures[firsts], places


def _read_normalisation(extractor: CLIPImageProcessor) -> tuple[list[float], list[float]]:
    return list(extractor.image_mean), list(extractor.image_std)
