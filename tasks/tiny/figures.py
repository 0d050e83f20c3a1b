"""The figures of an evaluation, and the bars that an embedded model is held to.

Figures are means over clips. PSNR is in dB, higher is better, and counts where the picture is still in view; that of
the last frame is of clips whose camera moves, that of a still clip of its last frame. The copy of the picture and the
oracle that moves its pixels have the same figures beside the model's.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.measures.psnr import psnr
from tasks.manifest import ManifestRef, read_rows

MOST_DB = psnr(1e-6)
"""What a frame without any error is worth, so that means over frames are finite."""

BARS: Mapping[str, float] = {
    "pictures": 60,
    "first_frame_psnr_db": 26.0,
    "last_frame_psnr_db": 21.0,
    "still_psnr_db": 25.0,
    "obeyed": 0.95,
    "least_obeyed": 0.9,
    "speed_share": 0.7,
}
"""What the clips without movers must reach: pictures; PSNR of the first frame, of the last one in view, of a still
clip; the share of clips that are measured to move as asked, over all motions and of the worst one; and the share of the
asked speed that moving cameras reach."""

Rows = Sequence[Mapping[str, Any]]


def read_figures(manifest: ManifestRef) -> dict[str, Any]:
    """Return the figures of an evaluation's manifest."""
    return compute_figures(read_rows(manifest))


def compute_figures(rows: Rows) -> dict[str, Any]:
    """Return the figures of an evaluation, in dB, shares and counts; see the module's docstring."""
    judged = [row for row in rows if not row["movers"]] or rows
    own = sum_up(judged, "seen_errors", "measured", "speed_measured")
    return {
        "pictures": len({row["scene"] for row in judged}),
        "clips": len(rows),
        "autoencoder_psnr_db": average_db(
            [row["reconstruction_error"] for row in rows if row["reconstruction_error"] is not None]
        ),
        **own,
        "missed": list_missed(own | {"pictures": len({row["scene"] for row in judged})}),
        "copy": sum_up(judged, "copy_errors", "copy_measured", None),
        "oracle": sum_up(judged, "oracle_errors", "true_measured", "speed_asked"),
        "with_movers": sum_up([row for row in rows if row["movers"]], "seen_errors", "measured", "speed_measured"),
        "frame_psnr_db": average_frames(judged, "seen_errors"),
        "copy_frame_psnr_db": average_frames(judged, "copy_errors"),
        "by_motion": {
            motion: summarise_motion(judged, motion) for motion in dict.fromkeys(row["asked"] for row in judged)
        },
    }


def sum_up(rows: Rows, errors: str, measured: str, speed: str | None) -> dict[str, Any]:
    """Return the figures that BARS is about, of rows, of the columns that hold errors, what was measured and how fast;
    None where no row has what a figure is of."""
    moving = [row for row in rows if row["asked"] != "static"]
    still = [row for row in rows if row["asked"] == "static"]
    obeyed = {row["asked"]: [] for row in rows}
    for row in rows:
        obeyed[row["asked"]].append(row["asked"] == row[measured])
    shares = [row[speed] / row["speed_asked"] if speed else 0.0 for row in moving]
    return {
        "first_frame_psnr_db": average_db([row[errors][0] for row in rows]),
        "last_frame_psnr_db": average_db([row[errors][-1] for row in moving]),
        "still_psnr_db": average_db([row[errors][-1] for row in still]),
        "obeyed": _average([share for own in obeyed.values() for share in own]),
        "least_obeyed": min((float(np.mean(own)) for own in obeyed.values()), default=None),
        "speed_share": _average(shares),
    }


def list_missed(figures: Mapping[str, Any]) -> list[str]:
    """Return the names of the bars that figures miss; a figure that there is none of is missed."""
    return [name for name, bar in BARS.items() if figures.get(name) is None or figures[name] < bar]


def summarise_motion(rows: Rows, motion: str) -> dict[str, Any]:
    """Return what became of the clips that were asked for one motion."""
    those = [row for row in rows if row["asked"] == motion]
    return {
        "asked": len(those),
        "right": sum(row["measured"] == motion for row in those),
        "measured": dict(sorted(Counter(row["measured"] for row in those).items())),
        "speed_asked": _average([row["speed_asked"] for row in those]),
        "speed_measured": _average([row["speed_measured"] for row in those]),
        "in_view": _average([row["in_view"][-1] for row in those]),
        "last_frame_psnr_db": average_db([row["seen_errors"][-1] for row in those]),
        "copy_last_frame_psnr_db": average_db([row["copy_errors"][-1] for row in those]),
        "oracle_last_frame_psnr_db": average_db([row["oracle_errors"][-1] for row in those]),
    }


def average_db(squared_errors: Sequence[float]) -> float | None:
    """Return the mean PSNR, in dB, of squared errors in grey levels; None where there are none."""
    return _average([psnr(error, most=MOST_DB) for error in squared_errors])


def average_frames(rows: Rows, errors: str) -> list[float | None]:
    """Return the mean PSNR of each frame, in dB, over the clips whose camera moves."""
    moving = [row[errors] for row in rows if row["asked"] != "static"]
    return [average_db(column) for column in zip(*moving, strict=True)]


def format_figures(found: Mapping[str, Any]) -> str:
    """Return the figures as text for people."""
    head = [
        f"{found['clips']} clips from {found['pictures']} pictures never trained on",
        f"frames through the autoencoder and back {found['autoencoder_psnr_db']:.1f} dB",
        f"{'without movers, in view':<24}{'model':>10}{'copy':>10}{'oracle':>10}{'bar':>10}{'with movers':>13}",
    ]
    missed = ", ".join(found["missed"]) or "none"
    return "\n".join([*head, *_format_bars(found), f"bars missed: {missed}", *_format_motions(found["by_motion"])])


def _format_bars(found: Mapping[str, Any]) -> list[str]:
    shown = {name: bar for name, bar in BARS.items() if name != "pictures"}
    return [
        f"  {name.removesuffix('_psnr_db').replace('_', ' '):<22}"
        + "".join(f"{_say(part[name], name):>10}" for part in (found, found["copy"], found["oracle"]))
        + f"{_say(bar, name):>10}{_say(found['with_movers'][name], name):>13}"
        for name, bar in shown.items()
    ]


def _format_motions(by_motion: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"  {motion:<10} {facts['right']:3d} of {facts['asked']:3d}   speed asked {facts['speed_asked']:.2f}, measured "
        f"{facts['speed_measured']:.2f}   last frame in view {facts['last_frame_psnr_db']:.1f} dB, copy "
        f"{facts['copy_last_frame_psnr_db']:.1f}   measured {json.dumps(facts['measured'])}"
        for motion, facts in by_motion.items()
    ]


def _say(figure: float | None, name: str) -> str:
    if figure is None:
        return "-"
    return f"{figure:.1f} dB" if name.endswith("_db") else f"{100 * figure:.0f} %"


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
