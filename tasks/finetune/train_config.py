"""The settings of a training: what is learned, which change its result, and what it runs on, which do not."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.device import DEVICE_HELP, DeviceName
from models.svd.model import ModelFacts
from models.svd.training import Schedule, suggest_settings
from models.svd.training_state import OptimiserName


class TrainConfig(BaseModel):
    """What trains, on which clips, and how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Literal["lora", "all"] = Field(
        default="lora", description="A LoRA on temporal attention, or all of the UNet"
    )
    motions: tuple[str, ...] | None = Field(default=None, description="Only clips of these camera motions")
    min_speed: float = Field(default=0.0, ge=0, description="Leave out moving clips slower than this, sides/s")
    steps: int = Field(default=200, ge=1, description="Optimiser steps")
    batch: int = Field(default=8, ge=1, description="Clips per step, over all processes")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate; by default as models of that size need"
    )
    schedule: Schedule = Field(default="cosine", description="How the learning rate goes, by diffusers' name")
    warm_up: int = Field(default=30, ge=0, description="Steps over which the learning rate rises")
    optimiser: OptimiserName = Field(
        default="adamw", description="AdamW; adamw-8bit has a quarter of its memory, and needs bitsandbytes"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradients; longer ones are shortened")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Number format of the passes; auto: bfloat16 on a CUDA GPU, float32 anywhere else"
    )
    log_sigma_mean: float | None = Field(
        default=None, description="Mean of ln(sigma), higher for more frames and pixels; by default as the model needs"
    )
    log_sigma_deviation: float | None = Field(
        default=None, ge=0, description="Deviation of ln(sigma); by default as the model needs"
    )
    drop_picture: float = Field(
        default=0.1, ge=0, le=1, description="Share of clips without their picture, for guidance"
    )
    drop_word: float = Field(default=0.25, ge=0, le=1, description="Share of batches without their motion word")
    words: bool = Field(default=False, description="Learn a context token for each camera motion")
    crop: int | None = Field(default=None, ge=4, description="Side of the random squares trained on, in latent cells")
    rank: int = Field(default=16, ge=1, description="Rank of the LoRA")
    alpha: float = Field(default=16.0, gt=0, description="Scale of the LoRA: it is multiplied by alpha / rank")
    ema: float = Field(default=0.99, ge=0, lt=1, description="Decay of the weights' moving average, which is kept")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between saved states")
    judge_every: int = Field(default=100, ge=1, description="Steps between looks at clips that were held out")
    samples: int = Field(default=2, ge=0, description="Clips generated at each look, of fixed noise, and measured")
    seed: int = Field(default=0, ge=0, description="Seed of batches and noise")


class HardwareConfig(BaseModel):
    """What a training runs on. The result is the same to float tolerance, so a training goes on with other hardware."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceName = Field(default="auto", description=DEVICE_HELP)
    processes: int = Field(default=1, ge=1, description="Processes that share each batch: GPUs, or parts of the CPU")
    accumulation: int = Field(
        default=1, ge=1, description="Parts of a process' share of a batch, one after the other: more take less memory"
    )
    accelerate: Path | None = Field(
        default=None, description="File of `accelerate config`, for FSDP or several machines; it sets the processes"
    )


def settle(config: TrainConfig, facts: ModelFacts, on_gpu: bool = False) -> TrainConfig:
    """Return the settings with what was left to the model and to the device."""
    suggested = suggest_settings(facts.width * facts.height, config.parameters == "lora")
    left = {name: value for name, value in vars(suggested).items() if getattr(config, name) is None}
    precision = config.precision if config.precision != "auto" else "bfloat16" if on_gpu else "float32"
    return config.model_copy(update={**left, "precision": precision})
