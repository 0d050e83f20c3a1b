"""Sampling against diffusers' StableVideoDiffusionPipeline: the same model, picture, steps and guidance, on the CPU.

    .venv/bin/python benchmarks/sampling.py

Each side runs in a process of its own, in turns, on one thread, and stops at the latents. Time is CPU time of the
sampling alone; memory is the peak above what the process held when the model was loaded, which is without the weights
that it has mapped and not read yet. The least of nine runs counts, or of three of the slower model.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image

from models.svd.model import load_model, save_model
from models.svd.sampling import sample_latents
from models.weights.names import TINY

MODELS = {"tiny": (8, 64, 64, 25), "medium": (8, 128, 192, 4)}
"""Frames, height, width and steps."""

ROUNDS = {"tiny": 9, "medium": 3}


def medium_model(folder: Path) -> Path:
    """The embedded model with a wider and deeper UNet of random weights."""
    model = load_model("tiny")
    torch.manual_seed(0)
    config = dict(model.unet.config) | {"block_out_channels": (96, 192), "num_attention_heads": (3, 6)}
    unet = UNetSpatioTemporalConditionModel.from_config(config | {"layers_per_block": 2})
    save_model(cast(Any, type(model))(**{**vars(model), "unet": unet}), folder)
    return folder


def ours(folder: Path, frames: int, height: int, width: int, steps: int) -> dict[str, float]:
    """CPU seconds, and MiB above the loaded model."""
    model = load_model(str(folder))
    picture = torch.rand(1, 3, height, width) * 2 - 1
    noise = torch.randn(1, *model.latent_shape(frames, height, width))
    return _measured(
        lambda: sample_latents(
            model, picture, noise, torch.randn_like(picture), [None], steps=steps, guidance=(1.0, 3.0)
        )
    )


def theirs(folder: Path, frames: int, height: int, width: int, steps: int) -> dict[str, float]:
    """The same of diffusers' pipeline."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((width, height), 64).convert("RGB")
    return _measured(
        lambda: pipeline(
            cast(Any, picture), height=height, width=width, num_frames=frames, num_inference_steps=steps,
            min_guidance_scale=1.0, max_guidance_scale=3.0, output_type="latent",
        )
    )  # fmt: skip


def _measured(work: Any) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, started = _peak(), time.process_time()
    work()
    return {"seconds": time.process_time() - started, "mib": _peak() - before}


def _peak() -> float:
    """The most memory this process has held, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def compared(name: str, folder: Path) -> str:
    """A row of the table."""
    least: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS[name]):
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, "--child", json.dumps([side, str(folder), *MODELS[name]])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            known = least.setdefault(side, found)
            least[side] = {key: min(known[key], found[key]) for key in found}
    mine, other = least["ours"], least["theirs"]
    frames, height, width, steps = MODELS[name]
    return (
        f"| {name}, {frames} frames of {width}x{height}, {steps} steps | {mine['seconds']:.1f} | "
        f"{other['seconds']:.1f} | {mine['seconds'] / other['seconds']:.2f} | {mine['mib']:.0f} | {other['mib']:.0f} | "
        f"{mine['mib'] / other['mib']:.2f} |"
    )


def main() -> None:
    """Measure, print and write benchmarks/sampling.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child")
    asked = parser.parse_args()
    if asked.child:
        torch.set_num_threads(1)
        side, folder, *numbers = json.loads(asked.child)
        print(json.dumps({"ours": ours, "theirs": theirs}[side](Path(folder), *numbers)))
        return
    lines = ["# Sampling", "", *(__doc__ or "").strip().splitlines(), ""]
    lines += [
        "| work | ours, s | diffusers, s | ratio | ours, MiB | diffusers, MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as folder:
        for name, where in {"tiny": TINY, "medium": medium_model(Path(folder))}.items():
            lines.append(compared(name, where))
            print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
