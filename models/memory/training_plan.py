"""Plans for training: whether a UNet's layers work in chunks, and what is kept for the backward pass, by free memory.

As in sampling (models/memory/plan.py), a plan changes in what pieces the same numbers are computed, never the numbers:
gradients agree to float tolerance. The ladder gives up first what costs least time: all that the backward pass needs
kept (one forward pass less); the inputs of the parts of blocks kept; those of blocks alone (one more); on a device,
those in host memory; smaller chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers import UNetSpatioTemporalConditionModel

from models.device import CPU, measure_free_memory
from models.memory.plan import MIB, USABLE, LatentShape
from models.svd.chunked_training import Chunks
from models.svd.model import read_setting

LADDER: Mapping[str, Chunks | None] = {
    "whole": None,
    "chunks of 256 MiB": Chunks(256),
    "chunks of 256 MiB, inputs of blocks alone": Chunks(256, blocks=True),
    "chunks of 256 MiB, inputs of blocks alone and in host memory": Chunks(256, blocks=True, parked=True),
    "chunks of 64 MiB, inputs of blocks alone and in host memory": Chunks(64, blocks=True, parked=True),
}
"""The plans by name, from the most memory to the least. What is parked is where it was on the CPU."""

KEPT_WHOLE, KEPT_OF_PARTS, KEPT_OF_BLOCKS, KEPT_OF_PARKED = 75.0, 7.0, 4.0, 0.5
"""Numbers kept for the backward pass, by cell and channel of every block that has the UNet's full number of layers:
residual block and transformer together. A test counts them."""

IN_FLIGHT = 8
"""Full-size tensors of the first level, beside them, in which gradients are on their way, skip connections included."""

WITH_CHUNKS = 2
"""How many times the budget of its chunks a step takes."""

OF_TRAINED = 16
"""Bytes of a number that trains: its gradient, two of the optimiser's and one of the moving average, in float32."""


@dataclass(frozen=True)
class TrainingNeeds:
    """What a step takes beside the weights, which are there. widths and layers: the UNet's, by level and of one level;
    cells: latent cells of all frames of a batch; itemsize: bytes of a number in the UNet; trained: numbers that
    train."""

    widths: tuple[int, ...]
    layers: int
    cells: int
    itemsize: int
    trained: int

    def step(self, chunks: Chunks | None) -> int:
        """Estimate the bytes of one step."""
        at_hand = IN_FLIGHT * self.widths[0] * self.cells * self.itemsize + OF_TRAINED * self.trained
        return at_hand + self.kept(chunks) + int(WITH_CHUNKS * chunks.mib * MIB if chunks else 0)

    def kept(self, chunks: Chunks | None) -> int:
        """Estimate the bytes that the forward pass leaves for the backward pass."""
        blocks = sum((2 * self.layers + 1) * width * self.cells // 4**level for level, width in enumerate(self.widths))
        return int(_count_kept(chunks) * blocks * self.itemsize)


def _count_kept(chunks: Chunks | None) -> float:
    if chunks is None:
        return KEPT_WHOLE
    if chunks.parked:
        return KEPT_OF_PARKED
    return KEPT_OF_BLOCKS if chunks.blocks else KEPT_OF_PARTS


def find_training_needs(unet: UNetSpatioTemporalConditionModel, batch: int, shape: LatentShape) -> TrainingNeeds:
    """Return what a step on `batch` clips of latents `shape` takes in a UNet; its trained weights require gradients
    already."""
    layers = read_setting(unet, "layers_per_block")
    frames, _, height, width = shape
    return TrainingNeeds(
        widths=tuple(read_setting(unet, "block_out_channels")),
        layers=layers if isinstance(layers, int) else max(layers),
        cells=batch * frames * height * width,
        itemsize=next(unet.parameters()).itemsize,
        trained=sum(weight.numel() for weight in unet.parameters() if weight.requires_grad),
    )


def choose_training_plan(needs: TrainingNeeds, free: int, on_gpu: bool = False) -> str:
    """Return the name of the first plan of the ladder whose step fits in `free` bytes; or else of the last one."""
    names = [name for name, chunks in LADDER.items() if on_gpu or not (chunks and chunks.parked)]
    return next((name for name in names if needs.step(LADDER[name]) <= USABLE * free), names[-1])


def plan_training(unet: UNetSpatioTemporalConditionModel, batch: int, shape: LatentShape, before: str = "whole") -> str:
    """Return the name of the plan that trains `unet` on batches of clips of latents `shape` in what is free now where
    it is.

    A training that is resumed keeps the plan that it had `before`, or else its last bits would be others; only where
    that does not fit any more it goes down the ladder.
    """
    device = next(unet.parameters()).device
    needs = find_training_needs(unet, batch, shape)
    names = list(LADDER)
    fits = choose_training_plan(needs, measure_free_memory(device), device.type != CPU.type)
    return names[max(names.index(fits), names.index(before) if before in names else 0)]
