"""A sampled clip's frames: decoded from its latents, and kept in a file until they are encoded.

Parked frames are unchanged: uint8 RGB without loss. They are no result: a step that finds them missing decodes them
again, and frames that no step took are removed when a run ends.
"""

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import BadMedia
from models.generation.by_family import decode_job
from models.memory.plan import Plan
from models.pictures import Frames
from tasks.ledger import remove, resolve_inside
from tasks.manifest import publish

FOLDER = "frames"

DECODED_BY = ("family", "key", "seed", "take", "frames", "width", "height", "fps", "prompt", "negative_prompt", "steps",
              "guidance_max", "lora_strength", "dtype")  # fmt: skip
"""Columns of a job that its family's decoder may ask for, beside the model."""

log = logging.getLogger("reelmill")


class Decoded(NamedTuple):
    """A clip's frames, the memory plan that decoded them, and the plans that were too large before."""

    frames: Frames
    plan: Plan
    too_large: list[Plan]


def decode_clip(root: Path, job: Mapping[str, Any], sample: Mapping[str, Any], device: torch.device) -> Decoded:
    """Decode the latents that a row of sampling names, with the model of its job; raises BadMedia and BadModel."""
    latents = load_latents(resolve_inside(root, sample["latents"]), sample["latents_sha256"])
    return Decoded(*decode_job(job, latents, root, device))


def load_latents(path: Path, digest: str) -> Tensor:
    """Load latents [frames, channels, h, w] whose values have that digest; raises BadMedia when the file was changed.

    A damaged file is removed, because a missing one is sampled again; one that the disk cannot read stays.
    """
    try:
        latents = load_file(path)["latents"]
    except (SafetensorError, KeyError, FileNotFoundError) as error:
        raise _remove(path, f"cannot be read ({error})") from error
    except OSError as error:
        raise BadMedia(
            f"{path.name}: these latents cannot be read ({error}). Make the file readable, and run again."
        ) from error
    if latents.dtype != torch.float32 or hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest() != digest:
        raise _remove(path, "are not the ones that were sampled")
    return latents


def _remove(path: Path, fault: str) -> BadMedia:
    remove(path)
    return BadMedia(f"{path.name}: these latents {fault} and were removed; the same command samples them again.")


def locate_parked(root: Path, key: str) -> Path:
    """Return where the frames of the clip with the decoding manifest `key` are parked below `root`."""
    return root / FOLDER / f"{key}.npy"


def park(path: Path, frames: Frames) -> None:
    """Write frames [frames, height, width, 3] to a file that appears whole or not at all."""
    with publish(path) as aside:
        np.save(aside, frames, allow_pickle=False)


def open_parked(path: Path) -> Frames | None:
    """Map the frames parked at `path` without reading them; return None where there are none, or none that can be
    used."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: these frames cannot be read (%s); they are decoded again.", path.name, error)
        return None
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        log.warning("%s: holds %s %s and no frames; they are decoded again.", path.name, frames.dtype, frames.shape)
        return None
    return frames


def sweep_parked(root: Path) -> None:
    """Remove all parked frames below `root`, and no other file."""
    for path in (root / FOLDER).glob("*.npy"):
        remove(path)
    with suppress(OSError):  # It stays where it has files of others, and need not exist.
        (root / FOLDER).rmdir()
