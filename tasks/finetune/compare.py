"""Compare: a page that shows a training beside the model that it started from: the error on clips that were held out,
by noise level, what generated clips measure, and the clips themselves, made of the same noise.

Every figure is of the training's log (tasks/finetune/train.py); nothing is generated here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from prefect import task

from tasks.manifest import ManifestRef, publish_text, read_lineage, read_rows
from tasks.pages.charts import draw_curves, draw_smoothed
from tasks.pages.page import embed_file, render

VERSION = 1

NEEDS = (
    "step", "loss", "held_out", "right_0.5", "right_2", "right_8", "right_30", "copy", "sharpness", "colour",
    "identity", "flicker", "frozen_share", "first_colour", "motion", "true_motion", "samples", "kept",
)  # fmt: skip
"""The columns that are read of a training's log."""

PAGE = Path("report/index.html")

TEMPLATE = Path(__file__).with_name("compare.html.j2")

BANDS = (
    ("right_0.5", "0.5", "detail"),
    ("right_2", "2", "shapes"),
    ("right_8", "8", "where things are"),
    ("right_30", "30", "how they move"),
)

MEASURES = (
    ("motion", "Motion, short sides per second", "as much as in the true clips"),
    ("first_colour", "First frame's colour shift, gray levels", "less is better"),
    ("sharpness", "Sharpness against the picture", "1 is as sharp"),
    ("colour", "Colour shift, gray levels", "less is better"),
    ("identity", "Likeness to the picture", "1 is the same"),
    ("flicker", "Flicker, gray levels", "less is better"),
    ("frozen_share", "Frozen frames, share", "less is better"),
)

Row = Mapping[str, Any]


class Compared(NamedTuple):
    """A figure of the base and of the result, with what it means."""

    name: str
    base: float
    result: float
    aside: str


class Shown(NamedTuple):
    """One held-out clip: the true one, the base's and the result's, as data URIs."""

    true: str
    base: str
    result: str


def choose_result(rows: Sequence[Row]) -> Row:
    """Return the row of the weights that were kept: the best look, or the last one."""
    return next((row for row in rows if row["kept"]), rows[-1])


def compare_bands(base: Row, result: Row) -> list[Compared]:
    """Return the squared errors on held-out clips by noise level; none where none were held out."""
    return [
        Compared(sigma, base[column], result[column], word)
        for column, sigma, word in BANDS
        if base[column] is not None and result[column] is not None
    ]


def compare_measures(base: Row, result: Row) -> list[Compared]:
    """Return what generated clips measure; nothing where none were generated."""
    rows = [
        Compared(title, base[column], result[column], aside)
        for column, title, aside in MEASURES
        if base[column] is not None and result[column] is not None
    ]
    true = base["true_motion"]
    return [row._replace(aside=f"{true:.2f} in the true clips") if "Motion" in row.name else row for row in rows]


def list_clips(folder: Path, base: Row, result: Row) -> list[Shown]:
    """Return the clips of two rows of the log, below `folder`, beside the true ones."""
    if not base["samples"] or not result["samples"]:
        return []
    names = sorted(path.name for path in (folder / base["samples"]).glob("*.mp4"))
    places = ("true", base["samples"], result["samples"])
    found = [[folder / place / name for place in places] for name in names]
    return [
        Shown._make(embed_file(path, "video/mp4") for path in each) for each in found if all(p.is_file() for p in each)
    ]


def draw_charts(rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Draw the loss by step, and the error on held-out clips where it was measured, with what they show."""
    made = list[tuple[str, Markup]]()
    losses = np.array([(row["step"], row["loss"]) for row in rows if row["loss"] is not None], float)
    if len(losses) > 1:
        drawn = draw_smoothed("loss", losses[:, 0], losses[:, 1], "step", "loss")
        made.append(("Loss as logged, and its mean over a tenth", drawn))
    held = np.array([(row["step"], row["held_out"]) for row in rows if row["held_out"] is not None], float)
    if len(held) > 1:
        drawn = draw_curves("held", {"held out": tuple(held.T)}, "step", "error")  # pyright: ignore[reportArgumentType]
        made.append(("Error on clips held out, weighted as the loss is", drawn))
    return made


def render_page(run: Path, log: ManifestRef) -> str:
    """Render the page of a training's log below the folder of its run."""
    rows, lineage = read_rows(log, NEEDS), read_lineage(log.path)
    base, result = rows[0], choose_result(rows)
    return render(
        TEMPLATE,
        figures=list_figures(rows, result, lineage.parameters),
        learned="A LoRA" if lineage.parameters.get("parameters") == "lora" else "All of the network",
        charts=draw_charts(rows),
        bands=compare_bands(base, result),
        copy=base["copy"],
        measures=compare_measures(base, result),
        clips=list_clips(run / "samples" / log.path.stem, base, result),
        held_out=base["held_out"] is not None,
        step=result["step"],
    )


def list_figures(rows: Sequence[Row], result: Row, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the headline figures: names, values, and notes beside them."""
    figures = [
        ("steps", str(rows[-1]["step"]), f"{settings.get('batch')} clips each"),
        ("step whose weights were kept", str(result["step"]), ""),
    ]
    if result["held_out"] is not None and rows[0]["held_out"]:
        change = 100 * (result["held_out"] / rows[0]["held_out"] - 1)
        figures.append(("error on held-out clips", f"{change:+.1f} %", "against the base"))
    return figures


@task(name="compare")
def write_comparison(run: Path, log: ManifestRef) -> Path:
    """Write the page of a training below the folder of its run; return its path."""
    publish_text(run / PAGE, render_page(run, log))
    return run / PAGE
