"""Plans: how a batch is sampled and a clip decoded in the memory there is, and which plan comes next when it is short.

A plan changes where and in what pieces the same numbers are computed, never the numbers: results agree to float
tolerance. The ladder gives up first what costs least time. Sampling: both branches of guidance at once; clips together;
the feed-forward layers whole; all parts of the model on the device (moved there in turn: seconds a clip); the UNet
whole on the device (its blocks move at every step). Decoding: the other parts on the device; the clip whole. On the
CPU, where weights and work share one memory, nothing is moved.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MIB = 2**20

LatentShape = tuple[int, int, int, int]
"""[frames, channels, h, w] of a clip's latents."""

Offload = Literal["none", "parts", "groups"]
"""What lies on the device: the whole model, one part of it at a time, or of the network that denoises (a UNet, or a
transformer) one group of blocks at a time."""

LARGEST_PIECE, SMALLEST_PIECE = 16384, 256
"""Tokens that a feed-forward layer takes at a time, on the first and on the last rung that cuts it."""

LARGEST_STRIP_MIB, SMALLEST_STRIP_MIB = 512, 16

WITH_STRIPS = 4
"""How many times the budget of its strips a decode takes, all told."""

USABLE = 0.8
"""Share of the free memory that a plan counts on; the rest is for what it cannot see."""

GPU_RUNGS: tuple[tuple[Offload, int | None], ...] = (
    ("none", None),
    ("none", LARGEST_PIECE),
    ("parts", LARGEST_PIECE),
    ("parts", 4096),
    ("groups", 4096),
    ("groups", 1024),
    ("groups", SMALLEST_PIECE),
)
"""On a GPU, once clips are sampled one by one: what is offloaded, and the pieces of the feed-forward layers."""

CPU_RUNGS: tuple[tuple[Offload, int | None], ...] = (
    ("none", None),
    ("none", LARGEST_PIECE),
    ("none", 4096),
    ("none", 1024),
    ("none", SMALLEST_PIECE),
)


@dataclass(frozen=True)
class Plan:
    """How a batch of clips is sampled and how a clip is decoded.

    batch: clips sampled together. guidance_together: both branches of guidance as one batch. feed_forward: tokens of a
    feed-forward layer at a time, or all. offload: what waits in host memory. strip_mib: MiB for strips of a clip to
    decode; None decodes it whole. on_cpu: whether a clip is decoded on the CPU, because the device is too small.
    """

    batch: int = 1
    guidance_together: bool = False
    feed_forward: int | None = None
    offload: Offload = "none"
    strip_mib: int | None = None
    on_cpu: bool = False

    def __str__(self) -> str:
        if self.on_cpu:
            return "decoded on the CPU"
        said = [
            f"batch {self.batch}",
            *(["guidance together"] if self.guidance_together else []),
            *_describe_pieces(self),
        ]
        return ", ".join([*said, *([f"decoded in strips of {self.strip_mib} MiB"] if self.strip_mib else [])])

    @property
    def rung(self) -> str:
        """Return the name that a measured cost is kept by: everything in the plan that costs are not proportional
        to."""
        strips = [f"strips of {self.strip_mib} MiB"] if self.strip_mib else []
        return ", ".join([*_describe_pieces(self), *strips]) or "whole"


def _describe_pieces(plan: Plan) -> list[str]:
    said = [f"feed-forward in pieces of {plan.feed_forward} tokens"] if plan.feed_forward else []
    words = {"parts": "parts moved in turn", "groups": "denoiser moved in groups of blocks"}
    return [*said, *([words[plan.offload]] if plan.offload != "none" else [])]


@dataclass(frozen=True)
class Networks:
    """What a model's memory depends on: widths by level, layers of a level, and numbers of weights.

    `unet_group`: the weights outside the UNet's blocks plus those of its two largest blocks, one at work while the
    other is on its way.
    """

    unet_widths: tuple[int, ...]
    unet_layers: int
    decoder_widths: tuple[int, ...]
    image_encoder: int = 0
    vae: int = 0
    unet: int = 0
    unet_group: int = 0


def describe_networks(
    unet: Mapping[str, Any], vae: Mapping[str, Any], weights: Mapping[str, Iterable[tuple[str, int]]]
) -> Networks:
    """Return the networks of two configurations, and of the names and sizes of each part's weights."""
    sizes = {part: dict(own) for part, own in weights.items()}
    blocks: dict[str, int] = {}
    for name, size in sizes.get("unet", {}).items():
        first, _, rest = name.partition(".")
        group = f"{first}.{rest.partition('.')[0]}" if first in ("down_blocks", "up_blocks") else ""
        blocks[group] = blocks.get(group, 0) + size
    outside = blocks.pop("", 0)
    layers = unet["layers_per_block"]
    return Networks(
        unet_widths=tuple(unet["block_out_channels"]),
        unet_layers=layers if isinstance(layers, int) else max(layers),
        decoder_widths=tuple(vae["block_out_channels"]),
        unet_group=outside + sum(sorted(blocks.values())[-2:]),
        **{part: sum(own.values()) for part, own in sizes.items()},
    )


@dataclass(frozen=True)
class Needs:
    """What a clip of latents `shape` takes on a device, in bytes.

    `itemsize`: bytes of a number in the UNet and in the image encoder; in the autoencoder it is four. `on_gpu`:
    whether weights have to be brought to the device. `measured`: bytes per latent cell, by a plan's rung, where they
    were measured.
    """

    networks: Networks
    shape: LatentShape
    itemsize: int = 4
    on_gpu: bool = False
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Return the latent cells of all frames."""
        frames, _, height, width = self.shape
        return frames * height * width

    def sampling(self, plan: Plan) -> int:
        """Return the bytes that sampling a batch by a plan takes, weights included where they are moved to the
        device."""
        branches = plan.batch * (2 if plan.guidance_together else 1)
        return self.weights(plan.offload) + branches * self._known(plan, self.one_clip(plan.feed_forward))

    def decoding(self, plan: Plan) -> int:
        """Return the bytes that decoding one clip by a plan takes, weights included where they are moved to the
        device."""
        if plan.strip_mib:
            return self._resting(plan) + min(self.whole_clip(), WITH_STRIPS * plan.strip_mib * MIB)
        return self._resting(plan) + self._known(plan, self.whole_clip(), "decoded ")

    def _resting(self, plan: Plan) -> int:
        """Return the weights on the device while the autoencoder works."""
        return self.weights("none") if plan.offload == "none" else self._own(vae=self.networks.vae)

    def one_clip(self, feed_forward: int | None = None) -> int:
        """Estimate what one clip takes in one denoising step, beside the weights, from the UNet's widths.

        The widest moment is the feed-forward of the first level (its gated hidden layer is eight widths wide), or in
        pieces its attention, on top of what the levels above keep for their skip connections.
        """
        widths, layers = self.networks.unet_widths, self.networks.unet_layers
        kept = sum((layers + 1) * channels * self.cells // 4**level for level, channels in enumerate(widths))
        wide = 16 * widths[0] * self.cells
        if feed_forward:
            wide = min(wide, 6 * widths[0] * self.cells + 16 * widths[0] * feed_forward)
        return (kept + wide) * self.itemsize

    def whole_clip(self) -> int:
        """Estimate what one clip takes when it is decoded whole: its last blocks, at full size, of every frame."""
        widths = (*self.networks.decoder_widths, self.networks.decoder_widths[-1])
        pixels = self.cells * 4 ** (len(widths) - 2)
        return (4 * widths[0] + 3 * widths[1]) * pixels * 4

    def weights(self, offload: Offload) -> int:
        """Return the weights on the device while the UNet works."""
        own = self.networks
        if offload == "none":
            return self._own(own.unet + own.image_encoder, own.vae)
        return max(self._own(own.unet if offload == "parts" else own.unet_group), self._own(own.image_encoder))

    def _own(self, half: int = 0, vae: int = 0) -> int:
        return half * self.itemsize + vae * 4 if self.on_gpu else 0

    def _known(self, plan: Plan, estimate: int, kind: str = "") -> int:
        """Return the measured figure in place of the estimate, where there is one.

        In host memory only if it is larger: no error shows a shortage there, and what a process held before hides what
        it takes.
        """
        figure = self.measured.get(f"{kind}{plan.rung}")
        if figure is None:
            return estimate
        return math.ceil(figure * self.cells) if self.on_gpu else max(estimate, math.ceil(figure * self.cells))


def choose_sampling_plan(needs: Needs, batch: int, free: int) -> Plan:
    """Return the first plan of the ladder that samples up to `batch` clips together in `free` bytes; or else the last
    one."""
    # On the CPU one branch keeps the cores busy; a GPU has room for both where there is memory.
    plan = Plan(batch=batch, guidance_together=needs.on_gpu)
    while needs.sampling(plan) > USABLE * free and (lower := find_next_rung(plan, needs.on_gpu)):
        plan = lower
    return plan


def choose_decoding_plan(needs: Needs, free: int) -> Plan:
    """Return the plan that decodes one clip in `free` bytes: whole if it fits, otherwise in strips of a size that
    fits."""
    usable = int(USABLE * free)
    for plan in (Plan(), Plan(offload="parts")) if needs.on_gpu else (Plan(),):
        if needs.decoding(plan) <= usable:
            return plan
    roomy = not needs.on_gpu or usable - needs.weights("none") >= WITH_STRIPS * LARGEST_STRIP_MIB * MIB
    room = (usable - needs.weights("none") if roomy else usable) // (WITH_STRIPS * MIB)
    strip = max(SMALLEST_STRIP_MIB, min(LARGEST_STRIP_MIB, room))
    return Plan(offload="none" if roomy else "parts", strip_mib=strip)


def find_next_rung(plan: Plan, on_gpu: bool = False) -> Plan | None:
    """Return the next plan for sampling, which needs less memory; None when there is none."""
    if plan.guidance_together:
        return replace(plan, guidance_together=False)
    if plan.batch > 1:
        return replace(plan, batch=plan.batch // 2)
    return next((_move_to(plan, rung) for rung in _list_below(plan, on_gpu)), None)


def find_next_placement(plan: Plan) -> Plan | None:
    """Return the next plan for sampling where the weights themselves did not fit: with fewer of them on the device."""
    return next((_move_to(plan, rung) for rung in _list_below(plan, on_gpu=True) if rung[0] != plan.offload), None)


def find_next_strip(plan: Plan, on_gpu: bool = False) -> Plan | None:
    """Return the next plan for decoding: alone on a GPU, then in strips, then in strips a quarter as large; or None."""
    if on_gpu and plan.offload == "none":
        return replace(plan, offload="parts")
    if plan.strip_mib is None:
        return replace(plan, strip_mib=LARGEST_STRIP_MIB)
    if plan.strip_mib <= SMALLEST_STRIP_MIB:
        return None
    return replace(plan, strip_mib=max(SMALLEST_STRIP_MIB, plan.strip_mib // 4))


def _list_below(plan: Plan, on_gpu: bool) -> tuple[tuple[Offload, int | None], ...]:
    rungs = GPU_RUNGS if on_gpu else CPU_RUNGS
    return rungs[rungs.index((plan.offload, plan.feed_forward)) + 1 :]


def _move_to(plan: Plan, rung: tuple[Offload, int | None]) -> Plan:
    return replace(plan, offload=rung[0], feed_forward=rung[1])
