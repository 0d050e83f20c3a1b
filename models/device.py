"""Devices and precisions: which a run works on, how much memory is free there, what an error of memory looks like.

All that is special to one kind of device stands here and in models/memory/placement.py. `auto` is the first CUDA card
where there is one, otherwise the CPU; and in precision what a family is published in on a CUDA card (float16 for Stable
Video Diffusion, as diffusers' documentation runs it), float32 anywhere else. The precision is that of the networks that
denoise and of the encoders of pictures and texts. The autoencoder always works in float32: that of Stable Video
Diffusion asks for it (`force_upcast`), for float16 overflows in it, and what a clip shows is then the same on every
device. Latents of Stable Video Diffusion are integrated in float32 as well.
"""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from pydantic import AfterValidator

from models.errors import BadInput

CPU = torch.device("cpu")

Precision = Literal["float32", "float16", "bfloat16"]
"""In what numbers a model's networks work, but for its autoencoder."""

AskedPrecision = Literal["auto", "float32", "float16", "bfloat16"]

KINDS = ("cpu", "cuda", "mps")

NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
)
"""What errors say where memory was too small and no class says so: torch's, those of CUDA and its libraries, MPS's."""


def given_device(name: str) -> str:
    """The name of a device as it stands in settings; raises ValueError for what is none."""
    kind, _, number = name.partition(":")
    if name != "auto" and (kind not in KINDS or (number and (kind != "cuda" or not number.isdecimal()))):
        raise ValueError("a device is auto, cpu, cuda, cuda:N or mps")
    return name


DeviceName = Annotated[str, AfterValidator(given_device)]
"""The type of a setting that names a device."""

DEVICE_HELP = "Where the model works: auto (the first CUDA card, or else the CPU), cpu, cuda, cuda:N or mps"

DTYPE_HELP = (
    "Numbers the networks but the autoencoder work in; auto: on a CUDA card as the model's family is published "
    "(float16 for Stable Video Diffusion), float32 anywhere else"
)


def device_named(name: str) -> torch.device:
    """The device of a name, with its number; raises BadInput where this machine, or its torch, has no such device."""
    asked = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if asked.type == "cpu":
        return CPU
    there = torch.cuda.device_count() if asked.type == "cuda" else int(torch.backends.mps.is_available())
    if (asked.index or 0) >= there:
        raise BadInput(f"device {name}: torch sees {there} devices of that kind here. Use cpu, or auto.")
    return torch.device(asked.type, asked.index or 0)


def precision_on(device: torch.device, asked: AskedPrecision = "auto", on_card: Precision = "float16") -> Precision:
    """The precision that is meant on a device, `on_card` on a CUDA card; an explicit one is what it is."""
    if asked != "auto":
        return asked
    return on_card if device.type == "cuda" else "float32"


def dtype_of(precision: str) -> torch.dtype:
    """Torch's type of a precision; raises BadInput for any other name."""
    if precision not in get_args(Precision):
        raise BadInput(f"precision {precision}: unknown. Use one of {', '.join(get_args(Precision))}.")
    return getattr(torch, precision)


def device_label(device: torch.device) -> str:
    """What a device is called in tables: the card's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device now, what torch holds there without using it included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()


def empty_cache(device: torch.device) -> None:
    """Give back what an attempt that failed has left behind on a device; to be called once its error is let go."""
    if device.type == "cpu":
        return
    gc.collect()
    (torch.cuda if device.type == "cuda" else torch.mps).empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


@dataclass
class Used:
    """What a block took: seconds, and bytes at its peak above those before it; None where the system does not tell."""

    seconds: float = 0.0
    peak: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Used]:
    """What the block takes, known when it ends.

    On the CPU the peak is told only where the process never held as much before, for nothing else shows.
    """
    used, before, highest = Used(), _held(device), _highest(device, restart=True)
    started = time.perf_counter()
    yield used
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    used.seconds = time.perf_counter() - started
    now = _highest(device, restart=False)
    if before is not None and now is not None and (device.type == "cuda" or now > (highest or now)):
        used.peak = now - before


def _held(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") if device.type == "cpu" else None


def _highest(device: torch.device, restart: bool) -> int | None:
    """The most that was held: since the last restart on a card, since the process began on the CPU."""
    if device.type == "cuda":
        if restart:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if device.type == "cpu" else None


def _status(name: str) -> int | None:
    """A figure of this process in bytes, where the system keeps such a file."""
    return _facts(Path("/proc/self/status")).get(name)


def _reclaimable() -> int:
    """Memory of the page cache, which the system gives up when asked, in bytes; 0 where it does not tell."""
    facts = _facts(Path("/proc/meminfo"))
    return max(0, facts.get("MemAvailable", 0) - facts.get("MemFree", 0))


def _facts(path: Path) -> dict[str, int]:
    """The lines `name: number kB` of a file of /proc, in bytes; none where there is no such file."""
    try:
        lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
