"""Small curves for a page: one line over a clip's frames, its limits, and where the clip stops being good.

Plain SVG in the page's colours, a few hundred bytes each, because a gallery contains thousands.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT, MARGIN = 120.0, 34.0, 2.0


def draw_spark(
    values: Sequence[float], top: float, label: str, limits: Sequence[float] = (), end: int | None = None
) -> Markup:
    """Draw a curve from 0 to `top`, or to its own largest value if that is more; `label` is for screen readers.

    `limits` are drawn across; `end` is the number of good frames, marked where it is less than all.
    """
    highest = max([top, *values]) or 1.0
    last = max(len(values) - 1, 1)
    points = [(_scale_x(i / last), _scale_y(value / highest)) for i, value in enumerate(values)]
    lines = [
        _draw_line("limit", _scale_x(0), _scale_y(limit / highest), _scale_x(1), _scale_y(limit / highest))
        for limit in limits
        if limit < highest
    ]
    if end is not None and end < len(values):
        lines.append(_draw_line("end", _scale_x(end / last), 0, _scale_x(end / last), HEIGHT))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup(  # noqa: S704 -- numbers, and an escaped label
        f'<svg class="spark" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
        f'preserveAspectRatio="none">{"".join(lines)}<polyline points="{path}"/></svg>'
    )


def _draw_line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _scale_x(share: float) -> float:
    return MARGIN + share * (WIDTH - 2 * MARGIN)


def _scale_y(share: float) -> float:
    return HEIGHT - MARGIN - min(max(share, 0.0), 1.0) * (HEIGHT - 2 * MARGIN)
