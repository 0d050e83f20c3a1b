"""What training on cached latents saves, and that stopping, sharing and encoding leave no trace.

`python -m benchmarks.train [--kills 10]` renders a dataset, trains the embedded model on it, prints tables as Markdown
and writes benchmarks/train.md. Each measurement runs in a process of its own, whose peak memory (VmHWM) is read less
that of a process that has only loaded the same libraries.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import load_file

from benchmarks.train_step import CACHED, INSIDE, LOADED
from models.device import format_device
from tasks.finetune.encode import ClipSpan, LatentsConfig, SourceClips, encode_source
from tasks.finetune.train import find_or_train, make_command, make_environment, train_apart
from tasks.finetune.train_config import HardwareConfig, TrainConfig
from tasks.finetune.train_process import Job
from tasks.finetune.train_process import train as train_here
from tasks.followed_process import follow
from tasks.footage import Camera, Motion, Scene, compute_mean_flow, render_shot
from tasks.manifest import Lineage, ManifestRef, digest_file, read_rows, write_manifest
from tasks.media.video import write_video

FPS, SIZE = 12.0, (256, 144)

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("camera_motion", pa.string()),
        ("motion_score", pa.float64()),
        ("keep", pa.bool_()),
    ]
)

MOTIONS: tuple[Motion, ...] = ("pan_right", "pan_left", "static", "zoom_in")

FILMS, FILM_S = 8, 4.0

FASTER, LESS = 2.0, 0.8
"""The bars: how many times faster a cached step is at least, and what share of the memory it takes at most."""

CPU = HardwareConfig(device="cpu")

HEAD = """# Training

    make bench-train
    .venv/bin/python -m benchmarks.train [--kills 10]

"""


class Data(NamedTuple):
    """An encoded dataset."""

    root: Path
    sources: list[SourceClips]
    encoded: list[ManifestRef]
    clips: ManifestRef


def render(root: Path, films: int, seconds: float) -> list[SourceClips]:
    """Films of one shot, one clip each."""
    made = []
    for number in range(films):
        path, motion = root / f"{number}.mp4", MOTIONS[number % len(MOTIONS)]
        frames = render_shot(Scene(730_000 + number), Camera.doing(motion), round(seconds * FPS), FPS, SIZE)
        write_video(path, frames, FPS)
        clip = ClipSpan(f"{motion}-{number}", 0.0, seconds, FPS, size=SIZE)
        made.append(SourceClips(path, digest_file(path), (clip,), "tiny"))
    return made


def make_data(root: Path) -> Data:
    """Render and encode a dataset."""
    sources = render(root, FILMS, FILM_S)
    encoded = [made for source in sources for made in encode_source(root, LatentsConfig(), source)]
    rows = [
        {"clip_id": clip.clip_id, "video_id": source.digest[:16], "camera_motion": clip.clip_id.rpartition("-")[0],
         "motion_score": compute_mean_flow("pan_right", 0.4), "keep": True}
        for source in sources for clip in source.clips
    ]  # fmt: skip
    clips = write_manifest(root / "clips.parquet", pa.Table.from_pylist(rows), Lineage(step="select", version=1))
    return Data(root, sources, encoded, clips)


def measure_step(data: Data, way: str) -> dict[str, float]:
    """Seconds of a step, and the peak memory of its process in MB, of a way of benchmarks/train_step.py."""
    said = json.dumps(
        {"root": str(data.root), "clips": data.clips.model_dump(mode="json"),
         "encoded": [ref.model_dump(mode="json") for ref in data.encoded],
         "films": [[str(s.source), s.clips[0].end_s] for s in data.sources]}
    )  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.train_step", way]
    made = subprocess.run(command, input=said, capture_output=True, text=True, check=True)
    return json.loads(made.stdout.splitlines()[-1])


def compare_steps(data: Data) -> Iterator[str]:
    """The table of a cached step and one that encodes."""
    loaded, cached, inside = (measure_step(data, way) for way in (LOADED, CACHED, INSIDE))
    own, other = (each["peak_mb"] - loaded["peak_mb"] for each in (cached, inside))
    faster, share = inside["seconds"] / cached["seconds"], own / other
    yield "## A step on cached latents, beside one that encodes its clips itself\n"
    yield "The embedded model, a LoRA of rank 16, 8 clips of 8 frames; the median of 5 steps, on one thread.\n"
    yield "| step | seconds of a core | peak memory, MB, above the loaded libraries |\n|---|---|---|"
    yield f"| cached | {cached['seconds']:.2f} | {own:.0f} |"
    yield f"| with decoding and encoding inside | {inside['seconds']:.2f} | {other:.0f} |"
    yield f"\n{faster:.1f} times faster (bar: {FASTER:g}), {share:.2f} of the memory (bar: {LESS:g}).\n"


def make_job(data: Data, run: Path, config: TrainConfig) -> ManifestRef:
    """Train in this process, straight."""
    return find_or_train(run, config, CPU, data.root, "tiny", data.encoded, data.clips, train_here)


def train_with_kills(
    data: Data, run: Path, config: TrainConfig, kills: int, seed: int
) -> tuple[ManifestRef, list[int]]:
    """Train in processes that are killed by SIGKILL after random steps, and at last to the end."""
    draw, at = random.Random(seed), []

    def work(job: Job) -> list[dict[str, Any]]:
        path = run / "checkpoints" / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.model_dump_json(), encoding="utf-8")
        at.extend(_kill_once(job, path, draw) for _ in range(kills))
        return train_apart(job)

    return find_or_train(run, config, CPU, data.root, "tiny", data.encoded, data.clips, work), at


def _kill_once(job: Job, path: Path, draw: random.Random) -> int:
    """Let a training make some steps, kill it, and return the last one that it told of."""
    pid, last, left = 0, 0, draw.randint(1, 4)
    with suppressed_death():
        for said in follow(make_command(job, path), make_environment(job.hardware), 600.0, "killed"):
            pid = said.get("pid", pid)
            if "loss" in said:
                last, left = said["step"], left - 1
                if not left:
                    time.sleep(draw.random() * 0.3)
                    os.kill(pid, signal.SIGKILL)
    return last


@contextmanager
def suppressed_death() -> Iterator[None]:
    """What is killed here has to die."""
    from models.errors import ProcessDied

    try:
        yield
    except ProcessDied:
        return


def compare_resumes(data: Data, home: Path, kills: int) -> Iterator[str]:
    """The table of trainings that were killed, and straight ones."""
    yield f"## Killed {kills} times by SIGKILL after random steps, and resumed\n"
    yield "| trained | killed after steps | tensors of the state that differ by a bit | log | result |"
    yield "|---|---|---|---|---|"
    for parameters in ("lora", "all"):
        config = TrainConfig(
            parameters=parameters, steps=40, batch=4, checkpoint_every=3, judge_every=20, samples=1, words=True
        )
        straight = make_job(data, home / f"straight-{parameters}", config)
        killed, at = train_with_kills(data, home / f"killed-{parameters}", config, kills, seed=3)
        states = [load_file(next((home / f"{n}-{parameters}/checkpoints").glob("*.safetensors"))) for n in WAYS]
        differ = sum(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
        results = [
            _read_weights(home / f"{n}-{parameters}", log) for n, log in zip(WAYS, (straight, killed), strict=True)
        ]
        same = "the same bytes" if results[0] == results[1] else "OTHER BYTES"
        told = "the same" if straight.digest == killed.digest else "DIFFERS"
        yield f"| {parameters} | {', '.join(map(str, at))} | {differ} of {len(states[0])} | {told} | {same} |"
    yield ""


WAYS = ("straight", "killed")


def _read_weights(run: Path, log: ManifestRef) -> list[bytes]:
    weights = run / read_rows(log, ("weights",))[0]["weights"]
    folder = weights.parent if weights.name == "model_index.json" else weights
    files = sorted(folder.rglob("*")) if folder.is_dir() else [weights]
    return [path.read_bytes() for path in files if path.is_file()]


def compare_processes(data: Data, home: Path) -> Iterator[str]:
    """The table of a batch that is shared, and one whole."""
    config = TrainConfig(steps=10, batch=8, judge_every=10, samples=0)
    ways = {
        "one process, the whole batch": (CPU, train_here),
        "one process, gradients of 2 parts accumulate": (CPU.model_copy(update={"accumulation": 2}), train_here),
        "two processes (DDP, gloo)": (CPU.model_copy(update={"processes": 2}), train_apart),
        "two processes, 2 parts each": (CPU.model_copy(update={"processes": 2, "accumulation": 2}), train_apart),
    }
    found: dict[str, tuple[dict[str, torch.Tensor], float]] = {}
    for number, (name, (hardware, by)) in enumerate(ways.items()):
        log = find_or_train(home / f"way-{number}", config, hardware, data.root, "tiny", data.encoded, data.clips, by)
        rows = read_rows(log)
        found[name] = load_file(home / f"way-{number}" / rows[0]["weights"]), rows[-1]["held_out"]
    (whole, judged), *_ = found.values()
    size = median(tensor.abs().mean().item() for tensor in whole.values())
    yield "## Two processes against gradients that accumulate\n"
    yield f"10 steps of 8 clips; the weights are {size:.3f} on average.\n"
    yield "| way | largest difference of a weight from the whole batch's | error on held-out clips |\n|---|---|---|"
    for name, (weights, error) in found.items():
        most = max((weights[each] - tensor).abs().max().item() for each, tensor in whole.items())
        yield f"| {name} | {most:.1e} | {error:.6f} (whole: {judged:.6f}) |"
    yield ""


def count_encoded(data: Data, sources: Sequence[SourceClips]) -> int:
    """How many clips are encoded when these are asked for."""
    return sum(not ref.cached for source in sources for ref in encode_source(data.root, LatentsConfig(), source))


def compare_encoding(data: Data) -> Iterator[str]:
    """The tables of what is encoded again, and of the memory that encoding takes."""
    again = count_encoded(data, data.sources)
    dropped = count_encoded(data, data.sources[1:])
    first = data.sources[0]
    added = replace(first, clips=(*first.clips, ClipSpan("added", 0.5, 2.5, FPS, size=SIZE)))
    more = count_encoded(data, [added, *data.sources[1:]])
    yield "## What is encoded again\n"
    yield "| change | clips encoded |\n|---|---|"
    yield f"| none | {again} |\n| a clip is dropped | {dropped} |\n| a clip is added | {more} |\n"
    yield "## Memory of encoding one clip, by its windows\n"
    yield "| windows | length, s | peak memory, MB |\n|---|---|---|"
    for windows, seconds in ((1, 2.0), (8, 12.0), (64, 90.0)):
        peak = _measure_encoding(data.root / f"long-{windows}", windows, seconds)
        yield f"| {windows} | {seconds:g} | {peak:.0f} |"
    yield ""


def _measure_encoding(folder: Path, windows: int, seconds: float) -> float:
    (source,) = render(folder, 1, seconds)
    command = [sys.executable, "-m", "benchmarks.train_step", "encode", str(source.source), str(seconds), str(windows)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(made.stdout.splitlines()[-1])["peak_mb"]


def main() -> None:
    """Measure everything, print it and write benchmarks/train.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = make_data(home / "data")
        lines = [HEAD]
        parts = (
            compare_steps(data),
            compare_encoding(data),
            compare_processes(data, home),
            compare_resumes(data, home, kills),
        )
        for part in parts:
            for line in part:
                print(line, flush=True)
                lines.append(line)
    device = format_device(torch.device("cpu"))
    lines.append(f"Measured on {device}, {os.cpu_count()} cores, while other work ran beside it; memory is as stated.")
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
