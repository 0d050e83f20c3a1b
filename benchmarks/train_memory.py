"""Training Stable Video Diffusion XT's UNet in chunks: whether its gradients are those of the whole, and what one step of
a LoRA takes beside plain checkpointing.

    .venv/bin/python -m benchmarks.train_memory [--large]

The first table is of a small network in float32: how far the gradients of every way are from those of diffusers' own
layers, computed whole. The others are one step (loss, gradients, clipping, AdamW) of a LoRA of rank 16 on all temporal
attentions, on the full-size UNet of 1.52 billion random weights: bfloat16 where the processor computes in it
(avx512_bf16), else float32; the LoRA is in float32. Each row runs in a process of its own; its peak is that of the
process's resident memory, weights and libraries included. `--large` adds 25 frames of 1024x576, the size of the model:
20 to 40 minutes on two quiet cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.training_utils import cast_training_params

from models.device import CPU
from models.svd.chunked_training import Chunks, train_in_chunks
from models.svd.lora import add_lora
from models.svd.one_token_attention import attend_to_one_token
from models.svd.training import StepSettings, TrainingBatch, TrainingState, diffusion_loss, new_state, step_generator

RANK = 16

STEP = StepSettings(log_sigma_mean=0.7, log_sigma_deviation=1.6, drop_picture=0.0, drop_word=0.0, crop=None)

WAYS: dict[str, Chunks | None] = {
    "plain checkpointing": None,
    "chunks of 256 MiB": Chunks(256),
    "chunks of 64 MiB": Chunks(64),
    "chunks of 256 MiB, inputs of blocks alone": Chunks(256, blocks=True),
}

SMALL: dict[str, Any] = {
    "block_out_channels": (64, 64), "num_attention_heads": (2, 2), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "cross_attention_dim": 32, "addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 96,
}  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """A clip's frames, and its pixels."""

    frames: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.width}x{self.height}"


USUAL, LARGE = Clip(14, 512, 320), Clip(25, 1024, 576)


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """What is made in the block is made in that precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_unet(settings: dict[str, Any], dtype: torch.dtype, device: torch.device = CPU) -> Any:
    """A UNet of random weights; diffusers' defaults are those of Stable Video Diffusion XT."""
    with torch.device("meta"), made_in(dtype):
        unet = UNetSpatioTemporalConditionModel(**settings)
    unet.to_empty(device=device)
    # Drawing each of 1.5 billion numbers would take minutes.
    pool = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for name, weight in unet.named_parameters():
        if weight.ndim > 1:
            weight.data.view(-1).copy_(pool.repeat(-(-weight.numel() // len(pool)))[: weight.numel()])
            weight.data.mul_(weight[0].numel() ** -0.5)
        else:
            weight.data.fill_(
                0.5 if name.endswith("mix_factor") else 1.0 if "norm" in name and "weight" in name else 0.0
            )
    attend_to_one_token(unet)
    return unet.eval()


def put_lora(unet: UNetSpatioTemporalConditionModel) -> TrainingState:
    """A LoRA on all temporal attentions, whose second factors are not zero either, so that all gradients count."""
    add_lora(unet, RANK)
    cast_training_params(unet, torch.float32)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.01)
    return new_state(trained, 0.99)


def random_batch(unet: UNetSpatioTemporalConditionModel, clip: Clip, device: torch.device = CPU) -> TrainingBatch:
    """One clip's latents and conditions."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, clip.frames, 4, clip.height // 8, clip.width // 8, generator=generator)
    embedding = torch.randn(1, unet.config["cross_attention_dim"], generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    return TrainingBatch(*(x.to(device) for x in (latents, latents[:, 0], embedding, ids)), ["static"])


def train_once(unet: Any, state: TrainingState, batch: TrainingBatch, chunks: Chunks | None) -> float:
    """Make one step of training; return its loss."""
    with train_in_chunks(unet, chunks):
        loss = diffusion_loss(unet, {}, batch, STEP, step_generator(0, 0))
        state.apply(loss, 1e-4)
    return loss.item()


def run(way: str, clip: Clip) -> dict[str, float]:
    """Make one step in this process: seconds, seconds of processor time, peak of resident memory in MiB, and the loss
    and the norm of the gradients."""
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    unet = random_unet({}, dtype)
    state, chunks = put_lora(unet), WAYS[way]
    if chunks is None:
        unet.enable_gradient_checkpointing()
        unet.train()
    started, worked = time.monotonic(), time.process_time()
    loss = train_once(unet, state, random_batch(unet, clip), chunks)
    facts = {"seconds": time.monotonic() - started, "processor": time.process_time() - worked}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    moved = [name for name, weight in state.parameters.items() if weight.grad is not None and weight.grad.any()]
    return facts | {"peak": peak, "loss": loss, "moved": len(moved), "of": len(state.parameters)}


def measured(way: str, clip: Clip) -> dict[str, float]:
    """A way's figures, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_memory", "--child", json.dumps([way, *vars(clip).values()])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and write benchmarks/train_memory.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        way, *size = json.loads(asked.child)
        print(json.dumps(run(way, Clip(*size))))
        return


if __name__ == "__main__":
    main()
