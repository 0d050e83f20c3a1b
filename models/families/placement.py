"""The places of a diffusers pipeline's networks while it samples and decodes, and the plan that is tried first.

The size of a network's weights is known. The memory that its work needs is not: when memory runs out, the next plan of
models/memory/plan.py's ladder is tried.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.device import CPU, Precision, get_dtype
from models.families.latents import DENOISERS, list_denoisers
from models.memory.placement import count_placed_bytes, feed_forward_in_pieces, move, placed
from models.memory.plan import GPU_RUNGS, USABLE, Plan
from models.weights.network import read_weight_sizes
from models.weights.pipeline_folder import AUTOENCODER, list_parts, read_index

IDLE = ("motion_adapter", "safety_checker")
"""Networks of a pipeline's folder that are not run by themselves: an adapter's layers are in the UNet."""


def weight_bytes(folder: Path, precision: Precision) -> dict[str, int]:
    """Return the bytes of each working network's weights in a precision; the autoencoder's are in float32."""
    # Published folders hold more than their pipeline's parts: other autoencoders, other formats.
    counts = {part: sum(read_weight_sizes(folder / part).values()) for part in sorted(list_parts(read_index(folder)))}
    own = {name: count for name, count in counts.items() if count and name not in IDLE}
    return {
        name: count * get_dtype("float32" if name == AUTOENCODER else precision).itemsize for name, count in own.items()
    }


def choose_first_plan(weights: Mapping[str, int], free: int, device: torch.device) -> Plan:
    """Choose the first plan whose weights, in bytes by network, fit in a device's free bytes: all, or the largest one.

    On the CPU, where weights and work share one memory, nothing is moved.
    """
    if device == CPU or sum(weights.values()) <= USABLE * free:
        return Plan()
    wanted = "parts" if max(weights.values()) <= USABLE * free else "groups"
    offload, feed_forward = next(rung for rung in GPU_RUNGS if rung[0] == wanted)
    return Plan(offload=offload, feed_forward=feed_forward)


def list_networks(pipeline: Any) -> dict[str, nn.Module]:
    """Return the working networks of a pipeline by name, the autoencoder after those that read texts and pictures."""
    own = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module) and name not in IDLE}
    return dict(sorted(own.items(), key=lambda named: named[0] == AUTOENCODER))


def count_held_bytes(pipeline: Any, device: torch.device) -> int:
    """Return the bytes of a pipeline already on a device; 0 on the CPU, where its work cannot use that room."""
    return count_placed_bytes(list(list_networks(pipeline).values()), device) if device != CPU else 0


@contextmanager
def prepare_sampling(pipeline: Any, device: torch.device, plan: Plan) -> Iterator[None]:
    """Place the pipeline on a device by a plan within a block; raises WeightsTooLarge.

    Afterwards its networks are unchanged: on the device if nothing was offloaded, otherwise in host memory.
    """
    parts = {name: part for name, part in list_networks(pipeline).items() if name not in DENOISERS}
    readers = [part for name, part in parts.items() if name != AUTOENCODER]
    work = list_denoisers(pipeline)
    with (
        placed(list(parts.values()), list(work), device, plan.offload, by_layer=readers),
        feed_forward_in_pieces(work, plan.feed_forward),
    ):
        yield


def prepare_decoding(pipeline: Any, device: torch.device, plan: Plan) -> None:
    """Put the autoencoder on a device, or in host memory if the plan says so; with an offload, first move the other
    networks away. Raises WeightsTooLarge when it does not fit."""
    parts = list_networks(pipeline)
    own = parts.pop(AUTOENCODER)
    if plan.offload != "none":
        move(list(parts.values()), CPU)
    move([own], CPU if plan.on_cpu else device)


def list_decoding_plans(pipeline: Any, device: torch.device) -> list[Plan]:
    """List the plans for decoding in the order to try them: on the device, alone on the device, and on the CPU."""
    if device == CPU:
        return [Plan()]
    others = [part for name, part in list_networks(pipeline).items() if name != AUTOENCODER]
    # When nothing else is on the device, the second plan would be the first one.
    alone = [Plan(offload="parts")] if count_placed_bytes(others, device) else []
    return [Plan(), *alone, Plan(offload="parts", on_cpu=True)]
