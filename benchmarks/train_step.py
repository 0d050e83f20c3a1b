"""One measurement of benchmarks/train.py, in a process of its own: a step on cached latents, one that decodes and
encodes its clips itself, the encoding of a clip, or nothing but the libraries. The last line is JSON."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.memory import peak_mb
from models.generation.model_cache import get_model
from models.svd.model import load_model, read_setting
from models.svd.training import TrainingBatch
from tasks.finetune.encode import ClipSpan, LatentsConfig, SourceClips, encode_source, encode_windows
from tasks.finetune.train_config import HardwareConfig, TrainConfig, settle
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.finetune.training_run import Training
from tasks.finetune.windows import SEEN_WHOLE, WindowShape, read_windows
from tasks.manifest import ManifestRef, digest_file

LOADED, CACHED, INSIDE = "loaded", "cached", "inside"

STEPS = 5


class EncodingExamples(Examples):
    """Examples whose clips are decoded and encoded when a batch asks for them, as trainers without a cache do."""

    def __init__(self, cached: Examples, model: Any, films: list[Any]) -> None:
        super().__init__(cached.all, cached.scaling_factor)
        self.model, self.films = model, {Path(path).stem: (Path(path), end) for path, end in films}

    def batch(self, indices: Any, draw: int) -> TrainingBatch:
        """Decode and encode the windows at `indices`."""
        rows = [self._encode(i, draw) for i in indices]
        chosen = [self.all[i] for i in indices]
        ids = [[e.shape.fps - 1, e.motion_bucket, float(r["sigmas"][0, 0])] for e, r in zip(chosen, rows, strict=True)]
        return TrainingBatch(
            latents=torch.cat([r["latents"] for r in rows]).float() * self.scaling_factor,
            pictures=torch.cat([r["pictures"][:, 0] for r in rows]).float(),
            embeddings=torch.cat([r["embeddings"] for r in rows]).float(),
            ids=torch.tensor(ids),
            motions=[e.motion for e in chosen],
        )

    def _encode(self, index: int, draw: int) -> dict[str, torch.Tensor]:
        example = self.all[index]
        path, end = self.films[example.clip_id.rpartition("-")[2]]
        shape = WindowShape(*example.shape[:1], example.shape.fps, example.shape.width, example.shape.height)
        start = 0.5 * example.row
        windows = read_windows(path, [start], (0.0, end), path.name, shape, None, SEEN_WHOLE)
        return encode_windows(self.model, windows, LatentsConfig(condition_draws=1), draw)


def set_up(way: str, told: dict[str, Any]) -> Training:
    """A training of the embedded model on the dataset."""
    model = load_model("tiny")
    encoded = [ManifestRef.model_validate(each) for each in told["encoded"]]
    clips = ManifestRef.model_validate(told["clips"])
    chosen = gather_examples(Path(told["root"]), encoded, clips, ExampleChoice())
    examples = Examples(chosen, read_setting(model.vae, "scaling_factor"))
    if way == INSIDE:
        examples = EncodingExamples(examples, load_model("tiny"), told["films"])
    config = settle(TrainConfig(batch=8, samples=0), model.facts)
    return Training(model, examples, config, HardwareConfig(device="cpu"))


def measure(work: Callable[[], Any]) -> float:
    """The median of some calls' seconds of one core, after one that is not counted: other work does not slow them."""
    work()
    spent = []
    for _ in range(STEPS):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return median(spent)


def encode_one(film: Path, seconds: float, windows: int) -> None:
    """Encode a clip of so many windows with the embedded model."""
    source = SourceClips(film, digest_file(film), (ClipSpan("one", 0.0, seconds),), "tiny")
    get_model("tiny")
    with tempfile.TemporaryDirectory() as folder:
        (made,) = encode_source(Path(folder), LatentsConfig(windows_per_clip=windows), source)
        assert made.rows == windows


def main(way: str, *more: str) -> None:
    """Do one measurement and print it."""
    torch.set_num_threads(1)
    seconds = 0.0
    if way == "encode":
        encode_one(Path(more[0]), float(more[1]), int(more[2]))
    else:
        told = json.loads(sys.stdin.read())
        seconds = measure(set_up(way, told).step) if way != LOADED else 0.0
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb("self")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
