"""The embedded model's UNet and motion words, trained on the encoded shots, in sittings (tasks/tiny/sitting.py).

The manifest is the curve of all sittings: the mean loss since the row before, and on held-out scenes without movers the
PSNR of the first frame and of the last one where it is still in view, in dB, and the share of clips that are measured
to move as asked. `hours` are those of one core. The model is saved with the moving average of the weights. A model that
was trained elsewhere goes on from its weights: the steps it has had are in its folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from prefect import task
from safetensors import safe_open

from models.measures.camera import measure_motion
from models.svd.model import ModelFacts, VideoModel, load_facts, load_model, save_model
from models.svd.sampling import decode_latents
from models.weights.names import find_revision
from tasks.caching import Step, find_or_compute
from tasks.manifest import ManifestRef, make_table, publish_folder, read_rows
from tasks.tiny.figures import average_db
from tasks.tiny.held_out import Asked, find_in_view, measure_errors, render_truth, sample_asked, trace_clip
from tasks.tiny.shots import Item, load_items
from tasks.tiny.sitting import MOTIONS, STATE, Curve, Sitting, SittingConfig

VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32()),
        pa.field("hours", pa.float64()),
        pa.field("loss", pa.float64()),
        pa.field("first_frame_psnr_db", pa.float64()),
        pa.field("last_frame_psnr_db", pa.float64()),
        pa.field("obeyed", pa.float64()),
        pa.field("model", pa.string()),
    ]
)

STEP = Step("train", VERSION, SCHEMA, files=("model",))

SCENES, FIRST_SCENE, SPEED, SAMPLING_STEPS = 3, 1000, 0.5, 10
"""What the curve is measured on: other held-out scenes than those of the evaluation."""


@torch.no_grad()
def measure(model: VideoModel) -> dict[str, float]:
    """Return the figures of the curve; see the module's docstring."""
    clips = [clip for motion in MOTIONS for clip in _measure_one(model, Asked(motion, SPEED, SAMPLING_STEPS))]
    return {
        "first_frame_psnr_db": average_db([first for first, _, _, _ in clips]) or 0.0,
        "last_frame_psnr_db": average_db([last for _, last, _, motion in clips if motion != "static"]) or 0.0,
        "obeyed": float(np.mean([right for _, _, right, _ in clips])),
    }


def _measure_one(model: VideoModel, asked: Asked) -> Iterator[tuple[float, float, bool, str]]:
    scenes = range(FIRST_SCENE, FIRST_SCENE + SCENES)
    truths = [render_truth(scene, asked.motion, asked.speed, model, movers=0) for scene in scenes]
    seen = find_in_view(trace_clip(asked.motion, asked.speed, model))
    latents = sample_asked(model, asked, [str(scene) for scene in scenes], [truth[0] for truth in truths])
    times = [i / model.facts.fps for i in range(model.facts.frames)]
    for truth, clip in zip(truths, latents, strict=True):
        frames = decode_latents(model, clip)
        errors = measure_errors(frames, truth, seen)
        yield errors[0], errors[-1], measure_motion(frames, times).motion == asked.motion, asked.motion


def count_steps(base: Path, state: Path) -> int:
    """Return how many steps a training has had: as its state says, or else its base."""
    if (state / STATE).is_file():
        with safe_open(state / STATE, "pt") as file:
            return int(file.get_tensor("step"))
    curve = read_curve(load_facts(base)).rows
    return curve[-1]["step"] if curve else 0


def read_files(root: Path, latents: Sequence[ManifestRef]) -> Iterator[list[Item]]:
    """Yield the items of each file of encoded shots, when it is asked for."""
    return (load_items(root, read_rows(each)) for each in latents)


def read_curve(facts: ModelFacts) -> Curve:
    """Return the curve of the sittings that a model has had, from its lineage; an empty one where it had none."""
    told = facts.lineage.get("curve", [])
    return Curve([dict(row) for row in told], told[-1]["hours"] if told else 0.0)


def hold_sitting(
    run: Path, key: str, base: Path, latents: Sequence[ManifestRef], state: Path, config: SittingConfig
) -> pa.Table:
    """Hold one sitting, and save the model it ends in to `models/KEY` below `run`; return the curve."""
    model = load_model(str(base))
    sitting = Sitting(model, read_files(run, latents), config, read_curve(model.facts))
    sitting.run(state, measure)
    name = f"models/{key}"
    save_sitting(sitting, run / name, {"run": key, "base": base.name, "base_revision": model.revision})
    return make_table([row | {"model": f"{name}/model_index.json"} for row in sitting.curve.rows], SCHEMA)


def save_sitting(sitting: Sitting, folder: Path, lineage: Mapping[str, Any]) -> None:
    """Write the model that a sitting ended in, with its lineage: the settings and the curve."""
    told = dict(lineage) | {"sitting": sitting.config.model_dump(mode="json"), "curve": sitting.curve.rows}
    model = sitting.average()
    with publish_folder(folder) as aside:
        save_model(replace(model, facts=model.facts.model_copy(update={"lineage": told})), aside)


@task(name="train")
def train_unet(
    run: Path, config: SittingConfig, base: Path, latents: list[ManifestRef], state: Path, begun: int
) -> ManifestRef:
    """Train the UNet of the model in `base` on the encoded shots below `run`, from the state in the folder `state`,
    which had `begun` steps; the manifest is the curve, and names the model."""
    return find_or_compute(
        STEP,
        run,
        config,
        [*latents, f"from step {begun}"],
        lambda key: hold_sitting(run, key, base, latents, state, config),
        find_revision(str(base)),
    )
