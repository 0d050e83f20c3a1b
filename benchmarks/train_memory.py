"""Training Stable Video Diffusion XT's UNet in chunks: are its gradients those of the whole, and what does a step take?

    .venv/bin/python -m benchmarks.train_memory [--large]

The first table is of a small network in float32, trained whole and as a LoRA: how far gradients in chunks are from
those of diffusers' own layers, in parts of the largest gradient. The others are one step (loss, gradients, clipping,
AdamW) of a LoRA of rank 16 on all temporal attentions, on the full-size UNet of 1.52 billion random weights: in
bfloat16 where the processor computes in it (avx512_bf16), else in float32; the LoRA is in float32. `learn` counts its
weights that have a gradient: queries and keys of attention to one token have none. Each row runs in a process of its
own; the peak is that of its resident memory, weights and libraries included. Plain checkpointing is diffusers' own.
`--large` adds 25 frames of 1024x576, the size of the model: about 45 minutes of processor time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.training_utils import cast_training_params
from torch import Tensor

from models.device import CPU, has_half_arithmetic
from models.memory.training_plan import LADDER
from models.svd.chunked_training import Chunks, train_in_chunks
from models.svd.edm import broadcast, loss_weight
from models.svd.lora import add_lora
from models.svd.model import Conditions, denoise
from models.svd.one_token_attention import attend_to_one_token
from models.svd.training_state import TrainingState, new_state

RANK, SIGMA = 16, 2.0

PLAIN = "plain checkpointing"

SMALL: dict[str, Any] = {
    "block_out_channels": (64, 64), "num_attention_heads": (2, 2), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "cross_attention_dim": 32, "addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 96,
}  # fmt: skip

SMALL_MIB = (0.25, 1.0, 256.0)


@dataclass(frozen=True)
class Clip:
    """A clip's frames, and its pixels."""

    frames: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.width}x{self.height}"


TINY, USUAL, LARGE = Clip(3, 64, 64), Clip(14, 512, 320), Clip(25, 1024, 576)

IN_PARTS, IN_BLOCKS = list(LADDER)[1:3]

WAYS = {USUAL: (PLAIN, IN_PARTS, IN_BLOCKS), LARGE: (IN_BLOCKS,)}


@dataclass(frozen=True)
class Step:
    """What a step sees: a clip's latents [1, frames, 4, h, w], noise alike, and the conditions."""

    latents: Tensor
    noise: Tensor
    conditions: Conditions


def find_dtype() -> torch.dtype:
    """bfloat16 where this processor computes in it, else float32."""
    return torch.bfloat16 if has_half_arithmetic() else torch.float32


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """What is made in the block is made in that precision, so that small memory need not hold it in a larger one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_unet(settings: dict[str, Any], dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
    """A UNet of random weights; diffusers' defaults are those of Stable Video Diffusion XT."""
    with torch.device("meta"), made_in(dtype):
        unet = UNetSpatioTemporalConditionModel(**settings)
    unet.to_empty(device="cpu")
    # Drawing each of 1.5 billion numbers would take minutes.
    pool = torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    for name, weight in unet.named_parameters():
        if weight.ndim > 1:
            scaled = (pool * weight[0].numel() ** -0.5).to(dtype)
            for part in weight.data.view(-1).split(len(pool)):
                part.copy_(scaled[: len(part)])
        else:
            weight.data.fill_(0.5 if name.endswith("mix_factor") else float("norm" in name and "weight" in name))
    return unet.eval()


def put_lora(unet: UNetSpatioTemporalConditionModel, rank: int = RANK) -> TrainingState:
    """A LoRA on all temporal attentions, whose second factors are not zero, so that all of it has gradients."""
    attend_to_one_token(unet)
    add_lora(unet, rank)
    cast_training_params(unet, torch.float32)
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(1)
    for weight in trained.values():
        weight.data = (torch.randn(weight.shape, generator=generator) * 0.02).to(weight.device)
    return new_state(trained, 0.99)


def random_step(unet: UNetSpatioTemporalConditionModel, clip: Clip, device: torch.device = CPU) -> Step:
    """One clip of latents and its conditions."""
    generator = torch.Generator().manual_seed(2)
    shape = (1, clip.frames, 4, clip.height // 8, clip.width // 8)
    latents, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    context = torch.randn(1, 1, unet.config["cross_attention_dim"], generator=generator).to(device)
    ids = torch.tensor([[6.0, 127.0, 0.02]], device=device)
    return Step(latents, noise, Conditions(context, latents[:, 0], ids))


def find_loss(unet: UNetSpatioTemporalConditionModel, step: Step) -> Tensor:
    """The loss of finetuning (models/svd/training.py) at one noise level."""
    sigma = torch.full((1,), SIGMA, device=step.latents.device)
    denoised = denoise(unet, step.latents + SIGMA * step.noise, sigma, step.conditions)
    return (broadcast(loss_weight(sigma), step.latents) * (denoised - step.latents) ** 2).mean()


def train_once(unet: UNetSpatioTemporalConditionModel, state: TrainingState, step: Step, way: str) -> list[Tensor]:
    """Make one step in one way; return the gradients, on the CPU. The learning rate is zero, so that weights stay."""
    unet.train()
    (unet.enable_gradient_checkpointing if way == PLAIN else unet.disable_gradient_checkpointing)()
    with train_in_chunks(unet, LADDER.get(way)):
        state.begin()
        loss = find_loss(unet, step)
        loss.backward()
        state.apply(loss.detach(), 0.0)
    return [weight.grad.cpu() for weight in state.parameters.values() if weight.grad is not None]


def run(way: str, clip: Clip) -> dict[str, float]:
    """Make one step in this process: seconds, those of processor time, the peak of resident memory in MiB, how many
    weights of the LoRA have a gradient, and the norm of all gradients before clipping to 1."""
    unet = random_unet({}, find_dtype())
    state, step = put_lora(unet), random_step(unet, clip)
    started, worked = time.monotonic(), time.process_time()
    gradients = train_once(unet, state, step, way)
    facts = {"seconds": time.monotonic() - started, "processor": time.process_time() - worked}
    learn = sum(bool(each.isfinite().all() and each.any()) for each in gradients)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return facts | {"peak": peak, "learn": learn, "of": len(state.parameters)}


def measured(way: str, clip: Clip) -> str:
    """A way's row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_memory", "--child", json.dumps([way, *vars(clip).values()])]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return f"| {way} |  |  |  | ended with exit code {done.returncode} |"
    facts = json.loads(done.stdout.splitlines()[-1])
    figures = (f"{facts[name]:.0f}" for name in ("peak", "seconds", "processor"))
    return f"| {way} | {' | '.join(figures)} | {facts['learn']} of {facts['of']} |"


def table(clip: Clip) -> list[str]:
    """A Markdown table of full-size steps on a clip."""
    lines = [f"## {clip}, {str(find_dtype()).removeprefix('torch.')}\n"]
    lines += ["| way | peak, MiB | s | processor, s | learn |", "|---|---|---|---|---|"]
    for way in WAYS[clip]:
        lines.append(measured(way, clip))
        print(lines[-1], flush=True)
    return [*lines, ""]


def all_gradients(unet: UNetSpatioTemporalConditionModel, step: Step, chunks: Chunks | None) -> list[Tensor]:
    """The gradients of whatever trains in `unet`."""
    unet.zero_grad()
    with train_in_chunks(unet, chunks):
        find_loss(unet, step).backward()
    return [weight.grad for weight in unet.parameters() if weight.grad is not None]


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of two sets of gradients, in parts of the largest gradient."""
    largest = max(each.abs().max().item() for each in theirs)
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) / largest


def exactness() -> list[str]:
    """A Markdown table of how far gradients in chunks are from those of the whole."""
    whole, lora = (random_unet(SMALL, torch.float32) for _ in range(2))
    put_lora(lora, 4)
    step = random_step(whole, TINY)
    lines = [f"## Exactness: {TINY}, float32\n", "| chunks, MiB | kept | whole training | LoRA |", "|---|---|---|---|"]
    wanted = [all_gradients(unet, step, None) for unet in (whole, lora)]
    wanted = [[each.clone() for each in gradients] for gradients in wanted]
    for mib in SMALL_MIB:
        for blocks in (False, True):
            found = [all_gradients(unet, step, Chunks(mib, blocks)) for unet in (whole, lora)]
            far = " | ".join(f"{apart(*each):.1e}" for each in zip(found, wanted, strict=True))
            lines.append(f"| {mib:g} | inputs of {'blocks' if blocks else 'parts'} | {far} |")
            print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    """Measure, print and write benchmarks/train_memory.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_true", help="also the model's own size")
    asked = parser.parse_args()
    if asked.child:
        way, *size = json.loads(asked.child)
        print(json.dumps(run(way, Clip(*size))))
        return
    lines = exactness() + table(USUAL) + (table(LARGE) if asked.large else [])
    head = ["# Training in chunks", "", *(__doc__ or "").strip().splitlines(), ""]
    head += [f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}.", ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(head + lines), encoding="utf-8")


if __name__ == "__main__":
    main()
