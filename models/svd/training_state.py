"""The state of a training: the parameters that train, their moving average and the optimiser, at a step.

It is saved as safetensors and restored bit for bit. What is drawn at random, the order of the data and the learning
rate are functions of the step (models/svd/training.py, tasks/finetune/batches.py), so nothing else is needed to go on.
Parameters that are sharded over processes are saved whole.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from models.errors import BadInput

OptimiserName = Literal["adamw", "adamw-8bit"]

Clip = Callable[[list[nn.Parameter], float], Any]
"""Clips gradients to a norm, in place, and returns the norm that they had."""

BETAS, WEIGHT_DECAY = (0.9, 0.98), 1e-3


def make_optimiser(
    name: OptimiserName, parameters: Iterable[nn.Parameter], weight_decay: float = WEIGHT_DECAY
) -> torch.optim.Optimizer:
    """Return AdamW over parameters, whose moments take 8 bytes a parameter, or with `adamw-8bit` 2; raises BadInput
    where that is not installed."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, betas=BETAS, weight_decay=weight_decay)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadInput(
            "--train.optimiser adamw-8bit needs bitsandbytes, which is not installed: uv pip install bitsandbytes. Or "
            "train with adamw."
        ) from error
    return AdamW8bit(parameters, betas=BETAS, weight_decay=weight_decay)


@dataclass
class TrainingState:
    """What trains: named parameters, their moving average and the optimiser, at a step. `clip` clips gradients to
    `clip_norm`."""

    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema_decay: float
    clip_norm: float = 1.0
    clip: Clip = nn.utils.clip_grad_norm_
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def begin(self) -> None:
        """Forget the gradients of the step before."""
        self.optimiser.zero_grad(set_to_none=True)

    def apply(self, loss: Tensor, learning_rate: float) -> None:
        """Make one optimiser step with the gradients that were accumulated, clipped, and update the moving average.
        `loss` is that of the step. Raises FloatingPointError, and changes nothing, where it or a gradient is not a
        number."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        norm = self.clip(list(self.parameters.values()), self.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(whole(norm))):
            raise FloatingPointError
        self.optimiser.step()
        self.step += 1
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        # Early on a short memory, so that the average does not carry the initial weights along.
        decay = min(self.ema_decay, self.step / (self.step + 10))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the parameters and their moving average, so that the average can be looked at; and back."""
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = kept

    def read_average(self) -> dict[str, Tensor]:
        """Return the moving average by name, whole, on the CPU."""
        return {name: whole(tensor).cpu() for name, tensor in self.average.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state by name, on the CPU. Where parameters are sharded, every process must ask for it."""
        found = {"step": torch.tensor(self.step)}
        for name, parameter in self.parameters.items():
            found[f"parameter.{name}"] = parameter.detach()
            found[f"average.{name}"] = self.average[name]
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{key}.{name}"] = torch.as_tensor(value)
        return {name: whole(tensor).cpu().clone().contiguous() for name, tensor in found.items()}

    def save(self, path: Path) -> None:
        """Write the whole state as safetensors."""
        save_file(self.tensors(), path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Restore a saved state, bit for bit."""
        tensors = load_file(path)
        self.step = int(tensors["step"])
        keys = sorted({name.split(".")[1] for name in tensors if name.startswith("optimiser.")})
        for name, parameter in self.parameters.items():
            parameter.copy_(place_like(tensors[f"parameter.{name}"], parameter))
            self.average[name] = place_like(tensors[f"average.{name}"], parameter)
            # The optimiser knows nothing of a parameter that no step has used yet, a word that was never asked for.
            known = {key: tensors.get(f"optimiser.{key}.{name}") for key in keys}
            moments = {
                key: _place_moment(key, value, parameter, self.optimiser)
                for key, value in known.items()
                if value is not None
            }
            if moments:
                self.optimiser.state[parameter] = moments


def _place_moment(key: str, value: Tensor, parameter: Tensor, optimiser: torch.optim.Optimizer) -> Any:
    """Return a value of the optimiser as it keeps it: torch's has its count of steps as a tensor on the CPU, others as
    a number."""
    if key == "step":
        return value.clone() if type(optimiser).__module__.startswith("torch.") else int(value)
    return place_like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device, copy=True)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which every process has a shard as a whole; any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def place_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a copy of a whole tensor where `like` is: on its device, and sharded as it is."""
    copy = tensor.to(like.device, copy=True)
    return distribute_tensor(copy, like.device_mesh, like.placements) if isinstance(like, DTensor) else copy


def new_state(
    parameters: Mapping[str, nn.Parameter], ema_decay: float, weight_decay: float = WEIGHT_DECAY
) -> TrainingState:
    """Return a fresh state over the parameters that train."""
    chosen = dict(parameters)
    return TrainingState(chosen, make_optimiser("adamw", chosen.values(), weight_decay), ema_decay)
