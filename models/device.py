"""Devices and precisions: which one a run works on, how much memory is free there.

All code that is special to one kind of device is here and in models/memory/placement.py. `auto` is the first CUDA GPU
if there is one, else Apple's MPS, else the CPU. As a precision it is what a family is published in on a CUDA GPU
(float16 for Stable Video Diffusion, as in diffusers' documentation), and float32 anywhere else. The precision is that
of the denoising networks and of the encoders of pictures and texts. The autoencoder always works in float32: that of
Stable Video Diffusion requires it (`force_upcast`), because float16 overflows in it, and a clip then looks the same on
every device. Latents of Stable Video Diffusion are integrated in float32 as well.
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

from models.errors import BadInput, BadModel

CPU = torch.device("cpu")

Precision = Literal["float32", "float16", "bfloat16"]
"""The number format in which a model's networks work, except its autoencoder."""

AskedPrecision = Literal["auto", "float32", "float16", "bfloat16"]

KINDS = ("cpu", "cuda", "mps")


def check_device_name(name: str) -> str:
    """Return the name of a device as settings keep it; raises ValueError for any other text."""
    kind, _, number = name.partition(":")
    if name != "auto" and (kind not in KINDS or (number and (kind != "cuda" or not number.isdecimal()))):
        raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
    return name


DeviceName = Annotated[str, AfterValidator(check_device_name)]
"""The type of a setting that names a device."""

DEVICE_HELP = "Where the model works: auto (the first CUDA GPU, else MPS, else the CPU), cpu, cuda, cuda:N or mps"

DTYPE_HELP = (
    "Number format of all networks but the autoencoder; auto: on a CUDA GPU as the model's family is published "
    "(float16 for Stable Video Diffusion), float32 anywhere else"
)


def has_half_arithmetic() -> bool:
    """Return whether this processor multiplies in bfloat16 by itself; elsewhere that is slower than float32."""
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def count_gpus() -> int:
    """Return how many CUDA GPUs this machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def find_device(name: str) -> torch.device:
    """Return the device of a name, with its number; raises BadInput when this machine or its torch lacks it."""
    there = {"cuda": count_gpus(), "mps": torch.mps.device_count()}
    first = next((kind for kind, count in there.items() if count), "cpu")
    asked = torch.device(first if name == "auto" else name)
    if asked.type == "cpu":
        return CPU
    if (asked.index or 0) >= there[asked.type]:
        raise BadInput(f"device {name}: torch sees {there[asked.type]} devices of that kind here. Use cpu, or auto.")
    return torch.device(asked.type, asked.index or 0)


def find_gpu(name: str) -> int | None:
    """Return the number of the CUDA GPU that a device's name means here; None where it means none."""
    device = find_device(name)
    return device.index or 0 if device.type == "cuda" else None


def choose_precision(device: torch.device, asked: AskedPrecision = "auto", on_gpu: Precision = "float16") -> Precision:
    """Return the precision on a device: `on_gpu` on a CUDA GPU, unless another one than auto is asked for."""
    if asked != "auto":
        return asked
    return on_gpu if device.type == "cuda" else "float32"


def explain_not_finite(precision: Precision, flag: str = "--dtype") -> str:
    """Return what is likely where a network's numbers in a precision are not finite, and what to do, as a clause.

    Only float16 overflows (past 65,504): the others have float32's range.
    """
    damaged = "the weights of the model or the LoRA are probably damaged; fetch them again"
    if precision != "float16":
        return f"{damaged}, or try other steps or guidance"
    return f"numbers past 65,504 overflow in float16; try {flag} float32, and if that ends alike, {damaged}"


def check_decoded(decoded: torch.Tensor, flag: str = "--dtype") -> torch.Tensor:
    """Return decoded pictures as they are. Raises BadModel where a number is not finite: as a pixel it would be black,
    and nobody would know why."""
    if decoded.isfinite().all():
        return decoded
    precision: Precision = "float16" if decoded.dtype == torch.float16 else "float32"
    raise BadModel(f"The decoded pictures are not finite numbers: {explain_not_finite(precision, flag)}.")


def get_dtype(precision: str) -> torch.dtype:
    """Return torch's type of a precision; raises BadInput for any other name."""
    if precision not in get_args(Precision):
        raise BadInput(f"precision {precision}: unknown. Use one of {', '.join(get_args(Precision))}.")
    return getattr(torch, precision)


def format_device(device: torch.device) -> str:
    """Return what tables call a device: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measure_free_memory(device: torch.device) -> int:
    """Return the memory that can be had on a device now, including what torch holds there without using it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _read_reclaimable_bytes()


def empty_cache(device: torch.device) -> None:
    """Free what a failed attempt left on a device; call it once nothing refers to its error."""
    if device.type == "cpu":
        return
    gc.collect()
    (torch.cuda if device.type == "cuda" else torch.mps).empty_cache()


@dataclass
class Used:
    """The cost of a block: seconds, and peak bytes above those before it; None if the system does not report them."""

    seconds: float = 0.0
    peak: int | None = None


@contextmanager
def watch_costs(device: torch.device) -> Iterator[Used]:
    """Measure what the block takes; the result is filled in when it ends.

    On the CPU the peak is known only when the process never held as much before: the system reports nothing else.
    """
    used, before, highest = Used(), _read_held_bytes(device), _read_highest_bytes(device, restart=True)
    started = time.perf_counter()
    yield used
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    used.seconds = time.perf_counter() - started
    now = _read_highest_bytes(device, restart=False)
    if before is not None and now is not None and (device.type == "cuda" or now > (highest or now)):
        used.peak = now - before


def _read_held_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _read_process_figure("VmRSS") if device.type == "cpu" else None


def _read_highest_bytes(device: torch.device, restart: bool) -> int | None:
    """Return the most that was held: since the last restart on a GPU, since the process began on the CPU."""
    if device.type == "cuda":
        if restart:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    return _read_process_figure("VmHWM") if device.type == "cpu" else None


def _read_process_figure(name: str) -> int | None:
    """Read a figure of this process in bytes; None when the system has no such file."""
    return _read_proc_file(Path("/proc/self/status")).get(name)


def _read_reclaimable_bytes() -> int:
    """Return the bytes of the page cache, which the system gives up on demand; 0 when it does not report them."""
    facts = _read_proc_file(Path("/proc/meminfo"))
    return max(0, facts.get("MemAvailable", 0) - facts.get("MemFree", 0))


def _read_proc_file(path: Path) -> dict[str, int]:
    """Read the lines `name: number kB` of a file of /proc, in bytes; none when there is no such file."""
    try:
        lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
