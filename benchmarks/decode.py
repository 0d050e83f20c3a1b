"""Decoding with Stable Video Diffusion's full-size temporal decoder (random weights, CPU, float32): how far each way is
from decoding the clip whole, what memory it peaks at and what it costs.

    .venv/bin/python benchmarks/decode.py [--large]

Each row runs in a process of its own. The truth is `exact` in float64 (the whole decode in float64 is the same to
1e-13): decoding whole in float32 has an error of its own, most of it that of torch's group normalisation, which sums up
millions of values in float32 where channels lie last in memory. `whole*` is the whole decode with its sums in float64,
as `exact` has them. `--large` adds 14 frames of 576x1024 (about half an hour).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.svd.exact_decode import Room, decode_exactly

MIB = 2**20

SMALL, LARGE = (8, 256, 448), (14, 576, 1024)

WAYS = ["truth", "whole", "whole*", "chunks 4", "chunks 2", "exact 64", "exact 256", "exact 1024"]


def full_size() -> AutoencoderKLTemporalDecoder:
    """SVD's autoencoder, with seeded weights."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * 4),
        block_out_channels=cast(Any, (128, 256, 512, 512)),
        layers_per_block=2,
        latent_channels=4,
    )
    for name, value in vae.named_parameters():
        if name.endswith("mix_factor"):
            value.data.fill_(0.5)
    return vae.eval()


@torch.no_grad()
def run(way: str, size: tuple[int, int, int], folder: Path, out: Path) -> dict[str, float]:
    """Decode in this process: MiB at the peak, seconds of CPU."""
    frames, height, width = size
    vae = full_size()
    latents = torch.randn(frames, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    started = time.process_time()
    kind, _, number = way.partition(" ")
    if kind == "whole*":
        for norm in (each for each in vae.modules() if isinstance(each, nn.GroupNorm)):
            cast(Any, norm).forward = partial(normalised, norm)
    if kind == "truth":
        vae, latents = vae.double(), latents.double()
    if kind in ("truth", "exact"):
        made = decode_exactly(vae, latents, Room(int(number or 256) * MIB, folder))
    else:
        size_of_chunk = int(number or frames)
        chunks = latents.split(size_of_chunk)
        made = torch.cat([cast(Any, vae.decode(cast(Any, c), num_frames=len(c))).sample for c in chunks])
    facts = {"peak": _peak(), "seconds": time.process_time() - started}
    np.save(out, made.numpy())
    return facts


def normalised(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Group normalisation whose mean and variance are summed in float64."""
    groups = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups.double(), dim=2, correction=0, keepdim=True)
    alike = ((groups - mean.to(x.dtype)) * (variance + norm.eps).rsqrt().to(x.dtype)).view_as(x)
    weight, bias = (each.view(1, -1, *(1,) * (x.ndim - 2)) for each in (norm.weight, norm.bias))
    return alike * weight + bias


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(way: str, size: tuple[int, int, int], folder: Path) -> tuple[dict[str, float], np.ndarray]:
    """A way's figures and frames, from a process of its own."""
    out = folder / "frames.npy"
    command = [sys.executable, __file__, "--child", json.dumps([way, size, str(folder), str(out)])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def table(size: tuple[int, int, int], ways: list[str]) -> list[str]:
    """A Markdown table; the first way is what the others are compared with."""
    frames, height, width = size
    lines = [f"## {frames} frames of {width}x{height}\n"]
    lines += ["| way | largest from truth | mean, deviations | largest from whole | from whole* | peak, MiB | CPU, s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    made: dict[str, np.ndarray] = {}
    with TemporaryDirectory() as folder:
        for way in ways:
            facts, frames_made = measured(way, size, Path(folder))
            made[way.partition(" ")[0]] = frames_made
            lines.append(f"| {way} | {_apart(made, frames_made)} | {facts['peak']:.0f} | {facts['seconds']:.0f} |")
            print(lines[-1], flush=True)
    return [*lines, ""]


def _apart(made: dict[str, np.ndarray], frames: np.ndarray) -> str:
    """How far frames are from the truth and from the whole decodes, where those were made."""
    truth = made.get("truth")
    mean = "" if truth is None else f"{np.abs(frames - truth).mean() / truth.std():.3f}"
    largest = (f"{np.abs(frames - made[way]).max():.2e}" if way in made else "" for way in ("truth", "whole", "whole*"))
    from_truth, *from_whole = largest
    return " | ".join([from_truth, mean, *from_whole])


def main() -> None:
    """Measure, print and write benchmarks/decode.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        way, size, folder, out = json.loads(asked.child)
        print(json.dumps(run(way, tuple(size), Path(folder), Path(out))))
        return
    lines = table(SMALL, WAYS)
    if asked.large:
        lines += table(LARGE, ["exact 256"])
    head = ["# Decoding", "", *(__doc__ or "").strip().splitlines(), "", "`exact N`: strips in N MiB.", ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(head + lines), encoding="utf-8")


if __name__ == "__main__":
    main()
