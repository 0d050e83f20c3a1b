"""Charts as inline SVG: pure functions of numbers; the same numbers give the same bytes.

Their colours are the page's, so that they follow its light and dark look; their text is in the page's font. `name` must
be one word, different for each chart of a page: it keeps the charts' inner ids apart.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Values = NDArray[np.floating]

COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--soft)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--faint)",
}
"""Colours that matplotlib draws with, and what replaces them in the page."""

INK, SOFT, LINE, ACCENT, FAINT = COLOURS

SIZE = (4.4, 2.45)
"""Width and height in inches; the page stretches a chart to its place."""

SETTINGS: Any = {"svg.fonttype": "none", "font.size": 9.6, "axes.linewidth": 0.8, "path.simplify": False}


def draw_curves(name: str, lines: Mapping[str, tuple[Values, Values]], x_label: str, y_label: str) -> Markup:
    """Draw lines by their names, each from its x and y; the first one in the accent colour."""
    figure, axes = _make_figure()
    for rank, (label, (x, y)) in enumerate(lines.items()):
        style = (
            {"color": ACCENT, "linewidth": 2.0} if rank == 0 else {"color": SOFT, "linewidth": 1.4, "linestyle": "--"}
        )
        axes.plot(x, y, label=label, **style)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(x=0.01)
    if len(lines) > 1:
        axes.legend(frameon=False, labelcolor=SOFT, fontsize="medium")
    return _render_svg(figure, name, f"{y_label} by {x_label}: {', '.join(lines)}")


def draw_smoothed(name: str, x: Values, y: Values, x_label: str, y_label: str) -> Markup:
    """Draw one noisy line, faint, and over it its mean over about a tenth of its points."""
    figure, axes = _make_figure()
    axes.plot(x, y, color=FAINT, linewidth=1.0)
    axes.plot(x, smooth(y, max(1, len(y) // 20)), color=ACCENT, linewidth=2.0)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    first, last = (float(y[0]), float(y[-1])) if len(y) else (0.0, 0.0)
    return _render_svg(figure, name, f"{y_label} by {x_label}: from {first:.3f} to {last:.3f}")


def smooth(values: Values, reach: int) -> Values:
    """Return the mean of each value and its neighbours up to `reach` away; at the ends, of the neighbours that
    exist."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    start, end = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _make_figure() -> tuple[Figure, Axes]:
    with rc_context(SETTINGS):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=SOFT, length=0)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _render_svg(figure: Figure, name: str, title: str) -> Markup:
    """Return the figure as an element of the page, without a fixed size, colours, fonts or dates of its own."""
    sink = io.StringIO()
    with rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"#0[1-5]0[1-5]0[1-5]\b", lambda colour: COLOURS.get(colour[0], colour[0]), text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', _make_opening(title), text, count=1)
    return Markup(text)  # noqa: S704 -- matplotlib escapes what it writes


def _make_opening(title: str) -> str:
    safe = str(escape(title)).replace("\\", r"\\")
    return rf'<svg class="chart" role="img" aria-label="{safe}" \1 xmlns:xlink="http://www.w3.org/1999/xlink">'
