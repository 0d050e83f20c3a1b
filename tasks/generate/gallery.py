"""The gallery: one page with each picture, its takes with the chosen one first, what was asked and what was measured.

It is self-contained while it stays small: pictures and videos are embedded up to EMBED_LIMIT bytes in all, the chosen
takes before the others, and linked past that. It opens from disk, without a server.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup
from prefect import task

from models.measures.meters import LIMITS
from tasks.generate.job_columns import COLUMNS, In, in_
from tasks.generate.meter_columns import describe_length
from tasks.ledger import resolve_inside
from tasks.manifest import ManifestRef, publish_text, read_column_names, read_rows
from tasks.pages.page import embed_file, file_name, render
from tasks.pages.sparks import draw_spark

VERSION = 1

EMBED_LIMIT = 64_000_000

PAGE = Path("report/index.html")

TEMPLATE = Path(__file__).with_name("gallery.html.j2")

KINDS = {".mp4": "video/mp4", ".webp": "image/webp", ".gif": "image/gif"}

PLAYED = ("video/mp4",)
"""What a page plays and pauses; other moving pictures move by themselves."""

FIRST_PICTURE = "0001.png"

CURVES: Mapping[str, tuple[float, tuple[float, ...], str]] = {
    "sharpness": (1.5, (LIMITS.sharpness_min,), "against the first frame"),
    "colour": (LIMITS.colour_max * 1.25, (LIMITS.colour_max,), "gray levels from the picture"),
    "identity": (1.0, (LIMITS.identity_min,), "likeness to the picture"),
    "flicker": (LIMITS.flicker_max * 1.25, (LIMITS.flicker_max,), "gray levels from frame to frame"),
}
"""The meters that are drawn: the height of the curve, its limits, and its unit."""

NEEDS = ("job", "take", "name", "status", "stage", "image", "picture", "video", "motion_asked", "motion_measured",
         "strength_asked", "strength_measured", "camera_strength", "first_frame_psnr", "last_frame_psnr", "chosen",
         "score", "passed", "reasons", "good_until", "good_until_reason", "frames_kept",
         *(f"{name}_curve" for name in CURVES), *in_(In.OUTPUTS), "error_message")  # fmt: skip

SHOWN = {name: column for name, column in COLUMNS.items() if column.shown}
"""The settings of a clip that are said among its facts."""


@dataclass
class Embedder:
    """Turns files below `root` into URLs for a page in report/: data URIs up to `budget` bytes, links after."""

    root: Path
    budget: int = EMBED_LIMIT

    def url(self, name: str, kind: str) -> str:
        """Return the URL of the file `name`, of MIME type `kind`."""
        path = self.root / name
        size = path.stat().st_size
        if size > self.budget:
            return f"../{name}"
        self.budget -= size
        return embed_file(path, kind)


@dataclass
class Card:
    """A job on the page: its picture, if it has one, and the rows of its takes, the chosen one first."""

    picture_url: str | None
    takes: list[dict[str, Any]]

    @property
    def chosen(self) -> dict[str, Any]:
        """Return the take that is shown large."""
        return self.takes[0]

    @property
    def state(self) -> str:
        """Return what the page filters by, as words separated by spaces."""
        own = self.chosen
        passed = {True: "passed", False: "unpassed", None: ""}[own["passed"]]
        asked = own["motion_asked"]
        return f"{passed} {'' if asked is None else 'met' if asked == own['motion_measured'] else 'missed'}"

    @property
    def good_share(self) -> float:
        """Return the share of the chosen take's frames that are good."""
        return self.chosen["good_until"] / self.chosen["frames"] if self.chosen["good_until"] is not None else 0.0


def make_cards(root: Path, rows: Sequence[Mapping[str, Any]], embed_limit: int = EMBED_LIMIT) -> list[Card]:
    """Return a card for each job that has a clip."""
    url = Embedder(root, embed_limit).url
    made = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["job"])
    cards = []
    for _, group in groupby(made, key=lambda row: row["job"]):
        takes = sorted((dict(row) for row in group), key=lambda row: (not row["chosen"], row["take"]))
        picture = takes[0]["picture"]
        cards.append(Card(url(picture, "image/png") if picture else None, takes))
    for place in range(max((len(card.takes) for card in cards), default=0)):
        for take in (card.takes[place] for card in cards if place < len(card.takes)):
            name, kind = find_shown_file(root, take["video"])
            shown = {"video_url": url(name, kind), "plays": kind in PLAYED, "is_first": name != take["video"]}
            take |= {
                **shown,
                "sparks": list(make_sparks(take)),
                "facts": list(list_facts(take)),
                "why": list_reasons(take),
            }
    return cards


def list_reasons(row: Mapping[str, Any]) -> list[str]:
    """Return why a take does not pass, except for where it stops being good, which is shown with its meters."""
    return [reason for reason in row["reasons"] or () if reason != describe_length(row["good_until"], row["frames"])]


def list_facts(row: Mapping[str, Any]) -> Iterator[Markup]:
    """Return each setting of a clip that the page shows, a file by its name alone."""
    for name, column in SHOWN.items():
        value = row[name]
        if value is not None and value != row.get(column.follows or ""):
            text = f"{value:g}" if isinstance(value, float) else file_name(str(value))
            yield Markup(column.said(value)).format(text)  # noqa: S704


def check_files(root: Path, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row; marked as failed where its clip or its picture was removed since."""
    if row["status"] != "ok":
        return row
    shown = (find_shown_file(root, row["video"])[0], row["picture"])
    gone = next((name for name in shown if name and not resolve_inside(root, name).is_file()), None)
    if gone is None:
        return row
    said = f"{gone}: is not there any more; the same command makes it again."
    return {**row, "status": "failed", "stage": "page", "error_message": said, "chosen": None, "first_frame_psnr": None}


def find_shown_file(root: Path, video: str) -> tuple[str, str]:
    """Return the file that shows a clip on the page, and its MIME type: for a folder of pictures, the first."""
    if resolve_inside(root, video).is_dir():
        return f"{video}/{FIRST_PICTURE}", "image/png"
    return video, KINDS[Path(video).suffix]


def make_sparks(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Markup]]:
    """Return each meter of a clip that was measured: its name, its last value and its curve."""
    for name, (top, limits, unit) in CURVES.items():
        values = row[f"{name}_curve"]
        if values:
            said = f"{name}, {unit}: from {values[0]:.2f} to {values[-1]:.2f} over {len(values)} frames"
            yield name, f"{values[-1]:.2f}", draw_spark(values, top, said, limits, row["good_until"])


def compare_motions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each motion asked for: how many chosen clips, in how many it was measured, how fast, and what
    instead."""
    table = []
    clips = [row for row in rows if row["status"] == "ok" and row["motion_asked"] and row["chosen"] is not False]
    for motion in sorted({row["motion_asked"] for row in clips}):
        those = [row for row in clips if row["motion_asked"] == motion]
        seen = Counter(row["motion_measured"] for row in those)
        speeds = {
            f"speed_{end}": _find_median(row[f"strength_{end}"] for row in those) for end in ("asked", "measured")
        }
        met = seen.pop(motion, 0)
        table.append({"motion": motion, "clips": len(those), "met": met, "others": seen.most_common(), **speeds})
    return table


def make_figures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the page's headline: names, values and the text beside them."""
    states = Counter(row["status"] for row in rows)
    sharp = [row["first_frame_psnr"] for row in rows if row["first_frame_psnr"] is not None]
    chosen = [row for row in rows if row["chosen"]]
    motions = compare_motions(rows)
    asked, met = sum(m["clips"] for m in motions), sum(m["met"] for m in motions)
    shown = [("clips", str(states["ok"]), ""), ("failed", str(states["failed"]), "")]
    if states["duplicate"]:
        shown.append(("duplicates", str(states["duplicate"]), ""))
    if chosen:
        shown.append(("pass the gate", str(sum(row["passed"] for row in chosen)), f"of {len(chosen)}"))
    if asked:
        shown.append(("motion as asked", str(met), f"of {asked}"))
    if sharp:
        shown.append(("first frame, mean", f"{sum(sharp) / len(sharp):.1f}", "dB"))
    return shown


def render_gallery(root: Path, rows: Sequence[Mapping[str, Any]], embed_limit: int = EMBED_LIMIT) -> str:
    """Render the page for the rows of outputs.parquet below `root`."""
    rows = [check_files(root, row) for row in rows]
    cards = make_cards(root, rows, embed_limit)
    return render(
        TEMPLATE,
        figures=make_figures(rows),
        motions=compare_motions(rows),
        cards=cards,
        plays=any(take["plays"] for card in cards for take in card.takes),
        others=[row for row in rows if row["status"] != "ok"],
    )


@task(name="gallery")
def write_gallery(root: Path, outputs: ManifestRef) -> Path:
    """Write the page of a run; return its path."""
    there = set(read_column_names(outputs))
    rows = read_rows(outputs, [name for name in NEEDS if name in there])
    publish_text(root / PAGE, render_gallery(root, [dict.fromkeys(NEEDS) | row for row in rows]))
    return root / PAGE


def _find_median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
