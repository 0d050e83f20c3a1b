"""Full-size Stable Video Diffusion XT on a GPU: memory and time of each plan, beside diffusers' own pipeline; and those
of a step of training.

    .venv/bin/python -m benchmarks.gpu          (make gpu-check)
    .venv/bin/python -m benchmarks.gpu --device cpu --size tiny --out /tmp/gpu.md

25 frames of 1024x576, guidance over both branches, weights drawn at random: what is measured does not depend on what a
model has learned, so nothing is downloaded. The UNet and the image encoder are in float16, the autoencoder in float32
where it is ours, in float16 where diffusers' pipeline has it so. Peaks are of what torch allocated on the GPU, weights
included (on the CPU: how far the process's own peak rose, which only the first and largest row shows). Seconds of
sampling are for one step, the encoders included in the first; those of decoding for a whole clip. Training is one step
of a LoRA of rank 16 on all temporal attentions, in bfloat16 (benchmarks/train_memory.py has the same on the CPU).

It needs torch, diffusers, transformers, accelerate, peft, safetensors, numpy, pillow and pydantic, and of this project
the package `models` and benchmarks/train_memory.py alone. Without a GPU it says so and ends with exit code 2.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks import train_memory
from benchmarks.train_memory import PLAIN, Clip
from models.device import CPU, empty_cache, find_device, format_device, watch_costs
from models.errors import BadInput, is_out_of_memory
from models.memory.placement import feed_forward_in_pieces, move, place_for_decoding, place_for_sampling
from models.memory.plan import MIB, Plan
from models.memory.training_plan import LADDER
from models.svd.exact_decode import Room
from models.svd.model import ModelFacts, VideoModel
from models.svd.one_token_attention import attend_to_one_token
from models.svd.sampling import decode_latents, sample_latents

NO_GPU = 2


@dataclass(frozen=True)
class Size:
    """A model's shape, and the clip that it makes."""

    unet: dict[str, Any]
    vae_widths: tuple[int, ...]
    vae_layers: int
    image_encoder: dict[str, int]
    frames: int
    height: int
    width: int
    budgets: tuple[int, ...]


SIZES = {
    "full": Size(
        unet={},
        vae_widths=(128, 256, 512, 512),
        vae_layers=2,
        image_encoder={
            "hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1024, "num_hidden_layers": 32,
            "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
        },
        frames=25, height=576, width=1024, budgets=(256, 1024, 4096),
    ),
    "tiny": Size(
        unet={
            "block_out_channels": (32, 32), "num_attention_heads": (1, 1), "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 2,
            "up_block_types": ("CrossAttnUpBlockSpatioTemporal",) * 2,
            "cross_attention_dim": 32, "addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 96,
        },
        vae_widths=(32, 32),
        vae_layers=1,
        image_encoder={
            "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 1,
            "num_attention_heads": 1, "image_size": 224, "patch_size": 32,
        },
        frames=4, height=32, width=32, budgets=(1,),
    ),
}  # fmt: skip
"""Stable Video Diffusion XT's configuration (diffusers' defaults are its UNet's), and a small one to try the script."""

PLANS = {
    "whole, both branches at once": Plan(guidance_together=True),
    "one branch after the other": Plan(),
    "feed-forward in pieces of 16384": Plan(feed_forward=16384),
    "and parts in turn": Plan(feed_forward=16384, offload="parts"),
    "and pieces of 4096": Plan(feed_forward=4096, offload="parts"),
    "and the UNet in groups of blocks": Plan(feed_forward=4096, offload="groups"),
    "and pieces of 256": Plan(feed_forward=256, offload="groups"),
}


def random_model(size: Size, device: torch.device, half: torch.dtype) -> VideoModel:
    """A model of random weights, made on the device and then taken to host memory."""
    torch.manual_seed(0)
    with device, train_memory.made_in(half):
        unet = UNetSpatioTemporalConditionModel(**size.unet)
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**size.image_encoder))  # pyright: ignore[reportArgumentType]
    with device:
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=cast(Any, ("DownEncoderBlock2D",) * len(size.vae_widths)),
            block_out_channels=cast(Any, size.vae_widths),
            layers_per_block=size.vae_layers,
            latent_channels=4,
        )
    attend_to_one_token(unet)
    parts = [part.eval().requires_grad_(False) for part in (unet, vae, encoder)]
    move(parts, CPU)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_type="continuous",
        timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    facts = ModelFacts(frames=size.frames, width=size.width, height=size.height)
    return VideoModel(unet, vae, encoder, CLIPImageProcessor(), scheduler, {}, facts, revision="random")


@dataclass(frozen=True)
class Row:
    """What one way took: MiB at its peak, seconds, or why there are none."""

    way: str
    mib: float | None
    seconds: float | None
    note: str = ""

    def __str__(self) -> str:
        mib, seconds = (
            "" if self.mib is None else f"{self.mib:.0f}",
            "" if self.seconds is None else f"{self.seconds:.2f}",
        )
        return f"| {self.way} | {mib} | {seconds} | {self.note} |"


def measure(way: str, device: torch.device, work: Callable[[], str], per: int = 1) -> Row:
    """Run a way once; an error of too little memory is its row, and the others go on."""
    gc.collect()
    empty_cache(device)
    # What lies there from before, such as weights, is part of what a way needs.
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        with watch_costs(device) as used:
            note = work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Row(way, None, None, "out of memory")
    mib = None if used.peak is None else (used.peak + before) / MIB
    return Row(way, mib, used.seconds / per, note)


def our_sampling(model: VideoModel, size: Size, device: torch.device, steps: int) -> Iterator[Row]:
    """A row for each plan; every plan's latents are compared with the first one's."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(1, 3, size.height, size.width, generator=generator) * 2 - 1
    noise = torch.randn(1, *model.latent_shape(size.frames, size.height, size.width), generator=generator)
    first: list[torch.Tensor] = []

    def sample(plan: Plan) -> str:
        with (
            place_for_sampling(model, device, plan.offload) as ready,
            feed_forward_in_pieces(ready.unet, plan.feed_forward),
        ):
            made = sample_latents(
                ready, picture, noise, torch.zeros_like(picture), [None], steps=steps, guidance=(1.0, 3.0),
                guidance_together=plan.guidance_together,
            )  # fmt: skip
        first.append(made)
        return f"latents within {(made - first[0]).abs().max() / first[0].std():.0e} of the first's"

    for way, plan in PLANS.items():
        yield measure(f"ours: {way}", device, lambda plan=plan: sample(plan), steps)
    move((model.image_encoder, model.unet), CPU)


def our_decoding(model: VideoModel, size: Size, device: torch.device) -> Iterator[Row]:
    """Whole, and exactly in several budgets; frames are compared with those of the whole decode, where it fits."""
    shape = model.latent_shape(size.frames, size.height, size.width)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 0.18
    whole: list[np.ndarray] = []

    def decode(budget: int | None, parking: Path) -> str:
        with place_for_decoding(model, device, "parts") as ready:
            frames = decode_latents(ready, latents, None if budget is None else Room(budget * MIB, None))
        whole.extend([] if budget else [frames.astype(int)])
        return f"frames within {np.abs(frames - whole[0]).max()} of 255 of the whole's" if whole else ""

    with TemporaryDirectory() as folder:
        for budget in (None, *size.budgets):
            way = "ours: whole" if budget is None else f"ours: exact, strips of {budget} MiB"
            yield measure(way, device, lambda budget=budget: decode(budget, Path(folder)))


def their_rows(model: VideoModel, size: Size, device: torch.device, steps: int) -> tuple[list[Row], list[Row]]:
    """diffusers' pipeline as its documentation sets it for little memory: rows of sampling, rows of decoding."""
    model.unet.set_attn_processor(AttnProcessor2_0())
    vae = cast(Any, nn.Module.to(model.vae, model.unet.dtype))
    pipeline = StableVideoDiffusionPipeline(
        vae, model.image_encoder, model.unet, model.scheduler, model.feature_extractor
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((size.width, size.height), 64).convert("RGB")
    latents = torch.randn(1, *model.latent_shape(size.frames, size.height, size.width), dtype=vae.dtype)

    def sample() -> str:
        pipeline(
            cast(Any, picture), size.height, size.width, num_frames=size.frames, num_inference_steps=steps,
            output_type="latent",
        )  # fmt: skip
        return ""

    def decode(frames: int) -> str:
        move((vae,), device)
        with torch.no_grad():
            pipeline.decode_latents(latents.to(device), size.frames, frames)
        return "changes the picture" if frames < size.frames else ""

    if device.type == "cpu":
        sampled = [measure("diffusers: as it is", device, sample, steps)]
    else:
        pipeline.to(device)
        sampled = [measure("diffusers: all on the GPU", device, sample, steps)]
        move((model.image_encoder, model.vae, model.unet), CPU)
        pipeline.enable_model_cpu_offload(device=device)
        sampled.append(measure("diffusers: enable_model_cpu_offload", device, sample, steps))
        model.unet.enable_forward_chunking()
        sampled.append(measure("diffusers: and enable_forward_chunking", device, sample, steps))
        pipeline.remove_all_hooks()
        move((model.image_encoder, model.unet), CPU)
    chunks = [min(size.frames, 8), 2] if device.type == "cpu" else [size.frames, 8, 2]
    return sampled, [measure(f"diffusers: decode_chunk_size={n}", device, lambda n=n: decode(n)) for n in chunks]


def training(model: VideoModel, size: Size, device: torch.device, half: torch.dtype) -> Iterator[Row]:
    """A row for plain checkpointing and for each plan, from the least memory to the most; gradients are compared with
    those of the first that fits."""
    move((model.image_encoder, model.vae), CPU)
    unet = cast(Any, nn.Module.to(model.unet, device, half))
    state = train_memory.put_lora(unet)
    step = train_memory.random_step(unet, Clip(size.frames, size.width, size.height), device)
    first: list[torch.Tensor] = []

    def train(way: str) -> str:
        made = train_memory.train_once(unet, state, step, way)
        state.optimiser.zero_grad(set_to_none=True)
        first.extend([] if first else made)
        return f"gradients within {train_memory.apart(made, first):.0e} of the first's"

    for way in (*reversed(list(LADDER)), PLAIN):
        yield measure(way if way == PLAIN else f"ours: {way}", device, lambda way=way: train(way))
    move((unet,), CPU)


def report(size: Size, device: torch.device, steps: int, half: torch.dtype) -> str:
    """All rows as a Markdown page."""
    model = random_model(size, device, half)
    sampling, decoding = [*our_sampling(model, size, device, steps)], [*our_decoding(model, size, device)]
    theirs = their_rows(model, size, device, steps)
    trained = [*training(model, size, device, torch.float32 if device.type == "cpu" else torch.bfloat16)]
    head = ["# On a GPU", "", *(__doc__ or "").strip().splitlines(), ""]
    clip = f"{size.frames} frames of {size.width}x{size.height}"
    head += [f"{format_device(device)}, torch {torch.__version__}, {clip}, {steps} steps, {half}.", ""]
    bars = "|---|---|---|---|"
    return "\n".join(
        [
            *head,
            *("| sampling | peak, MiB | s a step | |", bars, *map(str, sampling + theirs[0]), ""),
            *("| decoding | peak, MiB | s a clip | |", bars, *map(str, decoding + theirs[1]), ""),
            *("| training | peak, MiB | s a step | |", bars, *map(str, trained), ""),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write the page; exit code 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script")
    parser.add_argument("--size", default="full", choices=SIZES)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    asked = parser.parse_args(argv)
    try:
        device = find_device(asked.device)
    except BadInput as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return NO_GPU
    half = torch.float32 if device.type == "cpu" else torch.float16
    page = report(SIZES[asked.size], device, asked.steps, half)
    print(page)
    asked.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
