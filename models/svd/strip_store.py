"""Activations of a whole clip, kept off the device between the layers that read and write them strip by strip.

They are in host memory or, where that is too small, in a file whose name is removed once it is open, so that it
disappears with the process. Each write adds to per-frame, per-channel sums in float64. From these follow any group
normalisation's statistics, over one frame or over the clip, whatever the strips were.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

Rows = tuple[int, int]
"""Rows [start, end) of a picture, the end excluded."""


class Parked:
    """Activations [frames, channels, height, width] of one clip, stored as [frames, height, width, channels].

    `device` is where strips are worked on, `folder` where the file lies; None for host memory.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, folder: Path | None
    ) -> None:
        self.frames, self.channels, self.height, self.width = shape
        self.dtype, self.device = dtype, device
        self._sums = torch.zeros(2, self.frames, self.channels, dtype=torch.float64)
        stored = (self.frames, self.height, self.width, self.channels)
        self._memory = torch.empty(stored, dtype=dtype) if folder is None else None
        self._file = _open_nameless_file(folder, math.prod(stored) * dtype.itemsize) if folder else None
        self._row_bytes = self.width * self.channels * dtype.itemsize

    def like(self, channels: int, height: int, width: int, folder: Path | None) -> "Parked":
        """Room for activations of another size, of the same clip."""
        return Parked((self.frames, channels, height, width), self.dtype, self.device, folder)

    def close(self) -> None:
        """Give the room back."""
        self._memory = None
        if self._file:
            self._file.close()

    def read(self, frame: int, rows: Rows) -> Tensor:
        """Return a strip [1, channels, rows, width] of one frame, on the device; to be copied before it is changed."""
        if self._memory is not None:
            strip = self._memory[frame, rows[0] : rows[1]]
        else:
            raw = bytearray((rows[1] - rows[0]) * self._row_bytes)
            os.preadv(cast(BinaryIO, self._file).fileno(), [raw], self._offset(frame, rows))
            strip = torch.frombuffer(raw, dtype=self.dtype).view(-1, self.width, self.channels)
        return strip.to(self.device).permute(2, 0, 1)[None]

    def read_clip(self, rows: Rows) -> Tensor:
        """Return the same strip of every frame, [1, channels, frames, rows, width]."""
        return torch.stack([self.read(frame, rows)[0] for frame in range(self.frames)], dim=1)[None]

    def start(self) -> None:
        """Forget the sums: every strip is about to be written, once."""
        self._sums.zero_()

    def write(self, frame: int, rows: Rows, strip: Tensor) -> None:
        """Store a strip [1, channels, rows, width] of one frame."""
        laid = strip[0].permute(1, 2, 0).contiguous()
        stored = laid.to("cpu")
        # Summed where the strip is, for a GPU does it sooner than it hands the strip over; Apple's has no float64.
        exact = (stored if laid.device.type == "mps" else laid).double().flatten(0, 1)
        self._sums[0, frame] += exact.sum(0).cpu()
        self._sums[1, frame] += exact.square().sum(0).cpu()
        if self._memory is not None:
            self._memory[frame, rows[0] : rows[1]] = stored
        else:
            raw = stored.view(torch.uint8).numpy().tobytes()
            os.pwrite(cast(BinaryIO, self._file).fileno(), raw, self._offset(frame, rows))

    def write_clip(self, rows: Rows, strip: Tensor) -> None:
        """Store the same strip of every frame, [1, channels, frames, rows, width]."""
        for frame in range(self.frames):
            self.write(frame, rows, strip[:, :, frame])

    def normalisation(self, norm: torch.nn.GroupNorm, whole_clip: bool) -> tuple[Tensor, Tensor]:
        """Scale and shift [frames, channels] that apply `norm` with the statistics of each frame, or of the clip."""
        sums = self._sums.unflatten(2, (norm.num_groups, -1)).sum(3)
        count = self.channels // norm.num_groups * self.height * self.width
        if whole_clip:
            sums, count = sums.sum(1, keepdim=True).expand_as(sums), count * self.frames
        mean = sums[0] / count
        deviation = (sums[1] / count - mean.square()).clamp(min=0).add(norm.eps).sqrt()
        per_channel = self.channels // norm.num_groups
        weight, bias = (cast(Tensor, t).detach().double().cpu() for t in (norm.weight, norm.bias))
        scale = weight / deviation.repeat_interleave(per_channel, 1)
        shift = bias - mean.repeat_interleave(per_channel, 1) * scale
        return scale.to(self.device, self.dtype), shift.to(self.device, self.dtype)

    def _offset(self, frame: int, rows: Rows) -> int:
        return (frame * self.height + rows[0]) * self._row_bytes


def _open_nameless_file(folder: Path, size: int) -> BinaryIO:
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `Parked.close` closes it
    file.truncate(size)
    return cast(BinaryIO, file)
