"""The demo's page: how the footage was curated, what was trained on it, and what the model made from new pictures.

Every figure is measured. The page contains all its pictures and videos, and links to the dataset's report and the
galleries beside it.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from prefect import task

from tasks.manifest import ManifestRef, publish_text, read_lineage, read_manifest, read_rows
from tasks.pages.dataset import Dataset, FunnelChart, describe_decoding, make_funnel, read_dataset
from tasks.pages.page import embed_file, format_count, format_words, render
from tasks.pages.sheets import Reel, make_kept_sheets

VERSION = 1

PAGE = Path("index.html")

TEMPLATE = Path(__file__).with_name("page.html.j2")

NEEDS = (
    "name",
    "take",
    "status",
    "picture",
    "video",
    "motion_asked",
    "motion_measured",
    "camera_strength",
    "error_message",
)
"""The columns that are read from the generated clips."""

CLIPS_PER_MOTION = 3
"""The number of kept clips shown for each camera motion; the dataset's report shows more."""

PICTURES = 24
"""The most pictures shown with their videos."""

REPORT = Path("report/index.html")
"""The path of a dataset's report and of a run's gallery in their folders."""

Clips = Mapping[str, Any]


class Trial(NamedTuple):
    """One way to use the model: its name, its folder, and the rows of its clips."""

    name: str
    folder: Path
    clips: list[dict[str, Any]]


class Asked(NamedTuple):
    """One requested motion in one trial: `met` of `clips` clips showed it, `others` counts the other motions, most
    frequent first. `motion` is None where none was requested; speed: the camera's mean, in short sides per second."""

    trial: str
    motion: str | None
    clips: int
    met: int
    others: list[tuple[str, int]]
    speed: float


def read_trials(outputs: Mapping[str, ManifestRef]) -> list[Trial]:
    """Read the generated clips of each run, by the runs' names."""
    titles = ((name[:1].upper() + name[1:], ref) for name, ref in outputs.items())
    return [Trial(title, ref.path.parent, read_rows(ref, NEEDS)) for title, ref in titles]


def compare_motions(trial: Trial) -> list[Asked]:
    """Compare the requested motions of one trial with the measured ones, a row for each requested motion."""
    made = [clip for clip in trial.clips if clip["status"] == "ok"]
    asked = sorted({clip["motion_asked"] for clip in made}, key=lambda motion: motion or "")
    return [_count_motion(trial.name, motion, [c for c in made if c["motion_asked"] == motion]) for motion in asked]


def _count_motion(trial: str, motion: str | None, clips: Sequence[Clips]) -> Asked:
    seen = Counter(format_words(clip["motion_measured"]) for clip in clips)
    met = seen.pop(format_words(motion), 0) if motion else 0
    others = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))
    speeds = [clip["camera_strength"] for clip in clips if clip["camera_strength"] is not None]
    return Asked(trial, motion, len(clips), met, others, float(np.mean(speeds)) if speeds else 0.0)


def make_picture_rows(trials: Sequence[Trial], cap: int = PICTURES) -> list[dict[str, Any]]:
    """Return for each picture, by name, its data URI and a cell for each trial: the clip with its video's data URI, or
    why there is none."""
    by_name = [{clip["name"]: clip for clip in reversed(trial.clips) if not clip["take"]} for trial in trials]
    names = sorted({name for clips in by_name for name in clips})[:cap]
    return [
        {
            "name": name,
            "picture": _encode_picture(name, trials, by_name),
            "cells": [_make_cell(trial, clips.get(name)) for trial, clips in zip(trials, by_name, strict=True)],
        }
        for name in names
    ]


def _encode_picture(name: str, trials: Sequence[Trial], by_name: Sequence[Mapping[str, Clips]]) -> str | None:
    found = (t.folder / clips[name]["picture"] for t, clips in zip(trials, by_name, strict=True) if _has(clips, name))
    path = next(found, None)
    return embed_file(path, "image/png") if path else None


def _has(clips: Mapping[str, Clips], name: str) -> bool:
    return name in clips and bool(clips[name]["picture"])


def _make_cell(trial: Trial, clip: Clips | None) -> dict[str, Any]:
    if clip is None or clip["status"] != "ok":
        reason = clip["error_message"] if clip else "not asked for"
        return {"trial": trial.name, "video": None, "reason": reason}
    asked, measured = clip["motion_asked"], clip["motion_measured"]
    video = embed_file(trial.folder / clip["video"], "video/mp4")
    met = asked is not None and asked == measured
    return {"trial": trial.name, "video": video, "measured": measured, "met": met, "speed": clip["camera_strength"]}


def count_confusion(evaluation: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the measured classes, and for each requested motion its counts and its shares in their order."""
    by_motion = evaluation["by_motion"]
    seen = {name for facts in by_motion.values() for name in facts["measured"]}
    columns = [*by_motion, *sorted(seen - set(by_motion))]
    rows = [
        {
            "motion": motion,
            **{name: facts[name] for name in ("asked", "right", "speed_asked", "speed_measured")},
            "cells": [(name == motion, _compute_share(facts, name)) for name in columns],
        }
        for motion, facts in by_motion.items()
    ]
    return columns, rows


def _compute_share(facts: Mapping[str, Any], name: str) -> float:
    return facts["measured"].get(name, 0) / max(facts["asked"], 1)


def draw_loss(log: ManifestRef) -> Markup:
    """Draw the training's loss by step."""
    from tasks.pages.charts import draw_smoothed

    table = read_manifest(log, ("step", "loss")).drop_null()
    steps, losses = (table[name].to_numpy().astype(float) for name in ("step", "loss"))
    return draw_smoothed("loss", steps, losses, "step", "loss")


def draw_frame_psnr(evaluation: Mapping[str, Any]) -> Markup | None:
    """Draw the PSNR of each generated frame, and that of repeating the picture; None without such figures."""
    from tasks.pages.charts import draw_curves

    if not evaluation.get("frame_psnr_db"):
        return None
    lines = {"generated": evaluation["frame_psnr_db"], "picture repeated": evaluation["copy_frame_psnr_db"]}
    # The first frame of the copy is the picture itself; its PSNR would press all others to the bottom.
    spans = {"generated": 0, "picture repeated": 1}
    points = {n: (np.arange(spans[n], len(v)) + 1.0, np.array(v[spans[n] :], float)) for n, v in lines.items()}
    return draw_curves("frames", points, "frame", "PSNR, dB")


def list_figures(
    funnel: FunnelChart, dataset: Dataset, trials: Sequence[Trial], lineage: Mapping[str, Any]
) -> list[tuple]:
    """Return the headline figures of the page: names, values, and notes beside them."""
    asked = [row for trial in trials for row in compare_motions(trial) if row.motion]
    made = sum(clip["status"] == "ok" for trial in trials for clip in trial.clips)
    return [
        ("source files", str(len(dataset.videos)), ""),
        ("clips kept", str(funnel.kept), f"of {funnel.clips}"),
        ("training steps", str(lineage.get("steps", "")), ""),
        ("videos made", str(made), ""),
        ("moved as asked", str(sum(row.met for row in asked)), f"of {sum(row.clips for row in asked)}"),
    ]


def has_held_out(log: ManifestRef) -> bool:
    """Return whether sources were held out of a training: its log has the errors on them."""
    return any(row["right_8"] is not None for row in read_rows(log, ("right_8",)))


def list_training_figures(log: ManifestRef, lineage: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the headline figures of the training; figures that its settings do not have are left out."""
    losses = read_manifest(log, ("loss",))["loss"].drop_null().to_pylist()
    named = [("steps", "steps"), ("clips per step", "batch"), ("rank", "rank")]
    known = [(title, str(lineage[name]), "") for title, name in named if lineage.get(name) is not None]
    return [*known, ("loss at the end", f"{losses[-1]:.3f}", f"from {losses[0]:.3f}")] if losses else known


def describe_training(dataset: Dataset, lineage: Mapping[str, Any], held_out: bool = False) -> str:
    """Describe the clips that the LoRA was trained on: "13 clips that curation labelled pan right"; `held_out`: but for
    those of whole sources that it was measured on."""
    motions = lineage.get("motions") or ()
    labels = dataset.clips["camera_motion"].to_pylist()
    used = sum(keep and (not motions or label in motions) for keep, label in zip(dataset.keep, labels, strict=True))
    labelled = f" that curation labelled {' or '.join(map(format_words, motions))}" if motions else ""
    rest = " (but for those of one source in twenty, at least one, by which it was measured)" if held_out else ""
    return format_count(used, "clip") + labelled + rest


def list_links(out: Path, clips: ManifestRef, trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Return the names and addresses, relative to the page, of the report and of the galleries."""
    folders = {"The dataset's report": clips.path.parent} | {f"Gallery: {t.name}": t.folder for t in trials}
    return [(name, _make_address(out, folder / REPORT)) for name, folder in folders.items()]


def _make_address(out: Path, target: Path) -> str:
    return quote(Path(os.path.relpath(target.resolve(), out.resolve())).as_posix())


def render_page(
    out: Path,
    clips: ManifestRef,
    train_log: ManifestRef,
    outputs: Mapping[str, ManifestRef],
    evaluation: Mapping[str, Any],
) -> str:
    """Render the page for the folder `out`; see `write_page`."""
    dataset, trials = read_dataset(clips), read_trials(outputs)
    lineage, funnel = read_lineage(train_log.path).parameters, make_funnel(dataset)
    columns, matrix = count_confusion(evaluation) if evaluation else ([], [])
    return render(
        TEMPLATE,
        figures=list_figures(funnel, dataset, trials, lineage),
        decoding=describe_decoding(dataset),
        funnel=funnel,
        kept=make_kept_sheets(Reel(dataset), CLIPS_PER_MOTION),
        trained_on=describe_training(dataset, lineage, has_held_out(train_log)),
        training=list_training_figures(train_log, lineage),
        loss=draw_loss(train_log),
        trials=[trial.name for trial in trials],
        pictures=make_picture_rows(trials),
        asked=[row for trial in trials for row in compare_motions(trial)],
        evaluation=evaluation,
        frames=draw_frame_psnr(evaluation),
        columns=columns,
        matrix=matrix,
        links=list_links(out, clips, trials),
    )


@task(name="demo page")
def write_page(
    out: Path,
    clips: ManifestRef,
    train_log: ManifestRef,
    outputs: dict[str, ManifestRef],
    evaluation: dict[str, Any],
) -> Path:
    """Write `out`/index.html and return its path.

    `clips` is a dataset's clips.parquet, `train_log` the manifest of a training, `outputs` the tables of runs of
    generate by the names to show them under, in order; `evaluation` the figures of tasks/tiny/evaluate.py, or nothing.
    """
    publish_text(out / PAGE, render_page(out, clips, train_log, outputs, evaluation))
    return out / PAGE
