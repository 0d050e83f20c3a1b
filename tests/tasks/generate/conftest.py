"""A LoRA for the small model, pictures to give it, and a device that stands for a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.generation import by_family
from models.memory.plan import Plan
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, remove_lora, save_lora
from models.svd.model import load_model
from tasks.footage import Camera, Scene, render_shot
from tasks.generate import decode, draw, sample

GPU = torch.device("cpu", 0)
"""The CPU by its number stands for a GPU: to torch it is another device, to which weights are copied."""


@pytest.fixture(scope="session")
def lora(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of random weights that says it was trained on clips that tilt up."""
    path = tmp_path_factory.mktemp("loras") / "tilt.safetensors"
    unet = load_model(model).unet
    add_lora(unet, rank=2, alpha=2.0)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(w.shape, generator=generator) for name, w in read_lora_weights(unet).items()}
    remove_lora(unet)
    lineage = {"dataset": "beach", "clips": [f"clip-{i}" for i in range(40)], "train": {"motions": ["tilt_up"]}}
    save_lora(path, weights, LoraFacts(2, 2.0, lineage))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes PNG pictures of different rendered scenes into a folder, by name."""

    def write(*names: str, folder: str = "pictures", size: tuple[int, int] = (48, 36)) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            scene = int.from_bytes(name.encode(), "big") % 1000
            frame = render_shot(Scene(scene, movers=0), Camera(), 1, size=size)[0]
            Image.fromarray(np.ascontiguousarray(frame)).save(tmp_path / folder / name)
        return tmp_path / folder

    return write


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps work on a device that stands for a GPU."""
    for step in (sample, decode, draw):
        monkeypatch.setattr(step, "find_device", lambda _: GPU)


@pytest.fixture
def small_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which the denoiser's blocks come one by one or not at all, and on which nothing can be decoded."""
    sampling_ready, decoding_ready = by_family.prepare_sampling, by_family.prepare_decoding

    @contextmanager
    def sampling(pipeline: Any, device: torch.device, plan: Plan) -> Iterator[None]:
        with sampling_ready(pipeline, device, plan):
            if plan.offload != "groups":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            yield

    def decoding(pipeline: Any, device: torch.device, plan: Plan) -> None:
        decoding_ready(pipeline, device, plan)
        if not plan.on_cpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(by_family, "prepare_sampling", sampling)
    monkeypatch.setattr(by_family, "prepare_decoding", decoding)
